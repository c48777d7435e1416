"""Dynamic loss scaling for fp16, one scale a member: halved on overflow, doubled after many steps without one."""

from __future__ import annotations

from dataclasses import replace

from isoloss.study.config import RunConfig
from isoloss.training.state import Progress

GROWTH_INTERVAL_STEPS = 2000
MIN_LOSS_SCALE = 2.0**-14


def after_step(progress: Progress, config: RunConfig, elapsed_s: float, *, overflowed: bool) -> Progress:
    """A member's progress one step on; a step whose gradient overflowed changed no weights."""
    progress = replace(progress, step=progress.step + 1, train_time_s=progress.train_time_s + elapsed_s)
    if overflowed:
        scale = progress.loss_scale / 2 if config.precision == "fp16" else progress.loss_scale
        return replace(progress, loss_scale=scale, steps_since_overflow=0)
    progress = replace(progress, updates=progress.updates + 1, steps_since_overflow=progress.steps_since_overflow + 1)
    if config.precision == "fp16" and progress.steps_since_overflow == GROWTH_INTERVAL_STEPS:
        return replace(progress, loss_scale=progress.loss_scale * 2, steps_since_overflow=0)
    return progress


def overflow_is_fatal(progress: Progress, config: RunConfig) -> bool:
    """Whether a gradient that is not finite means divergence: always, but for fp16 whose scale can still fall."""
    return config.precision != "fp16" or progress.loss_scale < MIN_LOSS_SCALE
