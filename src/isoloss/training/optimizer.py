"""AdamW with decoupled decay (Loshchilov & Hutter 2019), clipped by each member's own global norm."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor
from torch.optim.adamw import adamw

from isoloss.spec.config import RunConfig

EPS = 1e-8


def clip_divisors(members: Sequence[RunConfig], norms_E: Tensor) -> Tensor:
    """What each member's gradient is divided by so that its norm is at most its grad_clip (0: never), shape [E]."""
    limits_E = torch.tensor([config.grad_clip or float("inf") for config in members], device=norms_E.device)
    return ((norms_E + 1e-6) / limits_E).clamp(min=1.0)


def adamw_step(
    flat_ExP: Tensor,
    grad_ExP: Tensor,
    exp_avg_ExP: Tensor,
    exp_avg_sq_ExP: Tensor,
    *,
    members: Sequence[RunConfig],
    decay_end: int,
    updates: Sequence[int],
    rates: Sequence[float],
    divisors_E: Tensor,
    skipped_E: Tensor,
) -> None:
    """One AdamW update in place, member by member; only the first `decay_end` parameters are decayed.

    Gradients are divided by `divisors_E` on the way. Members marked 1 in `skipped_E` (fp16 overflow) are left alone;
    `updates` counts each member's updates so far.
    """
    for e, config in enumerate(members):
        for part, decay in ((slice(0, decay_end), config.weight_decay), (slice(decay_end, None), 0.0)):
            adamw(
                [flat_ExP[e, part]],
                [grad_ExP[e, part]],
                [exp_avg_ExP[e, part]],
                [exp_avg_sq_ExP[e, part]],
                [],
                [torch.tensor(float(updates[e]), device=flat_ExP.device)],
                fused=True,
                grad_scale=divisors_E[e],
                found_inf=skipped_E[e],
                amsgrad=False,
                beta1=config.beta1,
                beta2=config.beta2,
                lr=rates[e],
                weight_decay=decay,
                eps=EPS,
                maximize=False,
            )
