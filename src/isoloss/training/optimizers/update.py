"""What an optimizer's update of a stack reads and writes."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from isoloss.model.parameters import Parameters
from isoloss.study.config import RunConfig
from isoloss.study.parametrization import scales


@dataclass(frozen=True)
class Update:
    """One update of every member, in place: of its weights, their low-precision copy and its moments.

    Gradients are divided by `divisor_E`; a member with `skipped_E` 1 stays as it is and is not counted. `counts_Ex2`
    has the updates so far, once for the decayed parameters and once for the others; `decay_E` is each member's weight
    decay. Nothing in it may wait for an accelerator.
    """

    members: Sequence[RunConfig]
    parameters: Parameters
    grad_ExP: Tensor
    moments: Mapping[str, Tensor]
    counts_Ex2: Tensor
    lr_E: Tensor
    divisor_E: Tensor
    skipped_E: Tensor
    decay_E: Tensor

    @property
    def scaled_ExP(self) -> Tensor:
        """The gradients over their divisors."""
        return self.grad_ExP / self.divisor_E[:, None]

    def decay_ExP(self) -> Tensor:
        """Each parameter's weight decay: that of its member up to the layout's decay_end, 0 after it."""
        layout, decay_ExP = self.parameters.layout, torch.zeros_like(self.grad_ExP)
        decay_ExP[:, : layout.decay_end] = self.decay_E[:, None]
        decay_ExP[:, : layout.matrix_end] *= scales(self.members[0]).matrix_decay
        return decay_ExP

    def lr_ExP(self) -> Tensor:
        """Each parameter's learning rate: its member's, and of matrices what the parametrization makes of it."""
        lr_ExP = self.lr_E[:, None].expand_as(self.grad_ExP).clone()
        lr_ExP[:, : self.parameters.layout.matrix_end] *= scales(self.members[0]).matrix_rate
        return lr_ExP

    def put(self, old: Tensor, new: Tensor) -> None:
        """Write `new` over `old`, both [E, …], for members that are not skipped."""
        kept = self.skipped_E.view(-1, *(1 for _ in old.shape[1:])) > 0
        old.copy_(torch.where(kept, old, new))

    def finish(self) -> None:
        """Renew the low-precision copy, and count."""
        if self.parameters.low_precision:
            self.parameters.low_ExM.copy_(self.parameters.flat_ExP[:, : self.parameters.low_ExM.shape[1]])
        self.counts_Ex2.add_((1 - self.skipped_E)[:, None])
