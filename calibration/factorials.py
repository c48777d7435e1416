"""Factorials with known cell means: how often intervals of effects hold them, and what is claimed where nothing is."""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import cache, partial

import numpy as np
import polars as pl
from numpy.typing import NDArray

from calibration.measure import Experiment, Tally, held
from isoloss.analysis.effects import Effect, analyse_effects
from isoloss.analysis.level_difference import level_difference

Floats = NDArray[np.float64]
Levels = tuple[float, ...] | tuple[str, ...]
RESPONSE = "best_val_loss"
NOISE = 0.005
"""Of a run, in nats; seeds differ by more, as they do in practice."""
SEED_NOISE = 0.01
EFFECTS = 0.01
"""Standard deviation of cell means in a study with effects."""

WIDTH, BATCH, CLIP = (64, 128, 256), (4, 8, 16), (0.5, 1.0, 2.0, 4.0)
OPTIMIZER = ("adamw", "sgd", "lion")
TWO_LEVELS: dict[str, Levels] = {
    "n_embd": (128, 256),
    "n_head": (4, 8),
    "batch_size": (8, 16),
    "dropout": (0.1, 0.2),
    "n_layer": (2, 4),
}


@dataclass(frozen=True)
class Design:
    """A crossed design: levels of each factor, each cell trained with each seed, less `lost` runs drawn at random."""

    names: tuple[str, ...]
    levels: tuple[Levels, ...]
    seeds: int = 1
    lost: int = 0

    @property
    def shape(self) -> tuple[int, ...]:
        """Levels of each factor."""
        return tuple(len(levels) for levels in self.levels)

    @property
    def block(self) -> str | None:
        """Seeds are blocks where there is more than one."""
        return "seed" if self.seeds > 1 else None

    def simulate(self, mean: Floats, generator: np.random.Generator, seed_noise: float = SEED_NOISE) -> pl.DataFrame:
        """A table of runs with these cell means, shape `shape`."""
        base = _runs(self)
        seed_b = generator.normal(0, seed_noise, self.seeds)
        y_n = np.repeat(mean.ravel(), self.seeds) + seed_b[base["seed"].to_numpy()]
        table = base.with_columns(pl.Series(RESPONSE, y_n + generator.normal(0, NOISE, len(base))))
        kept = np.sort(generator.permutation(len(base))[self.lost :])
        return table[kept] if self.lost else table


def two_level(factors: int, seeds: int = 1, lost: int = 0) -> Design:
    """A 2^k design of real settings."""
    names = tuple(TWO_LEVELS)[:factors]
    return Design(names, tuple(TWO_LEVELS[name] for name in names), seeds, lost)


def nine_cells(seeds: int) -> Design:
    """3 × 3: one numeric factor, one of words."""
    return Design(("n_embd", "optimizer"), (WIDTH, OPTIMIZER), seeds)


def thirty_six_cells(seeds: int) -> Design:
    """3 × 3 × 4."""
    return Design(("n_embd", "optimizer", "grad_clip"), (WIDTH, OPTIMIZER, CLIP), seeds)


def coverage(repetitions: int) -> list[Experiment]:
    """Do 95% intervals of effects hold the truth, with replicates and in screenings?"""
    designs = {
        f"{design.shape} × {seeds} seeds": design
        for seeds in (2, 3)
        for design in (nine_cells(seeds), two_level(4, seeds), thirty_six_cells(seeds))
    }
    cases = {case.replace(", ", "×").strip("()").replace(") ×", " ×"): design for case, design in designs.items()}
    replicated = [Experiment(case, "cover", repetitions, partial(_any_means, design)) for case, design in cases.items()]
    lost = Experiment("2×2×2×2 × 3 seeds, 3 runs lost", "cover", repetitions, partial(_any_means, two_level(4, 3, 3)))
    screened = [
        Experiment(
            f"2^{k} unreplicated (Lenth), {active} active", "cover", repetitions, partial(_few_active, k, active)
        )
        for k in (4, 5)
        for active in (0, 3, 6)
    ]
    return [*replicated, lost, *screened]


