"""Which runs may train together, as members of one stack."""

from __future__ import annotations

from typing import Any

from isoloss.study.config import SEED_SETTINGS, TEXTS, RunConfig

MEMBER_FIELDS = frozenset(
    {
        "n_head",
        "dropout",
        "max_iters",
        "learning_rate",
        "muon_learning_rate",
        "schedule",
        "decay_share",
        "decay_shape",
        "decay_lr",
        "warmup_iters",
        "lr_decay_iters",
        "min_lr",
        "weight_decay",
        "grad_clip",
        "ema",
        *SEED_SETTINGS,
        "seed",
    }
)
"""Fields in which the members of one stack may differ; all others must be equal to train together."""


def shape_key(config: RunConfig) -> tuple[tuple[str, Any], ...]:
    """What runs must share to be members of one stack: every field that is not in MEMBER_FIELDS."""
    free = MEMBER_FIELDS - {"n_head"} if config.n_kv_head else MEMBER_FIELDS  # it decides a shape then
    free = free.union(TEXTS)  # texts count by content
    return tuple((name, getattr(config, name)) for name in RunConfig.model_fields if name not in free)
