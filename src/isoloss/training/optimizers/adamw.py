"""AdamW (Loshchilov & Hutter 2019): decoupled weight decay of matrices and embeddings."""

from __future__ import annotations

from typing import NamedTuple

from torch import Tensor
from torch.optim.adamw import adamw as adamw_of_torch

from isoloss.model.native import Native

EPS = 1e-8


class Update(NamedTuple):
    """What one member's AdamW update reads and writes.

    The gradient is divided by `divisor`; with `skipped` 1 nothing is updated or counted. `low_M` is the low-precision
    copy of the first M parameters (empty in fp32). `counts_2` holds the number of updates so far, once for the decayed
    parameters and once for the others.
    """

    flat_P: Tensor
    grad_P: Tensor
    exp_avg_P: Tensor
    exp_avg_sq_P: Tensor
    low_M: Tensor
    decay_end: int
    counts_2: Tensor
    lr: Tensor
    divisor: Tensor
    skipped: Tensor
    beta1: float
    beta2: float
    weight_decay: float


def adamw(native: Native | None, update: Update) -> None:
    """One update of one member in place, and of its low-precision copy."""
    if native is not None:
        _adamw_native(native, update)
        return
    parts = ((slice(0, update.decay_end), update.weight_decay), (slice(update.decay_end, None), 0.0))
    for count, (part, decay) in zip(update.counts_2.split(1), parts, strict=True):
        adamw_of_torch(
            [update.flat_P[part]],
            [update.grad_P[part]],
            [update.exp_avg_P[part]],
            [update.exp_avg_sq_P[part]],
            [],
            [count[0]],
            fused=True,
            grad_scale=update.divisor,
            found_inf=update.skipped,
            amsgrad=False,
            beta1=update.beta1,
            beta2=update.beta2,
            lr=update.lr,
            weight_decay=decay,
            eps=EPS,
            maximize=False,
        )
    update.low_M.copy_(update.flat_P[: len(update.low_M)])


def _adamw_native(native: Native, update: Update) -> None:
    if update.skipped.item():
        return
    update.counts_2.add_(1)
    ends = [len(update.low_M), update.decay_end, len(update.flat_P)]
    tensors = (update.flat_P, update.exp_avg_P, update.exp_avg_sq_P, update.grad_P)
    numbers = update.divisor.item(), update.lr.item(), update.beta1, update.beta2, EPS
    for first, last in zip([0, *ends[:-1]], ends, strict=True):
        arrays = [tensor[first:last].data_ptr() for tensor in tensors]
        low = update.low_M.data_ptr() if first < len(update.low_M) else None
        decay = update.weight_decay if first < update.decay_end else 0.0
        native.call["adamw"](last - first, *arrays, low, *numbers, decay, update.counts_2[0].item())
