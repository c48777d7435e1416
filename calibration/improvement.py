"""The probability that a run at one level beats one at another: how often its interval holds the truth."""

from __future__ import annotations

import itertools
from collections.abc import Mapping
from functools import partial

import numpy as np
import polars as pl
from scipy import stats

from calibration.factorials import NOISE, RESPONSE
from calibration.measure import Experiment, Tally, held
from isoloss.analysis.level_difference import level_difference

PROBABILITIES = (0.5, 0.75, 0.95, 0.99)
CASES = {
    f"{cells} cells × {seeds} seeds, seed × factor {ratio:g}": (cells, seeds, ratio)
    for cells, seeds, ratio in itertools.product((1, 4, 16), (3, 5), (0.0, 0.55, 1.0))
}
"""Cells of the other factors; the difference's standard deviation from seed to seed, in noises of a run."""


def coverage(repetitions: int) -> list[Experiment]:
    """Does the interval hold the probability?"""
    return [Experiment(case, "cover", repetitions, partial(_covered, *each)) for case, each in CASES.items()]


def _covered(cells: int, seeds: int, ratio: float, generator: np.random.Generator) -> Mapping[str, Tally]:
    found: dict[str, Tally] = {}
    for probability in PROBABILITIES:
        difference = -float(stats.norm.ppf(probability)) * np.sqrt(2 + ratio**2)
        by_seed = generator.normal(difference, ratio, seeds)
        cell_means = generator.normal(0, 2, cells)
        rows = [
            {"n_embd": level, "dropout": cell, "seed": seed,
             RESPONSE: 2 + NOISE * (cell_means[cell] + level * by_seed[seed] + generator.normal())}
            for level, cell, seed in itertools.product((0, 1), range(cells), range(seeds))
        ]  # fmt: skip
        factors = ["n_embd", "dropout"] if cells > 1 else ["n_embd"]
        estimate = level_difference(pl.DataFrame(rows), RESPONSE, "n_embd", 0, 1, factors, "seed").probability
        ends = (estimate.low, estimate.high) if estimate else (None, None)
        found[f"P = {probability:g}"] = held(*ends, probability)
    return found
