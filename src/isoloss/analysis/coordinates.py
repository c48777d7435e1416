"""The coordinate check of Yang et al. 2022: whether what training changes in a model grows with its width."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
import polars as pl
from scipy import stats

from isoloss.analysis.estimate import LEVEL, Estimate
from isoloss.errors import ConfigError

Verdict = Literal["stays", "grows", "shrinks", "not resolved"]
TOLERANCE = 0.25
"""Of a slope, in doublings of size per doubling of width, within which a size counts as one that stays."""


@dataclass(frozen=True)
class Growth:
    """How the change of one activation goes with the width, under one parametrization."""

    parametrization: str
    activation: str
    slope: Estimate
    """Doublings of its root mean square per doubling of n_embd, by least squares over widths and seeds."""
    verdict: Verdict


@dataclass(frozen=True)
class CoordinateCheck:
    """`sizes` has a row for each run and activation: parametrization, n_embd, seed, activation, change."""

    steps: int
    sizes: pl.DataFrame
    growth: Sequence[Growth]


def coordinate_check(sizes: pl.DataFrame, steps: int) -> CoordinateCheck:
    """The check of measured sizes. Raises ConfigError for fewer than three runs or two widths of a parametrization."""
    growth: list[Growth] = []
    for (parametrization, activation), rows in sizes.group_by("parametrization", "activation", maintain_order=True):
        if rows["n_embd"].n_unique() < 2 or len(rows) < 3:
            raise ConfigError("a coordinate check needs two widths and three runs; list more of n_embd under factors")
        slope = _slope(np.log2(rows["n_embd"].to_numpy()), np.log2(rows["change"].to_numpy()))
        growth.append(Growth(str(parametrization), str(activation), slope, _verdict(slope)))
    return CoordinateCheck(steps, sizes, growth)


def _slope(x_n: np.ndarray, y_n: np.ndarray) -> Estimate:
    fitted = stats.linregress(x_n, y_n)
    half = float(stats.t.ppf((1 + LEVEL) / 2, len(x_n) - 2)) * float(fitted.stderr)
    value = float(fitted.slope)
    return Estimate(value, value - half, value + half, LEVEL, len(x_n), "least squares, t")


def _verdict(slope: Estimate) -> Verdict:
    assert slope.low is not None and slope.high is not None
    if slope.low > -TOLERANCE and slope.high < TOLERANCE:
        return "stays"
    if slope.low > TOLERANCE:
        return "grows"
    return "shrinks" if slope.high < -TOLERANCE else "not resolved"
