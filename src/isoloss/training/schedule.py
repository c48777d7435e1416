"""Learning rate: linear warm-up, cosine to min_lr, constant after (nanoGPT's get_lr)."""

from __future__ import annotations

from math import cos, pi

from isoloss.study.config import RunConfig


def learning_rate(config: RunConfig, step: int) -> float:
    """Learning rate of the update made at `step` (0-based): lr·(step+1)/(warmup_iters+1), then the cosine."""
    if not config.decay_lr:
        return config.learning_rate
    if step < config.warmup_iters:
        return config.learning_rate * (step + 1) / (config.warmup_iters + 1)
    if step >= config.decay_horizon:
        return config.min_lr
    progress = (step - config.warmup_iters) / (config.decay_horizon - config.warmup_iters)
    return config.min_lr + 0.5 * (1 + cos(pi * progress)) * (config.learning_rate - config.min_lr)
