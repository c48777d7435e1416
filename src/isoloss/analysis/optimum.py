"""The best value of each numeric factor of three levels or more, and what lies as near to it as chance explains."""

from __future__ import annotations

import math
import re
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from typing import Literal, cast

import numpy as np
from numpy.typing import NDArray

from isoloss.analysis.error_term import ErrorTerm, FitWithError
from isoloss.analysis.estimate import LEVEL
from isoloss.analysis.factorial import Floats, SumOfSquares, Term, t_quantile
from isoloss.analysis.valley import Means, Noise, valley
from isoloss.diagnostic import Diagnostic

Level = float | str | bool
_HIGH_IS_GOOD = re.compile(r"acc(uracy)?(\b|_)|tokens_per_s|throughput|mfu|score|reward|bleu|_per_s(econd)?$|\bf1\b")


@dataclass(frozen=True)
class LevelMeans(Means):
    """Means with the positions of their levels."""

    levels: NDArray[np.intp]


@dataclass(frozen=True)
class Optimum:
    """Where a response is lowest (or highest, see `sought`) over a numeric factor, in the factor's own unit.

    `low` and `high` are the ends of the 95% interval of `value`; None where the levels do not bound it on that side or
    nothing tells noise. `edge` is set where the best level is the first or the last: the optimum may lie beyond.
    `indistinguishable` are the other levels that may be the best one for all that chance explains. `at` is empty, or
    holds the level of another factor on which the optimum depends.
    """

    factor: str
    at: Mapping[str, Level]
    value: float
    low: float | None
    high: float | None
    best_level: float
    indistinguishable: tuple[float, ...]
    edge: bool
    response: str
    method: str
    n: int
    sought: Literal["lowest", "highest"]


def optima(fitted: FitWithError, interacting: Collection[Term]) -> tuple[Optimum, ...]:
    """The optimum of every numeric factor of three levels or more, over all runs and at each level it depends on.

    `interacting` are the two-factor interactions that chance does not explain: each gives the optima of its numeric
    factors at every level of the other. What the runs do not determine is left out.
    """
    found: list[Optimum | None] = []
    for position, factor in enumerate(fitted.runs.factors):
        if factor.numeric and len(factor.levels) > 2:
            found.append(optimum(fitted, position))
            for term in interacting:
                if position in term:
                    other = term[1 - term.index(position)]
                    levels = range(len(fitted.runs.factors[other].levels))
                    found += [optimum(fitted, position, (other, level)) for level in levels]
    return tuple(each for each in found if each is not None)


def optimum(
    fitted: FitWithError, position: int, at: tuple[int, int] | None = None, interval: float = LEVEL
) -> Optimum | None:
    """The optimum of one numeric factor, over all runs or at a level of another; None with fewer than three means."""
    runs, factor = fitted.runs, fitted.runs.factors[position]
    means = sought_means(fitted, position, at)
    if means is None:
        return None
    log = on_log_scale(np.asarray(factor.levels, dtype=np.float64))
    levels = cast(list[float], [factor.levels[level] for level in means.levels])  # 128 stays 128, not 128.0
    error = fitted.error_of((position,)) if at is None else level_error(fitted, position, at[0])
    noise = Noise(error.sd**2, error.df) if error is not None else None
    found = valley(means, noise, interval)
    best = int(np.argmin(means.mean_l))
    here = np.ones(runs.n_cells, dtype=bool) if at is None else runs.cells_cxf[:, at[0]] == at[1]
    place, low, high = (
        None if end is None else float(math.exp(end) if log else end) for end in (found.place, found.low, found.high)
    )
    assert place is not None
    return Optimum(
        factor=factor.name,
        at={} if at is None else {runs.factors[at[0]].name: runs.factors[at[0]].levels[at[1]]},
        value=place,
        low=low,
        high=high,
        best_level=levels[best],
        indistinguishable=tuple(levels[level] for level in _may_be_best(means, found.noise)),
        edge=best in (0, len(levels) - 1),
        response=runs.response,
        method=f"{found.method}, of {'log ' if log else ''}{factor.name}"
        + (f"; noise of {error.source} on {error.df:.4g} df" if error else ""),
        n=int(runs.counts_cxb[here].sum()),
        sought=sought(runs.response),
    )


