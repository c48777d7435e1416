"""Levels compared each at its best learning rate: how often the interval of the difference holds the truth.

Two optimizers, each swept over some rates. The loss rises with the square of a rate's distance from the best one, or
not at all (flat: every rate is the best, which choosing the best of them by the same runs flatters most).
"""

from __future__ import annotations

import itertools
from collections.abc import Mapping
from functools import partial
from typing import Any

import numpy as np
import polars as pl

from calibration.factorials import NOISE, RESPONSE, SEED_NOISE
from calibration.measure import Experiment, Tally, held
from isoloss.analysis.claim import Evidence
from isoloss.analysis.exploration import study_effects
from isoloss.analysis.tuned import at_best_values
from isoloss.diagnostic import Diagnostic

VALLEYS = {
    "alike": (5.0, 5.0),
    "one four times as steep": (5.0, 20.0),
    "one flat": (0.0, 20.0),
    "both flat": (0.0, 0.0),
}
"""The loss of the furthest rate above that of the best one, in noises of a run, for each optimizer."""
SEED_BY_OPTIMIZER = 0.55
"""Of the difference between the optimizers from seed to seed, in noises of a run."""


def coverage(repetitions: int) -> list[Experiment]:
    """Does the interval hold the difference of the two lowest expected losses?"""
    cases = {
        f"{rates} rates, {seeds} seeds, valleys {name}": partial(_covered, rates, seeds, each)
        for (name, each), rates, seeds in itertools.product(VALLEYS.items(), (3, 5, 7), (3, 5))
    }
    return [Experiment(case, "cover", repetitions, simulate) for case, simulate in cases.items()]


def _covered(
    rates: int, seeds: int, valleys: tuple[float, float], generator: np.random.Generator
) -> Mapping[str, Tally]:
    distance_r = np.abs(np.arange(rates) - rates // 2) / (rates // 2)
    of_seed_s = generator.normal(0, SEED_NOISE / NOISE, seeds)
    rows = [
        {"run_id": f"{optimizer}{rate}{seed}", "seed": seed, "optimizer": optimizer, "learning_rate": 1e-3 * 2**rate,
         RESPONSE: 2 + NOISE * (steep * distance_r[rate] ** 2 + of_seed_s[seed] + luck + generator.normal())}
        for optimizer, steep in zip(("adamw", "lion"), valleys, strict=True)
        for seed, luck in enumerate(generator.normal(0, SEED_BY_OPTIMIZER / np.sqrt(2), seeds))
        for rate in range(rates)
    ]  # fmt: skip
    table = pl.DataFrame(rows)
    factors = {name: table[name].unique(maintain_order=True).to_list() for name in ("optimizer", "learning_rate")}
    lost = table.head(0).select("run_id", "seed", *factors)
    found = study_effects(at_best_values(Evidence(table, factors, _not_asked, _not_asked, lost, ("learning_rate",))))
    assert not isinstance(found, Diagnostic)
    estimate = found.effects[0].estimate
    return {"difference": held(estimate.low, estimate.high, 0.0) if estimate else (0, 0)}


def _not_asked(_: float) -> Any:
    raise AssertionError
