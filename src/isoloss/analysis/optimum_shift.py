"""Whether the best value of one numeric factor moves with another, as the best learning rate may with the width."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial

import numpy as np
from numpy.typing import NDArray
from scipy import interpolate

from isoloss.analysis.error_term import FitWithError
from isoloss.analysis.estimate import LEVEL, Estimate
from isoloss.analysis.factorial import Floats, t_quantile, t_two_sided
from isoloss.analysis.optimum import level_error, on_log_scale, sought_means
from isoloss.analysis.valley import FINE, ROUNDS, CurveFit, Means, Noise, fit_curves, least_between, least_of
from isoloss.diagnostic import Diagnostic

SHIFTS, PLACES = 41, 65
"""Shifts, and places of the mean optimum, at which a search starts."""
ROUNDED = 1e-15
"""Of the largest misfit, what sums of such misfits cannot tell from zero."""


@dataclass(frozen=True)
class OptimumShift:
    """How far the optimum of `factor` moves with `moved_by`: in doublings per doubling where both are on log scales.

    0 is an optimum that stays; −1 one that halves where the other factor doubles. `p` is of no shift. Without an
    estimate `cautions` say why.
    """

    factor: str
    moved_by: str
    unit: str
    estimate: Estimate | None
    p: float | None
    response: str
    cautions: tuple[Diagnostic, ...] = ()


@dataclass(frozen=True)
class _Valleys:
    """One kind of curve at each of l levels of the other factor, at `z_l` about their mean: what it misses by place."""

    z_l: Floats
    misfits: tuple[Callable[[Floats], Floats], ...]
    low: float
    high: float
    noise: Noise | None
    spare: int
    """Means beyond parameters."""

    def misfit(self, shift_s: Floats) -> Floats:
        """What the curves miss at least with their minima on lines of these slopes."""
        place_p = np.linspace(self.low, self.high, PLACES)
        by_level = (f(place_p + shift_s[:, None] * z) for f, z in zip(self.misfits, self.z_l, strict=True))
        return least_between(np.sum([*by_level], axis=0))


@dataclass(frozen=True)
class _Slope:
    """The slope at which curves fit best; its interval and p where something tells noise."""

    value: float
    low: float | None
    high: float | None
    p: float | None


def optimum_shifts(fitted: FitWithError) -> tuple[OptimumShift, ...]:
    """The shift of every numeric factor of three levels or more with every other numeric factor."""
    factors = fitted.runs.factors
    return tuple(
        optimum_shift(fitted, position, other)
        for position, factor in enumerate(factors)
        for other, by in enumerate(factors)
        if other != position and factor.numeric and len(factor.levels) > 2 and by.numeric
    )


def optimum_shift(fitted: FitWithError, position: int, other: int, interval: float = LEVEL) -> OptimumShift:
    """The slope of a line through the optima of one factor at the levels of another, by curves with minima on it.

    At each level the curves of `valley` are fitted with their minimum held on a common line; slopes at which all fit
    not much worse than at the best one are in the interval, which holds those of both curves. Levels at which the best
    value lies at the edge of the grid tell no optimum and are left out.
    """
    runs = fitted.runs
    factor, by = runs.factors[position], runs.factors[other]
    shift = partial(OptimumShift, factor.name, by.name)
    x_log = on_log_scale(np.asarray(factor.levels, dtype=np.float64))
    z_l = np.asarray(by.levels, dtype=np.float64)
    z_log = on_log_scale(z_l)
    z_l = np.log2(z_l) if z_log else z_l
    unit = f"{'doublings' if x_log else factor.name} per {'doubling' if z_log else by.name}"
    swept = _swept_levels(runs.cells_cxf, position, other)
    tried = [(level, sought_means(fitted, position, (other, level))) for level in swept]
    told = [(level, means) for level, means in tried if means is not None and _inside(means)]
    if len(told) < 2:
        untold = _untold(factor.name, by.name, len(told), len(tried), len(z_l))
        return shift(unit, None, None, runs.response, (untold,))
    error = level_error(fitted, position, other)
    noise = Noise(error.sd**2, error.df) if error is not None else None
    n = int(runs.counts_cxb[np.isin(runs.cells_cxf[:, other], [level for level, _ in told])].sum())
    told_l, means = z_l[[level for level, _ in told]], [each for _, each in told]
    found = [_slope(each, interval, runs.rounding) for each in _valleys(told_l, means, noise)]
    source = f"noise of {error.source} on {error.df:.4g} df" if error else "noise is what they miss"
    method = f"minima of cubics and of two-sided parabolas on a line, profile of its slope; {source}"
    estimate = _together(found, math.log(2) if x_log else 1.0, interval, n, method)
    p_values = [slope.p for slope in found if slope.p is not None]
    cautions: tuple[Diagnostic, ...] = ()
    if len(told) < len(tried):
        text = (
            f"At {len(tried) - len(told)} of {len(z_l)} levels of {by.name} the best {factor.name} lies at the edge of "
            "the grid: they are left out of its shift."
        )
        cautions = (Diagnostic("best_at_edge", "limits", text),)
    return shift(unit, estimate, max(p_values) if p_values else None, runs.response, cautions)


def _swept_levels(cells_cxf: NDArray[np.intp], position: int, other: int) -> list[int]:
    """Levels of the other factor with three values or more: what an additive model says elsewhere was not observed."""
    levels = np.unique(cells_cxf[:, other]).tolist()
    return [z for z in levels if len(np.unique(cells_cxf[cells_cxf[:, other] == z, position])) > 2]


def _untold(factor: str, by: str, told: int, tried: int, levels: int) -> Diagnostic:
    """Why the shift of a factor with another is not told, and what would tell it."""
    if tried < 2:
        why = f"three of its values or more were tried at {tried} of {levels} levels of {by}"
        remedy = f"Cross {factor} with {by}."
    else:
        why = f"at {told} of {levels} levels of {by} it lies within the grid"
        remedy = f"Widen the grid of {factor} until the best value lies inside at every level."
    text = f"Whether the best {factor} moves with {by} is not told: {why}."
    return Diagnostic("optimum_not_bracketed", "limits", text, remedy)


def _together(found: Sequence[_Slope], unit: float, interval: float, n: int, method: str) -> Estimate:
    """The first slope, with an interval that holds those of all."""
    value = found[0].value / unit
    lows, highs = [each.low for each in found], [each.high for each in found]
    low = None if None in lows else min([value, *(each / unit for each in lows if each is not None)])
    high = None if None in highs else max([value, *(each / unit for each in highs if each is not None)])
    return Estimate(value, low, high, interval, n, method)


def _inside(means: Means) -> bool:
    return len(means.x_l) > 2 and 0 < int(np.argmin(means.mean_l)) < len(means.x_l) - 1


def _valleys(z_l: Floats, means: Sequence[Means], noise: Noise | None) -> Iterator[_Valleys]:
    """The curves at every level of the other factor, one kind after the other."""
    by_level = [fit_curves(each, noise) for each in means]
    for kind in range(min(map(len, by_level))):
        fits = [each[kind] for each in by_level]
        yield _Valleys(
            z_l - z_l.mean(),
            tuple(_misfit(fit) for fit in fits),
            min(float(fit.place_p[0]) for fit in fits),
            max(float(fit.place_p[-1]) for fit in fits),
            noise,
            sum(len(fit.means.x_l) - (3 if len(fit.means.x_l) > 3 else 2) for fit in fits) - 2,
        )


def _misfit(fit: CurveFit) -> Callable[[Floats], Floats]:
    """What a curve misses by the place of its minimum; no number outside of its window."""
    spline = interpolate.CubicSpline(fit.place_p, fit.misfit_p, extrapolate=False)

    def missed(place_p: Floats) -> Floats:
        misfit_p = np.asarray(spline(place_p), dtype=np.float64)
        return np.where(np.isnan(misfit_p), np.inf, misfit_p)

    return missed


def _slope(valleys: _Valleys, interval: float, rounding: float) -> _Slope:
    """The best slope; misfits of runs by `rounding`, or of sums by theirs, tell no noise."""
    reach = 2 * (valleys.high - valleys.low) / float(np.ptp(valleys.z_l))
    shift_s = np.linspace(-reach, reach, SHIFTS)
    misfit_s = valleys.misfit(shift_s)
    s = int(np.argmin(misfit_s))
    around = float(shift_s[max(s - 1, 0)]), float(shift_s[min(s + 1, SHIFTS - 1)])
    refined, lower = least_of(valleys.misfit, *around)
    least, value = min((lower, refined), (float(misfit_s[s]), float(shift_s[s])))
    missed = max(least, 0.0) / valleys.spare if valleys.spare > 0 else 0.0
    at_zero = float(valleys.misfit(np.zeros(1))[0])
    nothing = max(valleys.spare * rounding**2, ROUNDED * float(misfit_s[np.isfinite(misfit_s)].max()))
    if valleys.noise is None and (missed == 0.0 or least <= nothing):
        return _Slope(0.0 if at_zero <= nothing else value, None, None, None)
    df = valleys.noise.df if valleys.noise else valleys.spare
    variance = max(missed, valleys.noise.variance) if valleys.noise else missed
    limit = least + variance * t_quantile((1 + interval) / 2, df) ** 2

    def end(step: int) -> float | None:
        inside, k = value, s if (shift_s[s] - value) * step > 0 else s + step
        while 0 <= k < SHIFTS and misfit_s[k] <= limit:
            inside, k = float(shift_s[k]), k + step
        if not 0 <= k < SHIFTS:
            return None
        outside = float(shift_s[k])
        for _ in range(ROUNDS):  # no root search, as misfits may be infinite
            at_s = np.linspace(inside, outside, FINE)
            last = int(np.flatnonzero([True, *(valleys.misfit(at_s[1:-1]) <= limit)])[-1])
            inside, outside = float(at_s[last]), float(at_s[last + 1])
        return inside

    t = math.sqrt(max(at_zero - least, 0.0) / variance)
    return _Slope(value, end(-1), end(1), t_two_sided(t, df))
