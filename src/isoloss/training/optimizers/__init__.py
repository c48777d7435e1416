"""Optimizers: each a file with one update of a stack's flat parameters by their gradients."""

from __future__ import annotations

from collections.abc import Callable, Mapping

from isoloss.study.optimizers import Optimizer
from isoloss.training.optimizers import adamw, lion, muon, sgd
from isoloss.training.optimizers.update import Update

STEPS: Mapping[Optimizer, Callable[[Update], None]] = {
    "adamw": adamw.step,
    "muon": muon.step,
    "lion": lion.step,
    "sgd": sgd.step,
}
