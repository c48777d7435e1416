"""Columns of anyone's table, checked before anything is computed from them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import polars as pl
from numpy.typing import NDArray

from isoloss.analysis.roles import check_columns
from isoloss.analysis.written_numbers import parsed
from isoloss.diagnostic import Diagnostic
from isoloss.errors import ConfigError

MAX_MAGNITUDE = 1e100
"""Positive numbers beyond it, or below its inverse, are taken for mistakes: their powers leave double precision."""


@dataclass(frozen=True)
class Rows:
    """The rows of a table that can be analysed, and what had to be left out to get them."""

    table: pl.DataFrame
    cautions: tuple[Diagnostic, ...]

    def floats(self, column: str) -> NDArray[np.float64]:
        """One numeric column, shape [n]."""
        return self.table[column].cast(pl.Float64()).to_numpy()


def usable_rows(
    table: pl.DataFrame, *, numeric: Sequence[str] = (), positive: Sequence[str] = (), other: Sequence[str] = ()
) -> Rows:
    """The rows in which every column asked for has a value: `positive` ones finite and above 0, `numeric` ones finite.

    Rows without a value are left out and counted in a caution (`incomplete_rows`). Raises ConfigError when a column is
    missing, is not numeric, holds a number at or below 0 that has to be positive, or when no row is left.
    """
    wanted = list(dict.fromkeys([*positive, *numeric, *other]))
    check_columns(wanted, table.columns)
    if table.is_empty():
        raise ConfigError("the table has no rows")
    table = table.with_columns(number_column(table[column]) for column in dict.fromkeys([*positive, *numeric]))
    complete = pl.all_horizontal(
        *(pl.col(column).is_finite().fill_null(False) for column in dict.fromkeys([*positive, *numeric])),
        *(pl.col(column).is_not_null() for column in other),
    )
    kept = table.filter(complete)
    left_out = len(table) - len(kept)
    if kept.is_empty():
        raise ConfigError(f"no row of the table has a value in every one of {', '.join(wanted)}")
    for column in positive:
        bad = kept.filter(pl.col(column) <= 0)
        if len(bad):
            raise ConfigError(
                f"column '{column}' holds {bad[column][0]:g} ({len(bad):,} of {len(kept):,} rows are not positive); "
                "it is taken on a log scale and must be above 0",
                (column,),
            )
        wild = kept.filter((pl.col(column) >= MAX_MAGNITUDE) | (pl.col(column) <= 1 / MAX_MAGNITUDE))
        if len(wild):
            raise ConfigError(f"column '{column}' holds {wild[column][0]:g}: not between 1e-100 and 1e100", (column,))
    text = f"{left_out:,} of {len(table):,} rows lack a finite value in {', '.join(wanted)} and are left out."
    return Rows(kept, (Diagnostic("incomplete_rows", "limits", text),) if left_out else ())


def number_column(column: pl.Series) -> pl.Series:
    """The column as floats, words as numbers are written. Raises ConfigError with the first that is no number."""
    if column.dtype.is_numeric() or column.dtype == pl.Null():
        return column.cast(pl.Float64())
    if column.dtype != pl.String():
        held = "true and false" if column.dtype == pl.Boolean() else f"values of the type {column.dtype}"
        raise ConfigError(f"column '{column.name}' is not numeric: it holds {held}", (column.name,))
    words, numbers = column.str.strip_chars().replace("", None), parsed(column)
    wrong = words.filter(words.is_not_null() & numbers.is_null())
    if len(wrong):
        raise ConfigError(f"column '{column.name}' is not numeric: it holds '{wrong[0]}'", (column.name,))
    return numbers
