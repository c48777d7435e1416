"""AdamW (Loshchilov & Hutter 2019): decoupled weight decay of matrices and embeddings."""

from __future__ import annotations

from torch import Tensor
from torch.optim.adamw import adamw

from isoloss.model.native import Native
from isoloss.training.optimizers.update import Update

EPS = 1e-8


def step(update: Update, first: int = 0) -> None:
    """Update every member's parameters from `first` in the flat order on; its count with them."""
    native = update.parameters.kernels.native
    for e in range(len(update.members)):
        if native is None:
            _step(update, e, first)
        elif not update.skipped_E[e].item():
            _step_native(native, update, e, first)


def _parts(update: Update, e: int, first: int) -> list[tuple[slice, float]]:
    """Ranges of the flat order, without those before `first`, and their weight decay."""
    decay_end, decay = update.parameters.layout.decay_end, update.members[e].weight_decay
    return [(slice(first, decay_end), decay), (slice(decay_end, None), 0.0)]


def _step(update: Update, e: int, first: int) -> None:
    parameters, config = update.parameters, update.members[e]
    flats = parameters.flat_ExP[e], update.grad_ExP[e], *(moment_ExP[e] for moment_ExP in update.moments.values())
    for count, (part, decay) in zip(update.counts_Ex2[e].split(1), _parts(update, e, first), strict=True):
        weight, grad, exp_avg, exp_avg_sq = ([flat_P[part]] for flat_P in flats)
        adamw(
            weight,
            grad,
            exp_avg,
            exp_avg_sq,
            [],
            [count[0]],
            fused=True,
            grad_scale=update.divisor_E[e],
            found_inf=update.skipped_E[e],
            amsgrad=False,
            beta1=config.beta1,
            beta2=config.beta2,
            lr=update.lr_E[e],
            weight_decay=decay,
            eps=EPS,
            maximize=False,
        )
    if parameters.low_precision:
        parameters.low_ExM[e, first:].copy_(parameters.flat_ExP[e, first : parameters.low_ExM.shape[1]])


def _step_native(native: Native, update: Update, e: int, first: int) -> None:
    parameters, config = update.parameters, update.members[e]
    update.counts_Ex2[e].add_(1)
    low_end = parameters.low_ExM.shape[1] if parameters.low_precision else first
    exp_avg_ExP, exp_avg_sq_ExP = update.moments.values()
    flats: list[Tensor] = [parameters.flat_ExP[e], exp_avg_ExP[e], exp_avg_sq_ExP[e], update.grad_ExP[e]]
    numbers = update.divisor_E[e].item(), update.lr_E[e].item(), config.beta1, config.beta2, EPS
    ends = [low_end, parameters.layout.decay_end, parameters.layout.size]
    for start, stop in zip([first, *ends[:-1]], ends, strict=True):
        arrays = [flat_P[start:stop].data_ptr() for flat_P in flats]
        low = parameters.low_ExM[e, start:].data_ptr() if start < low_end else None
        decay = config.weight_decay if start < parameters.layout.decay_end else 0.0
        native.call["adamw"](stop - start, *arrays, low, *numbers, decay, update.counts_Ex2[e, 0].item())
