"""AdamW (Loshchilov & Hutter 2019): decoupled weight decay of matrices and embeddings."""

from __future__ import annotations

import torch
from torch import Tensor

from isoloss.model.native import Native
from isoloss.study.parametrization import scales
from isoloss.training.optimizers.update import Update

EPS = 1e-8


def step(update: Update, first: int = 0) -> None:
    """Update every member's parameters from `first` in the flat order on; its count with them."""
    if (native := update.parameters.kernels.native) is None:
        _step(update, first)
        return
    for e in range(len(update.members)):
        if not update.skipped_E[e].item():
            _step_native(native, update, e, first)


def _ranges(update: Update, e: int, first: int) -> list[tuple[slice, float, float]]:
    """Ranges of the flat order from `first` on, with their weight decay and what the learning rate is times there."""
    layout, decay, scale = update.parameters.layout, update.members[e].weight_decay, scales(update.members[e])
    parts = [(slice(first, layout.decay_end), decay, 1.0), (slice(layout.decay_end, layout.size), 0.0, 1.0)]
    if first == 0 and (scale.matrix_rate, scale.matrix_decay) != (1, 1):
        matrices = slice(0, layout.matrix_end), decay * scale.matrix_decay, scale.matrix_rate
        parts[:1] = [matrices, (slice(layout.matrix_end, layout.decay_end), decay, 1.0)]
    return parts


def _step(update: Update, first: int) -> None:
    """By torch's fused kernel, one launch for each member and range; everything else is one launch for all members."""
    parameters, counts_Ex2 = update.parameters, update.counts_Ex2.add_(1)
    for e, config in enumerate(update.members):
        flats = parameters.flat_ExP[e], update.grad_ExP[e], *(moment_ExP[e] for moment_ExP in update.moments.values())
        for part, decay, rate in _ranges(update, e, first):
            torch._fused_adamw_(
                *([flat_P[part]] for flat_P in flats),
                [],
                [counts_Ex2[e, 0]],
                lr=update.lr_E[e] * rate if rate != 1 else update.lr_E[e],
                beta1=config.beta1,
                beta2=config.beta2,
                weight_decay=decay,
                eps=EPS,
                amsgrad=False,
                maximize=False,
                grad_scale=update.divisor_E[e],
                found_inf=update.skipped_E[e],
            )
    counts_Ex2.sub_(update.skipped_E[:, None])
    if parameters.low_precision:
        parameters.low_ExM[:, first:].copy_(parameters.flat_ExP[:, first : parameters.low_ExM.shape[1]])


def _step_native(native: Native, update: Update, e: int, first: int) -> None:
    parameters, config = update.parameters, update.members[e]
    update.counts_Ex2[e].add_(1)
    low_end = parameters.low_ExM.shape[1] if parameters.low_precision else first
    exp_avg_ExP, exp_avg_sq_ExP = update.moments.values()
    flats: list[Tensor] = [parameters.flat_ExP[e], exp_avg_ExP[e], exp_avg_sq_ExP[e], update.grad_ExP[e]]
    divisor, lr, count = update.divisor_E[e].item(), update.lr_E[e].item(), update.counts_Ex2[e, 0].item()
    for part, decay, rate in _ranges(update, e, first):
        middle = min(max(low_end, part.start), part.stop)  # what lies below has a low-precision copy
        for start, stop in ((part.start, middle), (middle, part.stop)):
            arrays = [flat_P[start:stop].data_ptr() for flat_P in flats]
            low = parameters.low_ExM[e, start:].data_ptr() if start < low_end else None
            numbers = divisor, lr * rate, config.beta1, config.beta2, EPS, decay, count
            native.call["adamw"](stop - start, *arrays, low, *numbers)
