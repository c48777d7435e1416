"""Runs called outlying: how many tables of normal noise have one, and how often diverged runs are all named."""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial

import numpy as np

from calibration.factorials import EFFECTS, NOISE, RESPONSE, Design, Floats, nine_cells, two_level
from calibration.measure import Experiment, Tally
from isoloss.analysis.effects import analyse_effects

DESIGNS = {
    "2 × 5 seeds": two_level(1, 5),
    "2×2 × 3 seeds": two_level(2, 3),
    "3×3 × 3 seeds": nine_cells(3),
    "2×2×2×2 × 3 seeds": two_level(4, 3),
    "2^4 unreplicated": two_level(4),
    "3×3 unreplicated": nine_cells(1),
}
NOISIER = 10
"""Times the noise of the others that of the last level of the first factor is."""
FURTHER = (0.5, 50.0)
"""How far a diverged run lies above its mean, in nats."""


def false_alarms(repetitions: int) -> list[Experiment]:
    """Is a run called outlying where noise is normal, alike everywhere or larger at one level or by seed?"""
    return [Experiment(case, "false", repetitions, partial(_any_named, design)) for case, design in DESIGNS.items()]


def all_named(repetitions: int) -> list[Experiment]:
    """Are one, two and three diverged runs all named, and no other?"""
    return [Experiment(case, "right", repetitions, partial(_named, design)) for case, design in DESIGNS.items()]


def _any_named(design: Design, generator: np.random.Generator) -> Mapping[str, Tally]:
    mean = generator.normal(2, EFFECTS, design.shape)
    noisy = np.ones(design.shape)
    noisy[-1] = NOISIER
    alike = generator.normal(0, NOISE, (*design.shape, design.seeds))
    by_seed = np.multiply.outer(np.eye(design.shape[0])[-1], generator.normal(0, 2 * NOISE, design.seeds))
    by_seed = by_seed.reshape(design.shape[0], *[1] * (len(design.shape) - 1), design.seeds)
    cases = {
        "alike": alike,
        "one level 10 times as noisy": alike * noisy[..., None],
        "an effect that differs by seed": alike + by_seed,
    }
    return {name: (int(bool(_outlying(design, mean, noise, generator))), 1) for name, noise in cases.items()}


def _named(design: Design, generator: np.random.Generator) -> Mapping[str, Tally]:
    mean = generator.normal(2, EFFECTS, design.shape)
    found: dict[str, Tally] = {}
    for count in (1, 2, 3):
        noise = generator.normal(0, NOISE, (*design.shape, design.seeds))
        wild = generator.choice(noise.size, count, replace=False)
        noise.ravel()[wild] += generator.uniform(*FURTHER, count)
        found[f"{count} diverged"] = (int(_outlying(design, mean, noise, generator) == {*wild.tolist()}), 1)
    return found


def _outlying(design: Design, mean: Floats, noise: Floats, generator: np.random.Generator) -> set[int]:
    """The rows that are called outlying, of a table with such noise, [cells, seeds], around cell means."""
    table = design.simulate(mean, generator)
    seed_b = generator.normal(0, EFFECTS, design.seeds)
    table = table.with_columns(**{RESPONSE: (mean[..., None] + noise + seed_b).ravel()})
    found = analyse_effects(table, RESPONSE, design.names, design.block)
    return {run.place for run in found.outlying_runs}
