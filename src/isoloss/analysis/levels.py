"""What a response averages at each level of a factor, and how far the runs of a level or of a cell spread.

In a factorial without replicates, the spread of a level's runs holds the effects of all other factors. It is
described here (sd, range, n) and never turned into an interval. The spread within cells is noise, and compared.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import polars as pl
from numpy.typing import NDArray
from scipy import special

from isoloss.analysis.estimate import LEVEL

Floats = NDArray[np.float64]


@dataclass(frozen=True)
class LevelMean:
    """The runs at one level of a factor: `n` have the response; what they do not determine is None."""

    factor: str
    level: Any
    n: int
    mean: float | None
    sd: float | None
    minimum: float | None
    maximum: float | None


@dataclass(frozen=True)
class CellSpread:
    """The replicates of a cell: their mean and standard deviation.

    With the same noise in all cells, the sd of every cell lies between its `low` and `high` in 95% of tables.
    """

    levels: tuple[Any, ...]
    n: int
    mean: float
    sd: float
    low: float
    high: float
    outside: bool
    """Whether it spreads more or less than chance explains."""


def cell_spreads(table: pl.DataFrame, factors: Sequence[str], response: str) -> list[CellSpread]:
    """Cells with two runs or more, in the order of the table; none where there are fewer than two or nothing spreads.

    Each is compared with the others by F (normal noise), 5% over all of them (Bonferroni); one that is outside is left
    out of what the next are compared with. Rows lack no value.
    """
    grouped = table.group_by(factors, maintain_order=True).agg(pl.col(response).cast(pl.Float64()))
    cells = [(tuple(row[:-1]), np.asarray(row[-1], np.float64)) for row in grouped.iter_rows() if len(row[-1]) > 1]
    squares_c = np.array([float(((y - y.mean()) ** 2).sum()) for _, y in cells])
    df_c = np.array([len(y) - 1.0 for _, y in cells])
    like_c, tail = np.ones(len(cells), dtype=np.bool_), (1 - LEVEL) / 2 / max(len(cells), 1)
    while True:
        rest_c: Floats = (squares_c * like_c).sum() - squares_c * like_c
        rest_df_c: Floats = (df_c * like_c).sum() - df_c * like_c
        if len(cells) < 2 or float(rest_c.min()) <= 1e-12 * float(squares_c.sum()):
            return []
        variance_c: Floats = rest_c / rest_df_c
        low_c, high_c = (np.sqrt(variance_c * special.fdtri(df_c, rest_df_c, p)) for p in (tail, 1 - tail))
        ratio_c = squares_c / df_c / variance_c
        p_c = np.minimum(special.fdtr(df_c, rest_df_c, ratio_c), special.fdtrc(df_c, rest_df_c, ratio_c))
        farthest = int(np.argmin(np.where(like_c, p_c, 1.0)))
        if p_c[farthest] >= tail or not like_c[farthest]:
            break
        like_c[farthest] = False
    sd_c = np.sqrt(squares_c / df_c)
    return [
        CellSpread(levels, len(y), float(y.mean()), float(sd), float(low), float(high), not like)
        for (levels, y), sd, low, high, like in zip(cells, sd_c, low_c, high_c, like_c, strict=True)
    ]


def level_means(table: pl.DataFrame, factor: str, response: str) -> list[LevelMean]:
    """The response at each level of a factor, in the order the levels first appear in the table (one row a run).

    Only finite responses count; a level without any has n = 0 and no mean. `sd` is the sample standard deviation
    (n - 1), None below two runs. A missing level (null) is a level of its own.
    """
    values_by_level: dict[Any, list[float]] = {}
    for level, value in zip(table[factor].to_list(), table[response].to_list(), strict=True):
        values = values_by_level.setdefault(level, [])
        if value is not None and math.isfinite(value):
            values.append(float(value))
    return [_describe(factor, level, values) for level, values in values_by_level.items()]


def largest_difference(levels: Sequence[LevelMean]) -> float | None:
    """Largest difference between two level means; None below two levels with runs."""
    means = [level.mean for level in levels if level.mean is not None]
    return max(means) - min(means) if len(means) > 1 else None


def _describe(factor: str, level: Any, values: Sequence[float]) -> LevelMean:
    n = len(values)
    if not n:
        return LevelMean(factor, level, 0, None, None, None, None)
    mean = math.fsum(values) / n
    sd = math.sqrt(math.fsum((value - mean) ** 2 for value in values) / (n - 1)) if n > 1 else None
    return LevelMean(factor, level, n, mean, sd, min(values), max(values))
