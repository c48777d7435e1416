"""Conditions on rows as they are typed: loss < 3 and (optimizer = 'adamw' or lr <= 1e-3)."""

from __future__ import annotations

import polars as pl
from polars.exceptions import PolarsError

from isoloss.analysis.roles import check_columns
from isoloss.analysis.written_numbers import parsed
from isoloss.errors import ConfigError


def rows_where(table: pl.DataFrame, condition: str) -> pl.DataFrame:
    """The rows that meet an SQL condition over the table's columns; where a value is missing they do not.

    Polars reads it, as an expression that can only compute. Raises ConfigError with what is wrong.

    Example: `rows_where(runs, "loss < 3 and metric = 'nats'")`
    """
    try:
        expression = pl.sql_expr(condition)
        named = list(dict.fromkeys(expression.meta.root_names()))
        check_columns(named, table.columns)
        met = table.with_columns(map(_comparable, table.select(named))).select(expression).to_series()
    except PolarsError as error:
        raise _refused(condition, str(error).splitlines()[0]) from error
    if not named or met.dtype != pl.Boolean():
        raise _refused(condition, "it does not compare a column")
    kept = table.filter(met.fill_null(value=False))
    if kept.is_empty():
        raise ConfigError(f"--where {condition}: none of {len(table):,} rows meets it")
    return kept


def _comparable(column: pl.Series) -> pl.Series:
    """Numbers as they are written become numbers; what is no number is missing."""
    if column.dtype.is_float():
        return column.fill_nan(None)
    if column.dtype != pl.String():
        return column
    numbers = parsed(column)
    return numbers if numbers.null_count() == column.null_count() else column


def _refused(condition: str, reason: str) -> ConfigError:
    return ConfigError(f"--where {condition}: {reason}; write a condition like \"loss < 3 and metric = 'nats'\"")
