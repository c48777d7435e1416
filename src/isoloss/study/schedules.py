"""Schedules of the learning rate: what each reads of a run's settings, and its rate at every step."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from math import cos, pi, sqrt
from typing import Any

from isoloss.study.config import DecayShape, RunConfig, Schedule

_DECAY = ("warmup_iters", "lr_decay_iters", "min_lr")
READS: Mapping[Schedule, tuple[str, ...]] = {
    "cosine": _DECAY,
    "linear": _DECAY,
    "constant": ("warmup_iters",),
    "wsd": (*_DECAY, "decay_share", "decay_shape"),
    "inverse_sqrt": ("warmup_iters",),
}
"""Settings that a schedule reads beside learning_rate."""
SCHEDULE_FIELDS = READS["wsd"]
"""All of them."""


def settings_read(config: RunConfig) -> tuple[str, ...]:
    """Those that a run's rate depends on; with decay_lr false none, the rate is learning_rate from the first step."""
    return READS[config.schedule] if config.decay_lr else ()


def as_read(config: RunConfig) -> dict[str, Any]:
    """SCHEDULE_FIELDS as equal schedules spell them: None where nothing reads one, the horizon as a number."""
    read = settings_read(config)
    values = {name: getattr(config, name) if name in read else None for name in SCHEDULE_FIELDS}
    return values | ({"lr_decay_iters": config.decay_horizon} if "lr_decay_iters" in read else {})


def decays(config: RunConfig) -> bool:
    """Whether the rate falls to min_lr at a horizon."""
    return "lr_decay_iters" in settings_read(config)


def decay_start(config: RunConfig) -> float:
    """The step from which a decaying rate falls: the end of its warm-up, or of what wsd keeps stable."""
    if config.schedule == "wsd":
        return round(config.decay_horizon * (1 - config.decay_share), 6)  # 10 * (1 - 0.9) is 1
    return config.warmup_iters


def learning_rate(config: RunConfig, step: int) -> float:
    """Learning rate of the update made at `step` (0-based).

    It rises as lr·(step+1)/(warmup_iters+1), nanoGPT's warm-up. Sources: the cosine of Loshchilov & Hutter 2017 as in
    nanoGPT; warm-up, stable, decay of Hu et al. 2024, its decay 1-sqrt of Hägele et al. 2024; the inverse square root
    of Vaswani et al. 2017, counted from the end of warm-up.
    """
    if not config.decay_lr:
        return config.learning_rate
    if step < config.warmup_iters:
        return config.learning_rate * (step + 1) / (config.warmup_iters + 1)
    if config.schedule == "constant":
        return config.learning_rate
    if config.schedule == "inverse_sqrt":
        return config.learning_rate * sqrt((config.warmup_iters + 1) / (step + 1))
    if step >= config.decay_horizon:
        return config.min_lr
    start = decay_start(config)
    if step < start:
        return config.learning_rate
    progress = (step - start) / (config.decay_horizon - start)
    shape: DecayShape = config.decay_shape
    if config.schedule != "wsd":
        shape = "cosine" if config.schedule == "cosine" else "linear"
    return config.min_lr + _LEFT[shape](progress) * (config.learning_rate - config.min_lr)


_LEFT: Mapping[DecayShape, Callable[[float], float]] = {
    "linear": lambda progress: 1 - progress,
    "1-sqrt": lambda progress: 1 - sqrt(progress),
    "cosine": lambda progress: 0.5 * (1 + cos(pi * progress)),
}
"""What is left of the way to min_lr, by the part of the decay that is behind."""


def agreed_steps(a: RunConfig, b: RunConfig) -> int:
    """How many first steps two runs take at equal rates, at most as many as the shorter has."""
    end, alike = min(a.max_iters, b.max_iters), a.learning_rate == b.learning_rate
    if alike and (a.schedule, a.decay_lr, as_read(a)) == (b.schedule, b.decay_lr, as_read(b)):
        return end
    step = 0
    if alike and a.decay_lr and b.decay_lr and a.warmup_iters == b.warmup_iters:
        step = min(end, *(_constant_until(config) for config in (a, b)))
    while step < end and learning_rate(a, step) == learning_rate(b, step):
        step += 1
    return step


def _constant_until(config: RunConfig) -> int:
    """The step up to which the rate is learning_rate, from the end of its warm-up."""
    if config.schedule == "constant":
        return config.max_iters
    return config.warmup_iters if config.schedule == "inverse_sqrt" else int(decay_start(config))
