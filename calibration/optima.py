"""Learning-rate sweeps with a known best rate: how often intervals hold it, and how wide they are."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial

import numpy as np
import polars as pl
from numpy.typing import NDArray

from calibration.measure import Experiment, Tally, held
from isoloss.analysis.effects import analyse_effects

Floats = NDArray[np.float64]
Shape = Callable[[Floats], Floats]
RESPONSE, RATE, WIDTH = "best_val_loss", "learning_rate", "n_embd"
WIDTHS = (64, 128, 256)


def parabola(u: Floats) -> Floats:
    """The same on both sides; u are doublings beyond the best rate."""
    return 0.012 * u**2


def lopsided(u: Floats) -> Floats:
    """Three times as steep to the right."""
    return np.where(u < 0, 0.008, 0.024) * u**2


def bending(u: Floats) -> Floats:
    """Slow to the left, ever steeper to the right (linex)."""
    return 0.06 * (np.exp(0.5 * u) - 0.5 * u - 1)


def cliff(u: Floats) -> Floats:
    """A parabola until two doublings beyond the best rate, then runs begin to diverge."""
    return 0.008 * u**2 + 0.02 * np.maximum(u - 2, 0) ** 3


SHAPES: dict[str, Shape] = {
    "parabola": parabola,
    "three times as steep to the right": lopsided,
    "linex": bending,
    "cliff to the right": cliff,
}


@dataclass(frozen=True)
class Sweep:
    """Rates a factor of `spacing` doublings apart, each trained with each seed."""

    shape: str
    levels: int = 7
    seeds: int = 3
    spacing: float = 1.58
    noise: float = 0.005
    widths: tuple[int, ...] = ()
    shift: float = 0.0

    def simulate(self, best: float, generator: np.random.Generator) -> pl.DataFrame:
        """A table of runs whose best rate, at the middle width, is this place among the levels."""
        x_l = np.arange(self.levels) * self.spacing
        seed_b = generator.normal(0, 0.01, self.seeds)
        rows = [
            {
                RATE: 1e-4 * 2.0**x,
                WIDTH: width,
                "seed": seed,
                RESPONSE: 2.0 + seed_b[seed] + float(SHAPES[self.shape](np.array(x - place))),
            }
            for width in self.widths or (128,)
            for place in [best * self.spacing + self.shift * np.log2(width / 128)]
            for x in x_l
            for seed in range(self.seeds)
        ]
        return pl.DataFrame(rows).with_columns(pl.col(RESPONSE) + pl.Series(generator.normal(0, self.noise, len(rows))))


def sweeps() -> list[Sweep]:
    """What is simulated: every shape; fewer and more rates; fewer and more seeds."""
    found = [Sweep(shape) for shape in SHAPES]
    found += [Sweep("linex", levels, spacing=spacing) for levels, spacing in ((5, 1.58), (10, 1.0))]
    return found + [Sweep(shape, seeds=seeds) for shape in tuple(SHAPES)[:2] for seeds in (1, 2, 5)]


def coverage(repetitions: int) -> list[Experiment]:
    """Do 95% intervals hold the best rate, between levels, at one, and near the edge?"""
    return [
        Experiment(
            f"{sweep.levels} rates, {sweep.seeds} seeds, {sweep.shape}", "cover", repetitions, partial(_covered, sweep)
        )
        for sweep in sweeps()
    ]


def shifts(repetitions: int) -> list[Experiment]:
    """Do 95% intervals hold how far the best rate moves with the width?"""
    return [
        Experiment(
            f"3 widths, 7 rates, {seeds} seeds, {shape}, shift {shift:g}",
            "cover",
            repetitions,
            partial(_shifted, Sweep(shape, 7, seeds, widths=WIDTHS, shift=shift)),
        )
        for shape in ("parabola", "linex")
        for seeds, shift in ((3, 0.0), (3, -0.5), (1, -0.5))
    ]


def _covered(sweep: Sweep, generator: np.random.Generator) -> Mapping[str, Tally]:
    middle = sweep.levels // 2
    places = {"between levels": middle + 0.4, "at a level": float(middle), "near the edge": 0.6}
    found: dict[str, Tally] = {}
    for name, best in places.items():
        table = sweep.simulate(best, generator)
        effects = analyse_effects(table, RESPONSE, [RATE], "seed" if sweep.seeds > 1 else None)
        optimum = effects.optima[0]
        low, high = optimum.low or 0.0, optimum.high or np.inf
        found[name] = held(low, high, 1e-4 * 2.0 ** (best * sweep.spacing))
    return found


def _shifted(sweep: Sweep, generator: np.random.Generator) -> Mapping[str, Tally]:
    table = sweep.simulate(3.3, generator)
    effects = analyse_effects(table, RESPONSE, [RATE, WIDTH], "seed" if sweep.seeds > 1 else None)
    estimate = next(each.estimate for each in effects.shifts if each.factor == RATE)
    if estimate is None:
        return {"shift": (0, 0)}
    low, high = (
        -np.inf if estimate.low is None else estimate.low,
        np.inf if estimate.high is None else estimate.high,
    )
    return {"shift": held(low, high, sweep.shift)}


def median_width(sweep: Sweep, repetitions: int, seed: int = 0) -> float:
    """The median of an interval's upper over its lower end, the best rate between levels; infinite where open."""
    generator, ratios = np.random.default_rng(seed), list[float]()
    for _ in range(repetitions):
        table = sweep.simulate(sweep.levels // 2 + 0.4, generator)
        optimum = analyse_effects(table, RESPONSE, [RATE], "seed" if sweep.seeds > 1 else None).optima[0]
        ratios.append(np.inf if optimum.low is None or optimum.high is None else optimum.high / optimum.low)
    return float(np.median(ratios))
