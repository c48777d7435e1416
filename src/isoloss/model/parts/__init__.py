"""Parts of a transformer block, one file each: a forward pass over the member axis, by the run's settings.

Letters of shapes: E members of a stack, B sequences, T tokens of a sequence, N = B·T, C channels (n_embd), H heads,
D channels of a head, G = E·B·H, F hidden channels of the MLP, V the vocabulary, W the vocabulary and its padding.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import pairwise
from typing import Protocol

import torch
from torch import Tensor

from isoloss.model.dropout import Mask
from isoloss.model.functions import Kernels
from isoloss.model.operations import Linear
from isoloss.study.config import RunConfig
from isoloss.study.parametrization import Scales, scales
from isoloss.study.parts import function_of, position_of


class KeysAndValues(Protocol):
    """Keys and values of the tokens that were read before, where sampling keeps them."""

    length: int
    """Tokens read before."""

    def extended(self, block: int, k_GxTxD: Tensor, v_GxTxD: Tensor) -> tuple[Tensor, Tensor]:
        """Those of a block with the new tokens' behind them."""
        ...


@dataclass(frozen=True)
class ForwardPass:
    """What every part reads: the stack's members and weights, its dropout masks, and how to compute."""

    members: Sequence[RunConfig]
    weights: Mapping[str, Tensor]
    kernels: Kernels
    tokens_ExBxT: Tensor
    masks: Sequence[Mask] | None = None
    """One for each site of dropout; None where no member has any."""
    read_before: KeysAndValues | None = None

    @property
    def config(self) -> RunConfig:
        """A member; in what decides shapes all are alike."""
        return self.members[0]

    @cached_property
    def scales(self) -> Scales:
        """The factors of the parametrization that all members share; attention's, by n_head, is in `head_groups`."""
        return scales(self.config)

    @cached_property
    def head_groups(self) -> list[tuple[slice, RunConfig, float]]:
        """Slices of neighbouring members that share n_head, with the first of them and what scores are scaled by."""
        members = self.members
        starts = [i for i, config in enumerate(members) if i == 0 or config.n_head != members[i - 1].n_head]
        return [(slice(a, b), members[a], scales(members[a]).attention) for a, b in pairwise([*starts, len(members)])]

    @cached_property
    def rotations(self) -> dict[int, Tensor]:
        """By the size of a head, what queries and keys are rotated by; none where they are not."""
        if (rotation := position_of(self.config.position).rotation) is None:
            return {}
        sizes = {config.n_embd // config.n_head for config in self.members}
        return {size: function_of(rotation)(self.positions_T, size) for size in sizes}

    @cached_property
    def position_rows(self) -> Tensor | None:
        """What is added to the embedding that is no weight, fp32 of shape [T, C]; None where nothing is."""
        rows = position_of(self.config.position).rows
        return None if rows is None else function_of(rows)(self.positions_T, self.config.n_embd)

    def score_bias(self, n_head: int, n_keys: int) -> Tensor | None:
        """What is added to the scaled scores of each head, fp32 of shape [H, T, n_keys]; None where nothing is."""
        if (bias := position_of(self.config.position).bias) is None:
            return None
        keys = torch.arange(n_keys, device=self.tokens_ExBxT.device)
        return function_of(bias)(self.positions_T[:, None] - keys, n_head)

    @property
    def n_rows(self) -> int:
        """B, the number of sequences."""
        return self.tokens_ExBxT.shape[1]

    @property
    def positions(self) -> slice:
        """Positions of the tokens given."""
        first = self.read_before.length if self.read_before else 0
        return slice(first, first + self.tokens_ExBxT.shape[2])

    @cached_property
    def positions_T(self) -> Tensor:
        """The same as numbers, on the tokens' device."""
        return torch.arange(self.positions.start, self.positions.stop, device=self.tokens_ExBxT.device)

    def mask(self, place: int) -> Mask | None:
        """The mask of a site of dropout."""
        return self.masks[place] if self.masks else None

    def linear(self, name: str) -> Linear:
        """The linear layer of this name."""
        return Linear(self.weights[f"{name}.weight"], self.weights.get(f"{name}.bias"))
