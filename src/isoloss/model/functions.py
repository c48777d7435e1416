"""What parts of the model are made of: operations over a member axis, fused where the native library has them.

Elsewhere they are plain torch, which autograd differentiates. A `mask` of None means no dropout.
"""

# pyright: reportIncompatibleMethodOverride=false, reportUnknownMemberType=false

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.autograd import Function

from isoloss.model import native
from isoloss.model.dropout import Mask
from isoloss.model.native import Native
from isoloss.model.operations import Operation


@dataclass(frozen=True)
class Kernels:
    """How operations compute: matrix products in `dtype`, and the others by the native library where there is one."""

    dtype: torch.dtype
    native: Native | None = None

    @property
    def name(self) -> str:
        """Part of a run's numerics."""
        return "torch autograd" if self.native is None else self.native.name


Step = Operation | Callable[[Tensor, Tensor], tuple[Tensor, Tensor]]
"""What happens to the residual stream and a block's branch: a fused operation, or plain torch."""


class _Fused(Function):
    """Operations with backward passes of their own, as one node of autograd's graph: each node costs some 50 µs."""

    @staticmethod
    def forward(ctx: Any, stream: Tensor, branch: Tensor, *operations: Operation) -> tuple[Tensor, Tensor]:
        ctx.set_materialize_grads(False)
        ctx.operations = operations
        for operation in operations:
            stream, branch = operation.forward(stream, branch)
        return stream, branch

    @staticmethod
    def backward(ctx: Any, grad_stream: Tensor | None, grad: Tensor | None) -> tuple[Tensor | None, ...]:
        n, operations = len(ctx.operations), list(ctx.operations)
        ctx.operations = ()
        while operations:  # what each kept is freed behind it
            grad_stream, grad = operations.pop().backward(grad_stream, grad)
        return grad_stream, grad, *(None for _ in range(n))


class _Read(Function):
    """Adds the gradient of a weight to its `.grad`, which may lie strided in a stack's buffer."""

    @staticmethod
    def forward(ctx: Any, weight: Tensor) -> Tensor:
        ctx.weight = weight
        return weight.detach()

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> None:
        ctx.weight.grad += grad


class _Dropped(Function):
    """Draws the mask again in the backward pass, in place of keeping it."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, mask: Mask, shape: tuple[int, ...]) -> Tensor:
        ctx.mask, ctx.shape = mask, shape
        return x * mask.multipliers(shape).view(x.shape)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None, None]:
        return grad * ctx.mask.multipliers(ctx.shape).view(grad.shape), None, None


def through(stream: Tensor, branch: Tensor, steps: Iterable[Step]) -> tuple[Tensor, Tensor]:
    """The residual stream and the branch after some steps; fused ones that follow each other are one node.

    Without gradients each step is forgotten before the next is made, and with it what it keeps for a backward pass.
    """
    if not torch.is_grad_enabled():
        for step in steps:
            stream, branch = step.forward(stream, branch) if isinstance(step, Operation) else step(stream, branch)
        return stream, branch
    fused: list[Operation] = []
    for step in [*steps, None]:
        if isinstance(step, Operation):
            fused.append(step)
            continue
        if fused:
            stream, branch = _Fused.apply(stream, branch, *fused)  # type: ignore[assignment]
            fused = []
        if step is not None:
            stream, branch = step(stream, branch)
    return stream, branch


def scaled(factor: float) -> list[Step]:
    """The branch times a factor; no step where that is 1."""
    return [] if factor == 1 else [lambda stream, branch: (stream, branch * factor)]


def read(weight: Tensor) -> Tensor:
    """A weight for plain torch to compute with."""
    return _Read.apply(weight)  # type: ignore[return-value]


def dropped(x: Tensor, mask: Mask | None, shape: tuple[int, ...]) -> Tensor:
    """x times a mask of `shape` for every member, of which the first axis is sequences."""
    return x if mask is None else _Dropped.apply(x, mask, shape)  # type: ignore[return-value]


def cross_entropy(
    kernels: Kernels, logits_ExNxW: Tensor, targets_ExN: Tensor, vocab_size: int, scale_E: Tensor | None
) -> tuple[Tensor, Tensor]:
    """Sum over N of each member's losses, fp32 of shape [E], and the logits' gradient of that times `scale_E`.

    Only the first `vocab_size` columns count; the others get no gradient. Without a scale the second is undefined.
    May reuse the memory of the logits. Not seen by autograd: a backward pass begins with the gradient returned.
    """
    if kernels.native is not None:
        logits_ExNxW = logits_ExNxW.detach()
        return native.cross_entropy(kernels.native, logits_ExNxW, targets_ExN, vocab_size, scale_E), logits_ExNxW
    logits = logits_ExNxW.detach().to(torch.float32, copy=True)
    logits[..., vocab_size:].fill_(float("-inf"))  # assigned, it would be a tensor of the CPU first
    log_probs = torch.log_softmax(logits, dim=-1)
    targets_ExNx1 = targets_ExN[..., None]
    loss_E = -log_probs.gather(2, targets_ExNx1).sum(dim=(1, 2))
    if scale_E is None:
        return loss_E, logits_ExNxW
    grad = log_probs.exp_()
    grad.scatter_add_(2, targets_ExNx1, torch.full_like(targets_ExNx1, -1.0, dtype=grad.dtype))
    return loss_E, (grad * scale_E[:, None, None]).to(logits_ExNxW.dtype)


def token_losses(logits_ExNxW: Tensor, targets_ExN: Tensor, vocab_size: int) -> Tensor:
    """The loss of every target in nats, fp32 of shape [E, N]; the logits stay as they are. Not for training."""
    logits_NxV = logits_ExNxW.detach()[..., :vocab_size].float().flatten(0, 1)
    losses_N = torch.nn.functional.cross_entropy(logits_NxV, targets_ExN.flatten(), reduction="none")
    return losses_N.view(targets_ExN.shape)
