"""A factor of a table: its levels in order, and the contrasts that are asked of their means."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import polars as pl
from numpy.typing import NDArray

from isoloss.analysis.roles import is_quantity
from isoloss.errors import ConfigError

MAX_LEVELS = 50


@dataclass(frozen=True)
class Factor:
    """What was varied; its levels are in ascending order, words by the alphabet.

    It is `numeric` where distances between levels mean something: those of a seed are numbers without order.
    """

    name: str
    levels: tuple[float | str | bool, ...]
    numeric: bool

    def contrasts(self) -> list[tuple[str, NDArray[np.float64]]]:
        """What is asked of the level means: wording and weights, the most informative first.

        Two levels: second minus first. More levels of positive numbers: the linear and the quadratic coefficient of
        the polynomial in log2(level) through the level means, in units a doubling and a doubling squared. Otherwise:
        each further level minus the first.
        """
        if len(self.levels) > 2 and self.numeric and all(float(level) > 0 for level in self.levels):
            z = np.log2(np.asarray(self.levels, dtype=np.float64))
            linear, quadratic = _polynomials(z)
            return [("linear, per doubling", linear), ("quadratic, per doubling²", quadratic)]
        return [self.difference(0, high) for high in range(1, len(self.levels))]

    def difference(self, low: int, high: int) -> tuple[str, NDArray[np.float64]]:
        """One level minus another, both by position."""
        weights = np.zeros(len(self.levels))
        weights[[low, high]] = -1.0, 1.0
        return f"{self.levels[high]} − {self.levels[low]}", weights


def read_factor(column: pl.Series) -> tuple[Factor, NDArray[np.intp]]:
    """A factor and the position of each run's level."""
    column = plain_column(column)
    levels = column.unique(maintain_order=True)
    if len(levels) > MAX_LEVELS:
        raise ConfigError(
            f"factor '{column.name}' has {len(levels):,} levels, at most {MAX_LEVELS}: a measured quantity is no "
            "factor; leave it out or merge its levels",
            (column.name,),
        )
    levels = sorted_levels(levels)
    position = {level: number for number, level in enumerate(levels.to_list())}
    codes_n = np.fromiter((position[level] for level in column.to_list()), dtype=np.intp, count=len(column))
    return Factor(column.name, tuple(position), is_quantity(column)), codes_n


def sorted_levels(levels: pl.Series) -> pl.Series:
    """A factor's levels in ascending order, words by the alphabet: no result depends on the order of rows."""
    return levels.sort()


def plain_column(column: pl.Series) -> pl.Series:
    """The column as numbers, booleans or text. Raises ConfigError when it is neither."""
    if column.dtype.is_numeric() or column.dtype == pl.Boolean():
        return column
    if column.dtype.is_nested() or column.dtype == pl.Binary() or column.dtype == pl.Object():
        raise ConfigError(f"'{column.name}' is neither factor nor block: it holds {column.dtype}", (column.name,))
    return column.cast(pl.String())


def _polynomials(z_l: NDArray[np.float64]) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Weights that give the slope of a line and the quadratic coefficient of a parabola through values at z."""
    centred = z_l - z_l.mean()
    square = centred**2 - (centred**2).mean()
    square -= centred * (square @ centred) / (centred @ centred)
    return centred / (centred @ centred), square / (square @ square)
