"""What is known of the optimizers before anything trains: the state each keeps, and its defaults by its source."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Literal

Optimizer = Literal["adamw", "muon", "lion", "sgd"]
MOMENTS: Mapping[Optimizer, tuple[str, ...]] = {
    "adamw": ("exp_avg", "exp_avg_sq"),
    "muon": ("exp_avg", "exp_avg_sq"),
    "lion": ("exp_avg",),
    "sgd": ("momentum_buffer",),
}
"""Names of what an optimizer keeps beside the weights, each as large as they are, as checkpoints have them."""
DEFAULTS: Mapping[Optimizer, Mapping[str, Any]] = {
    "adamw": {},
    "muon": {"muon_learning_rate": 0.02},
    "lion": {"learning_rate": 1e-4, "min_lr": 1e-5},
    "sgd": {"learning_rate": 1e-3, "weight_decay": 0.0},
}
"""Defaults that are not AdamW's: those of Keller Jordan's Muon, of lion-pytorch and of torch's SGD."""


def defaults_of(optimizer: object) -> Mapping[str, Any]:
    """What settings are that a run with this optimizer does not state, where that differs from AdamW's."""
    own: Mapping[str, Mapping[str, Any]] = {**DEFAULTS}
    return own.get(optimizer, {}) if isinstance(optimizer, str) else {}
