"""Matrix products over a leading member axis E, forward and backward: each member has its own weights."""

from __future__ import annotations

import torch
from torch import Tensor


def product(a_ExNxI: Tensor, b_ExIxO: Tensor, out_ExNxO: Tensor | None = None) -> Tensor:
    """a·b for every member; one member's product goes to mm, which oneDNN multiplies faster than a batch of one."""
    if a_ExNxI.shape[0] > 1:
        return torch.bmm(a_ExNxI, b_ExIxO, out=out_ExNxO)
    out_NxO = None if out_ExNxO is None else out_ExNxO.select(0, 0)
    return torch.mm(a_ExNxI.select(0, 0), b_ExIxO.select(0, 0), out=out_NxO).unsqueeze(0)


def linear(x_ExNxI: Tensor, weight_ExOxI: Tensor, bias_ExO: Tensor | None = None) -> Tensor:
    """x·Wᵀ + b for every member, shape [E, N, O], in x's dtype."""
    y_ExNxO = product(x_ExNxI, weight_ExOxI.transpose(1, 2))
    return y_ExNxO if bias_ExO is None else y_ExNxO + bias_ExO[:, None].to(y_ExNxO.dtype)


def linear_backward(
    grad_ExNxO: Tensor,
    x_ExNxI: Tensor,
    weight_ExOxI: Tensor,
    grad_weight_ExOxI: Tensor,
    grad_bias_ExO: Tensor | None = None,
) -> Tensor:
    """Gradient of `linear`'s x, shape [E, N, I]; sets those of its weight and bias."""
    product(grad_ExNxO.transpose(1, 2), x_ExNxI, grad_weight_ExOxI)
    if grad_bias_ExO is not None:
        torch.sum(grad_ExNxO, dim=1, dtype=torch.float32, out=grad_bias_ExO)
    return product(grad_ExNxO, weight_ExOxI)