def _any_means(design: Design, generator: np.random.Generator) -> Mapping[str, Tally]:
    """Cell means drawn at random, interactions of every order included; with runs lost, no more than two-factor ones.

    A seed that lost a run is no block any more, and its noise would be the cells'; then seeds are alike.
    """
    mean = generator.normal(2, EFFECTS, design.shape)
    if design.lost:
        mean = _two_factor(mean)
    return _covered(design, mean, design.simulate(mean, generator, 0.0 if design.lost else SEED_NOISE))


def _few_active(k: int, active: int, generator: np.random.Generator) -> Mapping[str, Tally]:
    """`active` of the 2^k - 1 effects, drawn at random, are ten times the standard error of one; all others zero."""
    design = two_level(k)
    size = 10 * 2 * NOISE / np.sqrt(2**k)
    mean = np.full(design.shape, 2.0)
    for number in generator.permutation(2**k - 1)[:active] + 1:
        signs = [np.array([-0.5, 0.5]) if number >> axis & 1 else np.ones(2) for axis in range(k)]
        contrast = signs[0]
        for each in signs[1:]:
            contrast = np.multiply.outer(contrast, each)
        mean += size * contrast * 2.0 ** (int(number).bit_count() - 1)
    return _covered(design, mean, design.simulate(mean, generator))


def _covered(design: Design, mean: Floats, table: pl.DataFrame) -> Mapping[str, Tally]:
    found = analyse_effects(table, RESPONSE, design.names, design.block)
    main = [each for effect in found.effects if len(effect.factors) == 1 for each in _held(design, mean, effect)]
    both = [each for effect in found.effects if len(effect.factors) == 2 for each in _held(design, mean, effect)]
    factor, levels = design.names[0], design.levels[0]
    difference = level_difference(table, RESPONSE, factor, levels[0], levels[-1], design.names, design.block).estimate
    by_level = mean.mean(axis=tuple(range(1, mean.ndim)))
    low, high = (difference.low, difference.high) if difference else (None, None)
    return {
        "main effects": _added(main),
        "interactions": _added(both),
        "level difference": held(low, high, by_level[-1] - by_level[0]),
    }


def _held(design: Design, mean: Floats, effect: Effect) -> Iterator[Tally]:
    """Each contrast of an effect against its truth."""
    term = [design.names.index(name) for name in effect.factors]
    means = mean.mean(axis=tuple(axis for axis in range(mean.ndim) if axis not in term))
    half = 0.5 if len(term) == 2 and means.shape == (2, 2) else 1.0
    for estimate, weights in zip(
        (effect.estimate, *(other.estimate for other in effect.others)),
        itertools.product(*(_weights(design.levels[position]) for position in term)),
        strict=True,
    ):
        truth = half * float(np.einsum(means, list(range(len(term))), *_indexed(weights)))
        yield held(*((estimate.low, estimate.high) if estimate else (None, None)), truth)


def _indexed(weights: tuple[Floats, ...]) -> Iterator[Floats | list[int]]:
    for axis, each in enumerate(weights):
        yield each
        yield [axis]


def _weights(levels: Levels) -> list[Floats]:
    """Written apart from the package: slope and curvature by least squares on log2, or each level less the first."""
    if len(levels) > 2 and not isinstance(levels[0], str):
        z_l = np.log2(np.array(levels, dtype=np.float64))
        return [np.asarray(np.linalg.pinv(np.vander(z_l, degree + 1))[0], dtype=np.float64) for degree in (1, 2)]
    return list(np.eye(len(levels))[1:] - np.eye(len(levels))[0])


def _two_factor(mean: Floats) -> Floats:
    """A table of cell means without what interactions of three and more factors contribute (two levels a factor)."""
    kept = np.zeros_like(mean)
    for term in itertools.chain.from_iterable(itertools.combinations(range(mean.ndim), order) for order in range(3)):
        part = mean
        for axis in range(mean.ndim):
            average = part.mean(axis=axis, keepdims=True)
            part = part - average if axis in term else np.broadcast_to(average, part.shape)
        kept += part
    return kept


def _added(tallies: list[Tally]) -> Tally:
    return sum(hits for hits, _ in tallies), sum(n for _, n in tallies)


@cache
def _runs(design: Design) -> pl.DataFrame:
    cells = itertools.product(*design.levels, range(design.seeds))
    return pl.DataFrame([dict(zip((*design.names, "seed"), cell, strict=True)) for cell in cells]).with_row_index("row")
