"""Level means: what a response averages at each level of a factor, and how far the runs there spread.

In a factorial without replicates, the spread of a level's runs holds the effects of all other factors. It is
described here (sd, range, n) and never turned into an interval.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import polars as pl


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