def sought_means(fitted: FitWithError, position: int, at: tuple[int, int] | None = None) -> LevelMeans | None:
    """Least-squares means of a factor's levels, lower being better; None where fewer than three are determined.

    With `at`, another factor and a level of it, those at that level. The scale is that of `on_log_scale`.
    """
    levels, mean_l, covariance_lxl = fitted.fit.level_means(position, at)
    if len(levels) < 3:
        return None
    every = np.asarray(fitted.runs.factors[position].levels, dtype=np.float64)
    x_l = np.log(every[levels]) if on_log_scale(every) else every[levels]
    sign = -1.0 if sought(fitted.runs.response) == "highest" else 1.0
    return LevelMeans(x_l, sign * mean_l, covariance_lxl, levels)


def sought(response: str) -> Literal["lowest", "highest"]:
    """Which way a response is better, as far as its name tells; a loss is best where it is lowest."""
    return "highest" if _HIGH_IS_GOOD.search(response.lower()) else "lowest"


def on_log_scale(levels: Floats) -> bool:
    """Whether levels, ascending, are positive and spaced by factors at least as evenly as by differences."""
    if levels[0] <= 0:
        return False
    steps, ratios = np.diff(levels), np.diff(np.log(levels))
    return bool(ratios.std() / ratios.mean() <= steps.std() / steps.mean() + 1e-9)


def best_at_edge(found: Optimum) -> Diagnostic:
    """What is said of an optimum at the first or the last level."""
    where = "".join(f" at {name} {level}" for name, level in found.at.items())
    text = (
        f"The best {found.factor}{where} lies at the edge of the grid ({found.best_level:g}): "
        "the optimum may lie beyond it."
    )
    return Diagnostic("best_at_edge", "limits", text, f"Try levels of {found.factor} beyond {found.best_level:g}.")


def level_error(fitted: FitWithError, position: int, other: int) -> ErrorTerm | None:
    """What the means of a factor at one level of another are held against.

    Where there are blocks they differ between them by block × factor and block × both, which are pooled.
    """
    own = fitted.between((position,))
    both = fitted.between((min(position, other), max(position, other)))
    if own is None or both is None:
        return fitted.error_of((position,))
    together = SumOfSquares(own.value + both.value, own.df + both.df)
    return ErrorTerm(
        math.sqrt(together.value / together.df),
        together.df,
        f"{fitted.runs.block} × {fitted.runs.name((position,))} within levels of {fitted.runs.factors[other].name}",
        screening=False,
    )


def _may_be_best(means: Means, noise: Noise | None) -> list[int]:
    """Levels other than the best whose mean is above it by no more than chance explains (subset selection, Gupta 1956).

    Two-sided t at 5% over all comparisons (Bonferroni): the truly best level is among these or the best with 95%
    probability, and of two equal levels neither is told worse in more than 5% of studies.
    """
    mean_l, covariance_lxl = means.mean_l, means.covariance_lxl
    best, others = int(np.argmin(mean_l)), len(mean_l) - 1
    if noise is None:
        return [level for level in range(len(mean_l)) if level != best]
    variance_l = np.diag(covariance_lxl) + covariance_lxl[best, best] - 2 * covariance_lxl[best]
    reach_l = t_quantile(1 - (1 - LEVEL) / 2 / others, noise.df) * np.sqrt(noise.variance * np.maximum(variance_l, 0))
    above_l = mean_l - mean_l[best]
    return [level for level in range(len(mean_l)) if level != best and above_l[level] <= reach_l[level]]
