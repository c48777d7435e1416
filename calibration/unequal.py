"""Learning-rate sweeps whose levels are unequally noisy, or whose slope differs from seed to seed.

All levels have the same mean, or lie on a bowl. Seeds are blocks, or nothing tells which runs share one.
"""

from __future__ import annotations

import itertools
from collections.abc import Mapping
from dataclasses import dataclass
from functools import partial

import numpy as np
import polars as pl

from calibration.factorials import NOISE, RESPONSE, SEED_NOISE
from calibration.measure import Experiment, Tally, held
from isoloss.analysis.effects import analyse_effects
from isoloss.analysis.level_difference import level_difference

RATE, WIDTH = "learning_rate", "n_embd"
BOWL = 0.02
"""Nats by which the outer rates are above the middle one."""


@dataclass(frozen=True)
class Sweep:
    """Rates a factor of three apart, and widths; `times` is the noise of the last rate over that of the others.

    `slope` is the standard deviation, over NOISE, of a seed's own difference between the first and the last rate.
    """

    rates: int
    seeds: int
    times: float = 1.0
    slope: float = 0.0
    widths: int = 1
    blocks: bool = True

    def __str__(self) -> str:
        noise = f"last rate {self.times:g} times as noisy" if self.times != 1 else "equal noise"
        slope = f", slope differs by seed ({self.slope:g})" if self.slope else ""
        widths = f" × {self.widths} widths" if self.widths > 1 else ""
        return f"{self.rates} rates{widths} × {self.seeds} {'seeds' if self.blocks else 'runs'}, {noise}{slope}"

    def simulate(self, bowl: float, generator: np.random.Generator) -> pl.DataFrame:
        """A row a run; a loss is lowest at the middle rate by `bowl` nats."""
        place_l = np.linspace(-1, 1, self.rates)
        sd_l = NOISE * np.where(place_l == 1, self.times, 1.0)
        loss_wxlxs = generator.normal(0, 1, (self.widths, self.rates, self.seeds)) * sd_l[:, None]
        loss_wxlxs += 2.0 + bowl * place_l[:, None] ** 2
        if self.blocks:
            loss_wxlxs += generator.normal(0, SEED_NOISE, self.seeds)
            loss_wxlxs += place_l[:, None] * generator.normal(0, self.slope * NOISE / 2, self.seeds)
        cells = itertools.product(range(self.widths), range(self.rates), range(self.seeds))
        rows = [{WIDTH: 32 * 2**w, RATE: 1e-4 * 3.0**rate, "seed": seed} for w, rate, seed in cells]
        return pl.DataFrame(rows).with_columns(pl.Series(RESPONSE, loss_wxlxs.ravel()))


def sweeps() -> list[Sweep]:
    """Equal noise, a last rate three and ten times as noisy, a slope by seed; with seeds as blocks and without."""
    noise, shapes = (1.0, 3.0, 10.0), ((4, 3), (7, 3), (7, 5))
    found = [Sweep(rates, seeds, times) for rates, seeds in shapes for times in noise]
    found += [Sweep(rates, seeds, slope=slope) for rates, seeds in shapes for slope in (1.0, 3.0)]
    found += [Sweep(5, 3, times, widths=3) for times in noise]
    runs = ((3, 1), (5, 1), (3, 3))
    return found + [Sweep(5, each, times, widths=widths, blocks=False) for each, widths in runs for times in noise]


def coverage(repetitions: int) -> list[Experiment]:
    """Do intervals of contrasts, of differences between levels and of the largest one hold the truth?"""
    return [Experiment(str(each), "cover", repetitions, partial(_covered, each)) for each in sweeps()]


def false_claims(repetitions: int) -> list[Experiment]:
    """How often does F, or a difference of first and last, find something where nothing is?"""
    return [Experiment(str(each), "false", repetitions, partial(_false, each)) for each in sweeps()]


def _covered(sweep: Sweep, generator: np.random.Generator) -> Mapping[str, Tally]:
    table = sweep.simulate(BOWL, generator)
    block, factors = "seed" if sweep.blocks else None, [RATE, WIDTH] if sweep.widths > 1 else [RATE]
    runs = table if sweep.blocks else table.drop("seed")
    rate = analyse_effects(runs, RESPONSE, factors, block).effects[0]
    rates: list[float] = table[RATE].unique().sort().to_list()
    difference = level_difference(runs, RESPONSE, RATE, rates[0], rates[-1], factors, block).estimate
    assert rate.estimate is not None and rate.range is not None and difference is not None
    places = dict(zip(rates, BOWL * np.linspace(-1, 1, sweep.rates) ** 2, strict=True))
    largest = float(places[float(rate.range.highest)] - places[float(rate.range.lowest)])
    return {
        "slope": held(rate.estimate.low, rate.estimate.high, 0.0),
        "last − first": held(difference.low, difference.high, 0.0),
        "largest difference": held(rate.range.estimate.low, rate.range.estimate.high, largest),
    }


def _false(sweep: Sweep, generator: np.random.Generator) -> Mapping[str, Tally]:
    table = sweep.simulate(0.0, generator)
    block, factors = "seed" if sweep.blocks else None, [RATE, WIDTH] if sweep.widths > 1 else [RATE]
    found = analyse_effects(table if sweep.blocks else table.drop("seed"), RESPONSE, factors, block)
    rate = found.effects[0]
    assert rate.p is not None
    claimed = any(effect.p_holm is not None and effect.p_holm < 0.05 for effect in found.effects)
    return {"F of the rate": (int(rate.p < 0.05), 1), "any effect, Holm": (int(claimed), 1)}
