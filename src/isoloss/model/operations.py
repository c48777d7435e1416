"""Operations with backward passes of their own: what they are, and the linear layer.

Each is made for one use, keeps what its backward pass needs, and writes the gradients of weights to their `.grad`.
"""

from __future__ import annotations

from abc import ABC, abstractmethod

import torch
from torch import Tensor


class Operation(ABC):
    """What happens to the residual stream and to a block's branch."""

    @abstractmethod
    def forward(self, stream: Tensor, branch: Tensor) -> tuple[Tensor, Tensor]:
        """Both after the operation."""

    @abstractmethod
    def backward(self, grad_stream: Tensor | None, grad: Tensor) -> tuple[Tensor | None, Tensor | None]:
        """The gradients of both from those of the results, whose memory may be reused; None where there is none."""


class OnBranch(Operation):
    """An operation that leaves the residual stream as it is."""

    def forward(self, stream: Tensor, branch: Tensor) -> tuple[Tensor, Tensor]:
        """The stream as it is, and the branch after the operation."""
        return stream, self.branch(branch)

    def backward(self, grad_stream: Tensor | None, grad: Tensor) -> tuple[Tensor | None, Tensor | None]:
        """The stream's gradient as it is, and the branch's."""
        return grad_stream, self.branch_backward(grad)

    @abstractmethod
    def branch(self, x: Tensor, /) -> Tensor:
        """The branch after the operation."""

    @abstractmethod
    def branch_backward(self, grad: Tensor, /) -> Tensor:
        """The gradient of x from that of the result."""


class Linear(OnBranch):
    """x·Wᵀ + b for every member, from [E, N, I] to [E, N, O], in x's dtype."""

    def __init__(self, weight_ExOxI: Tensor, bias_ExO: Tensor | None = None) -> None:
        self._weight_ExOxI, self._bias_ExO = weight_ExOxI, bias_ExO

    def branch(self, x_ExNxI: Tensor) -> Tensor:
        """Through the layer."""
        self._x_ExNxI, bias_ExO = x_ExNxI, self._bias_ExO
        y_ExNxO = _product(x_ExNxI, self._weight_ExOxI.transpose(1, 2))
        return y_ExNxO if bias_ExO is None else y_ExNxO + bias_ExO[:, None].to(y_ExNxO.dtype)

    def branch_backward(self, grad_ExNxO: Tensor) -> Tensor:
        """The gradient of x."""
        _product(grad_ExNxO.transpose(1, 2), self._x_ExNxI, self._weight_ExOxI.grad)
        if self._bias_ExO is not None:
            torch.sum(grad_ExNxO, dim=1, dtype=torch.float32, out=self._bias_ExO.grad)
        return _product(grad_ExNxO, self._weight_ExOxI)


def _product(a_ExNxI: Tensor, b_ExIxO: Tensor, out_ExNxO: Tensor | None = None) -> Tensor:
    """a·b for every member; one member's product goes to mm, which oneDNN multiplies faster than a batch of one."""
    if a_ExNxI.shape[0] > 1:
        return torch.bmm(a_ExNxI, b_ExIxO, out=out_ExNxO)
    out_NxO = None if out_ExNxO is None else out_ExNxO.select(0, 0)
    return torch.mm(a_ExNxI.select(0, 0), b_ExIxO.select(0, 0), out=out_NxO).unsqueeze(0)
