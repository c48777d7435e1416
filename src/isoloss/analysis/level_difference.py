"""The response at one level of a factor minus that at another: what a stated effect or ratio claims."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import polars as pl

from isoloss.analysis.error_term import FitWithError, differs_by_block, fit_with_error
from isoloss.analysis.estimate import LEVEL, Estimate
from isoloss.analysis.factorial import t_two_sided
from isoloss.analysis.factorial_table import read_factorial_table
from isoloss.analysis.improvement import probability_lower
from isoloss.analysis.level_range import contrast_estimate, means_above_first
from isoloss.analysis.lost_runs import lost_in_words, lost_runs
from isoloss.analysis.optimum import best_at_edge, optimum
from isoloss.diagnostic import Diagnostic
from isoloss.errors import ConfigError


@dataclass(frozen=True)
class LevelDifference:
    """The response at one level minus that at another; None is what the runs do not determine.

    `screening` tells that other effects stood in for noise.
    """

    estimate: Estimate | None
    p: float | None
    screening: bool
    cautions: tuple[Diagnostic, ...]
    probability: Estimate | None = None
    """That a run at the second level has a lower response than one at the first that shares all else."""


def level_difference(
    table: pl.DataFrame,
    response: str,
    factor: str,
    low: float | str | bool,
    high: float | str | bool,
    factors: Sequence[str],
    block: str | None = None,
    interval: float = LEVEL,
    against: float = 0.0,
) -> LevelDifference:
    """The response at level `high` of a factor minus that at `low`, averaged alike over all other `factors`.

    The interval and two-sided p rest on the error that `analyse_effects` tests the factor with; the estimate's method
    names it, and n is that of the runs at the two levels. `interval` is the level of the interval, `against` the
    difference that p is of (other than zero: a minimum-effect test, Murphy and Myors 1999). Raises ConfigError as that
    does, and when the factor lacks one of the two levels.
    """
    runs = read_factorial_table(table, response, [*factors, factor], block)
    position = runs.position(factor)
    if position is None:
        raise ConfigError(f"'{factor}' has one level only: there is no difference to compute", (factor,))
    levels = runs.factors[position].levels
    for level in (low, high):
        if level not in levels:
            known = ", ".join(repr(each) for each in levels)
            raise ConfigError(f"'{factor}' has no level {level!r} in this table, only {known}", (factor,))
    if low == high:
        raise ConfigError(f"'{factor}': a level cannot be compared with itself ({low})", (factor,))
    fitted = fit_with_error(runs)
    ends = levels.index(low), levels.index(high)
    _, weights = runs.factors[position].difference(*ends)
    weights_r = fitted.fit.contrast((position,), [weights])
    if weights_r is None:
        text = f"The runs do not determine {factor} {high} − {low}: other factors change with it or cells are empty."
        return LevelDifference(None, None, False, (*fitted.cautions, Diagnostic("not_estimable", "blocks", text)))
    value, error = fitted.fit.value(weights_r), fitted.standard_error((position,), weights_r)
    p = t_two_sided((value - against) / error.value, error.df) if error else None
    n = int(runs.counts_cxb[np.isin(runs.cells_cxf[:, position], ends)].sum())
    estimate = contrast_estimate(n, error, value, "difference", interval=interval)
    lost = lost_in_words(lost_runs(table, response, [factor]))
    turning = _not_monotone(fitted, position, ends)
    cautions = (*fitted.cautions, *differs_by_block(fitted, position), *lost, *turning)
    if runs.factors[position].numeric and (found := optimum(fitted, position)) is not None and found.edge:
        cautions = (*cautions, best_at_edge(found))
    probability = probability_lower(runs, position, *ends)
    return LevelDifference(estimate, p, error is not None and error.screening, cautions, probability)


def _not_monotone(fitted: FitWithError, position: int, ends: tuple[int, int]) -> list[Diagnostic]:
    """What is said of numeric levels whose means turn between the two that are compared."""
    factor, means = fitted.runs.factors[position], means_above_first(fitted, position)
    between = list(range(min(ends), max(ends) + 1))
    if means is None or not factor.numeric or len(between) < 3:
        return []
    steps = np.diff([means[level] for level in between])
    if (steps >= 0).all() or (steps <= 0).all():
        return []
    lowest = factor.levels[min(between, key=means.__getitem__)]
    text = (
        f"The means of {factor.name} do not rise or fall all the way from {factor.levels[between[0]]} to "
        f"{factor.levels[between[-1]]} (the lowest is at {lowest}): these two alone do not describe its effect."
    )
    return [Diagnostic("not_monotone", "limits", text)]
