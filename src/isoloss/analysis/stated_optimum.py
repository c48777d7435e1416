"""Stated optima: whether the best value of a factor lies in a range, or stays where another factor changes."""

from __future__ import annotations

from collections.abc import Sequence

import polars as pl

from isoloss.analysis.error_term import FitWithError, fit_with_error
from isoloss.analysis.estimate import LEVEL
from isoloss.analysis.factorial_table import read_factorial_table
from isoloss.analysis.optimum import Optimum, optimum
from isoloss.analysis.optimum_shift import OptimumShift, optimum_shift
from isoloss.errors import ConfigError


def stated_optimum(
    table: pl.DataFrame, response: str, factor: str, factors: Sequence[str], block: str | None, level: float
) -> tuple[Optimum, Optimum]:
    """The optimum of a factor over all runs, with an interval of LEVEL and with one of `level`.

    Raises ConfigError where the table lacks a column or the factor three numeric levels whose means are determined.
    """
    fitted, position = _fitted(table, response, factor, factors, block)
    numeric = fitted.runs.factors[position].numeric
    shown, held = (optimum(fitted, position, interval=each) if numeric else None for each in (LEVEL, level))
    if shown is None or held is None:
        raise ConfigError(f"'{factor}' needs three numeric levels with runs for an optimum", (factor,))
    return shown, held


def stated_shift(
    table: pl.DataFrame,
    response: str,
    factor: str,
    moved_by: str,
    factors: Sequence[str],
    block: str | None,
    level: float,
) -> tuple[OptimumShift, OptimumShift]:
    """How far the optimum of a factor moves with another one, with an interval of LEVEL and with one of `level`.

    Raises ConfigError where one of them does not vary or is no number, or the first has fewer than three levels.
    """
    fitted, position = _fitted(table, response, factor, factors, block)
    other = fitted.runs.position(moved_by)
    if other is None or other == position:
        raise ConfigError(f"'{moved_by}' does not vary, so no optimum moves with it", (moved_by,))
    both = fitted.runs.factors[position], fitted.runs.factors[other]
    if not all(each.numeric for each in both) or len(both[0].levels) < 3:
        raise ConfigError(f"'{factor}' needs three numeric levels, and '{moved_by}' numeric ones", (factor, moved_by))
    shown, held = (optimum_shift(fitted, position, other, each) for each in (LEVEL, level))
    return shown, held


def _fitted(
    table: pl.DataFrame, response: str, factor: str, factors: Sequence[str], block: str | None
) -> tuple[FitWithError, int]:
    runs = read_factorial_table(table, response, [*factors, factor], block)
    position = runs.position(factor)
    if position is None:
        raise ConfigError(f"'{factor}' does not vary, so it has no optimum", (factor,))
    return fit_with_error(runs), position
