"""Level means of one factor: the largest difference between them, and how far each is uncertain."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace

import numpy as np

from isoloss.analysis.error_term import FitWithError, StandardError
from isoloss.analysis.estimate import LEVEL, Estimate
from isoloss.analysis.factorial import Floats, f_quantile, t_quantile
from isoloss.analysis.factorial_table import FactorialTable


@dataclass(frozen=True)
class LevelRange:
    """A factor's levels with the lowest and the highest least-squares mean; `estimate` is the highest minus the lowest.

    Its interval allows for the levels having been chosen by their means; of two levels it is that of t.
    """

    lowest: float | str | bool
    highest: float | str | bool
    estimate: Estimate


def means_above_first(fitted: FitWithError, position: int) -> list[float] | None:
    """Least-squares means of a factor's levels above that of the first; None where the runs do not determine them."""
    factor = fitted.runs.factors[position]
    found = [
        fitted.fit.contrast((position,), [factor.difference(0, level)[1]]) for level in range(1, len(factor.levels))
    ]
    known = [fitted.fit.value(weights_r) for weights_r in found if weights_r is not None]
    return [0.0, *known] if len(known) == len(found) else None


def level_range(fitted: FitWithError, position: int) -> LevelRange | None:
    """The levels of a factor with the extreme means, and their difference; None where the runs do not determine it."""
    factor = fitted.runs.factors[position]
    above_first = means_above_first(fitted, position)
    if above_first is None:
        return None
    lowest, highest = int(np.argmin(above_first)), int(np.argmax(above_first))
    if lowest == highest:
        lowest, highest = 0, len(factor.levels) - 1
    weights_r = fitted.fit.contrast((position,), [factor.difference(lowest, highest)[1]])
    if weights_r is None:
        return None
    estimate = _chosen_difference(fitted, position, weights_r)
    return LevelRange(factor.levels[lowest], factor.levels[highest], estimate)


def half_widths(fitted: FitWithError, position: int) -> tuple[float, ...] | None:
    """Half the 95% interval of each level's mean; None where levels are not determined or there is no error.

    By the noise within the level's own cells, weighing alike. With blocks, of which a mean shares all, by the contrast
    of the level with the mean of all levels, whose variance is that of the level's mean less a share of 1 / levels.
    """
    if fitted.scatter is not None and fitted.scatter.design is None:
        return _by_own_noise(fitted.runs, position)
    levels = len(fitted.runs.factors[position].levels)
    half_widths: list[float] = []
    for weights in np.eye(levels) - 1 / levels:
        weights_r = fitted.fit.contrast((position,), [weights])
        error = None if weights_r is None else fitted.standard_error((position,), weights_r)
        if error is None:
            return None
        half_widths.append(t_quantile((1 + LEVEL) / 2, error.df) * error.value * math.sqrt(levels / (levels - 1)))
    return tuple(half_widths)


def _by_own_noise(runs: FactorialTable, position: int) -> tuple[float, ...] | None:
    """Half the interval of each level's mean from the variances of its cells (Welch 1947); None where one has none."""
    n_c, half_widths = runs.counts_cxb.sum(axis=1), list[float]()
    for level in range(len(runs.factors[position].levels)):
        of_level = runs.cells_cxf[:, position] == level
        own_n, squares = n_c[of_level], runs.within_ss_c[of_level]
        if (own_n < 2).any() or not squares.any():
            return None
        part = squares / (own_n - 1) / own_n / len(own_n) ** 2
        df = float(part.sum()) ** 2 / float((part**2 / (own_n - 1)).sum())
        half_widths.append(t_quantile((1 + LEVEL) / 2, df) * math.sqrt(float(part.sum())))
    return tuple(half_widths)


def _chosen_difference(fitted: FitWithError, position: int, weights_r: Floats) -> Estimate:
    """The difference between two levels that were chosen by their means.

    Its standard error is the larger of its own and of that of two levels on average, times what Scheffé's interval
    takes on the degrees of freedom of the factor's F, and no less than t.
    """
    term, value = (position,), fitted.fit.value(weights_r)
    own, average, tested = fitted.standard_error(term, weights_r), fitted.error_of(term), fitted.test(term)
    simple = contrast_estimate(fitted.runs.n, own, value, "largest difference")
    if own is None or average is None or tested is None or len(fitted.runs.factors[position].levels) == 2:
        return simple
    scheffe = math.sqrt(tested.df * f_quantile(LEVEL, tested.df, tested.error_df))
    times = max(t_quantile((1 + LEVEL) / 2, own.df), scheffe)
    reach = times * max(own.value, average.sd * float(np.linalg.norm(weights_r)))
    on = f"Scheffé on {tested.df:.4g} and {tested.error_df:.4g} df of {own.source}"
    method = f"largest difference of least-squares means; {'screening: ' if own.screening else ''}{on}"
    return replace(simple, low=value - reach, high=value + reach, method=method)


def contrast_estimate(
    n: int, error: StandardError | None, value: float, kind: str, interval: float = LEVEL
) -> Estimate:
    """A contrast with its t interval."""
    if error is None:
        return Estimate(value, None, None, interval, n, f"{kind} of least-squares means; no error to judge it by")
    reach = t_quantile((1 + interval) / 2, error.df) * error.value
    label = "screening: " if error.screening else ""
    method = f"{kind} of least-squares means; {label}t on {error.df:.4g} df of {error.source}"
    return Estimate(value, value - reach, value + reach, interval, n, method)
