"""Where a curve through level means is lowest, with an interval that allows for noise and for what the curve misses.

Two curves through the levels around the best one: a cubic, and a parabola that may be steeper on one side. Each is
fitted with its minimum held at a place; the places at which it fits not much worse than where it fits best are in its
interval (a profile: the test of a zero slope inverted, as Fieller 1954 inverts that of a ratio). Each curve misses the
minimum where the other one is the truth, so the interval given holds both. Noise is the larger of that of the runs and
of what the curve misses.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property

import numpy as np
from numpy.typing import NDArray
from scipy import optimize

from isoloss.analysis.estimate import LEVEL
from isoloss.analysis.factorial import Floats, f_upper, t_quantile

PARAMETERS = 4
"""Of each curve, the place of its minimum included."""
MIN_WINDOW = 5
"""Levels that a window keeps: one more than parameters, which shows what a curve misses."""
MAX_WINDOW = 7
"""Levels of a window where only what a curve misses tells noise, so that no test can shorten it."""
AROUND = 2
"""Levels that a window keeps on either side of the best one, where there are as many."""
FITS = 0.5
"""A window is taken where what the curve misses has at least this p; else it loses its higher end."""
STEPS = 12
"""Places tried between two neighbouring levels."""
CLEARLY = 2.0
"""Standard errors by which another curve has to fit better than the cubic to give the value."""
FINE, ROUNDS = 17, 5
"""Places tried between two, so many times over, each time between the neighbours of the best one."""
STEEPER = 4.0
"""Curvature of one side over that of the other that the interval from three levels allows for."""
TAIL = 0.6
"""Of t, on either side, over 1 − level, for each curve; 0.5 would be usual. Measured for the interval of both."""

Curve = Callable[[Floats], Floats]
"""Columns of a curve whose minimum is at zero, of distances from it; a constant is added to them."""


def _cubic(u: Floats) -> Floats:
    return np.stack([u**2, u**3], axis=-1)


def _two_sided(u: Floats) -> Floats:
    return np.stack([u**2 * (u < 0), u**2 * (u > 0)], axis=-1)


def _symmetric(u: Floats) -> Floats:
    return np.stack([u**2], axis=-1)


def _steep_left(u: Floats) -> Floats:
    return np.stack([u**2 * np.where(u < 0, STEEPER, 1.0)], axis=-1)


def _steep_right(u: Floats) -> Floats:
    return _steep_left(-u)


CURVES: tuple[Curve, ...] = (_cubic, _two_sided)
CURVES_OF_THREE: tuple[Curve, ...] = (_symmetric, _steep_left, _steep_right)
"""Of three levels, which do not tell how much steeper one side is."""


@dataclass(frozen=True)
class Noise:
    """The variance of a run, on so many degrees of freedom."""

    variance: float
    df: float


@dataclass(frozen=True)
class Valley:
    """The place of the minimum; an end is None where the levels do not bound it.

    `noise` is that of the runs, else of what the curve misses; None where neither tells it.
    """

    place: float
    low: float | None
    high: float | None
    noise: Noise | None
    method: str


@dataclass(frozen=True)
class Means:
    """Means of levels at `x_l`, ascending; their covariance is in units of the variance of a run."""

    x_l: Floats
    mean_l: Floats
    covariance_lxl: Floats

    def part(self, start: int, stop: int) -> Means:
        """Neighbouring levels."""
        return Means(self.x_l[start:stop], self.mean_l[start:stop], self.covariance_lxl[start:stop, start:stop])

    @cached_property
    def whitening_lxl(self) -> Floats:
        """What gives the means independent errors of the variance of a run."""
        # A common shift of all means is free, so that adding to their covariance changes nothing but makes it regular.
        shift = float(np.trace(self.covariance_lxl)) / len(self.x_l)
        whitening_lxl = np.linalg.inv(np.linalg.cholesky(self.covariance_lxl + shift))
        return np.asarray(whitening_lxl, dtype=np.float64)


@dataclass(frozen=True)
class CurveFit:
    """A curve in its window: what it misses with its minimum at each of p places, in units of squared response.

    `place` is where it misses `least`; of a curve without a minimum in the window, where it turns or the window ends.
    `variance` is that of a run, on `df`; None where nothing tells it.
    """

    curve: Curve
    means: Means
    place_p: Floats
    misfit_p: Floats
    place: float
    least: float
    variance: float | None
    df: float

    @property
    def spare(self) -> int:
        """Levels beyond parameters."""
        return len(self.means.x_l) - PARAMETERS

    def missed(self, place: float) -> float:
        """What the curve misses with its minimum at a place."""
        return float(_misfits(self.means, self.curve, np.array([place]))[0][0])

    def limit(self, tail: float) -> float | None:
        """The misfit up to which a place is in the interval with this probability of t beyond it on either side."""
        return None if self.variance is None else self.least + self.variance * t_quantile(1 - tail, self.df) ** 2


def valley(means: Means, noise: Noise | None, level: float = LEVEL) -> Valley:
    """The place between the first and the last of three levels or more at which the expected response is lowest.

    `level` is that of the interval, which is open on the side where the lowest mean is that of the first or last level.
    Without `noise` that is taken from what each curve misses, on as many degrees of freedom as there are levels beyond
    four.
    """
    x_l, best = means.x_l, int(np.argmin(means.mean_l))
    last = len(x_l) - 1
    fits = fit_curves(means, noise)
    chosen = _chosen(fits)
    if noise is None and chosen.variance is not None:
        noise = Noise(chosen.variance, chosen.df)
    place = min(max(chosen.place, float(x_l[max(best - 1, 0)])), float(x_l[min(best + 1, last)]))
    words = "parabola" if last == 2 else "cubic and two-sided parabola"
    method = f"{words} through {max(len(fit.means.x_l) for fit in fits)} levels"
    limits = [fit.limit(TAIL * (1 - level)) for fit in fits]
    ends = [_ends(fit, limit) for fit, limit in zip(fits, limits, strict=True) if limit is not None]
    if not ends:
        return Valley(place, None, None, noise, f"{method}; no noise to judge by")
    low, high = min(place, *(low for low, _ in ends)), max(place, *(high for _, high in ends))
    if last == 2:
        method += f", one side up to {STEEPER:g} times as steep"
    return Valley(
        place,
        None if best == 0 or low <= x_l[0] else low,
        None if best == last or high >= x_l[-1] else high,
        noise,
        f"{method}, profile of the place of the minimum",
    )


def fit_curves(means: Means, noise: Noise | None) -> list[CurveFit]:
    """The curves through three levels or more, each in its own window."""
    return [_fit(means, noise, curve) for curve in (CURVES_OF_THREE if len(means.x_l) == 3 else CURVES)]


def _chosen(fits: list[CurveFit]) -> CurveFit:
    """The first curve, unless another one fits clearly better."""
    first, better = fits[0], min(fits, key=lambda fit: fit.least)
    if better.variance is None or better.spare < 1:
        return first
    return better if first.least - better.least > CLEARLY**2 * better.variance else first


def _fit(means: Means, noise: Noise | None, curve: Curve) -> CurveFit:
    """A curve in the widest window around the best level that it fits; a window loses its higher end first."""
    best, start, stop = int(np.argmin(means.mean_l)), 0, len(means.x_l)
    while noise is None and stop - start > MAX_WINDOW:
        start, stop = _shorter(means, best, start, stop)
    while True:
        part = means.part(start, stop)
        place_p = _places(part.x_l)
        misfit_p, upward_p = _misfits(part, curve, place_p)
        spare = stop - start - PARAMETERS
        if noise is None or spare <= MIN_WINDOW - PARAMETERS:
            break
        missed = max(float(least_between(misfit_p[None])[0]), 0.0)
        if f_upper(missed / spare / noise.variance, spare, noise.df) >= FITS:
            break
        start, stop = _shorter(means, best, start, stop)
    place, least = _best_place(part, curve, place_p, misfit_p, upward_p)
    # Noise is the larger of that of the runs and of what the curve misses.
    missed = least / spare if spare > 0 else 0.0
    if noise is not None:
        return CurveFit(curve, part, place_p, misfit_p, place, least, max(noise.variance, missed), noise.df)
    return CurveFit(curve, part, place_p, misfit_p, place, least, missed if spare > 0 else None, spare)


def _shorter(means: Means, best: int, start: int, stop: int) -> tuple[int, int]:
    before, after = best - start > AROUND, stop - 1 - best > AROUND
    if before and (not after or means.mean_l[start] > means.mean_l[stop - 1]):
        return start + 1, stop
    return start, stop - 1


def _best_place(
    means: Means, curve: Curve, place_p: Floats, misfit_p: Floats, upward_p: NDArray[np.bool_]
) -> tuple[float, float]:
    """Where the curve misses least, and how much: with a minimum there, where it has one at any of the places tried."""
    p = int(np.argmin(np.where(upward_p, misfit_p, np.inf) if upward_p.any() else misfit_p))
    around = place_p[max(p - 1, 0)], place_p[min(p + 1, len(place_p) - 1)]
    refined, lower = least_of(lambda at_p: _misfits(means, curve, at_p)[0], *around)
    return (refined, lower) if lower < misfit_p[p] else (float(place_p[p]), float(misfit_p[p]))


def least_between(misfit_sxp: Floats) -> Floats:
    """The least of smooth functions tried at even steps, a row each: the vertex of the parabola through its three
    lowest values, or where the lowest is the first or last finite one, that value.
    """
    row_s, p_s = np.arange(len(misfit_sxp)), misfit_sxp.argmin(axis=1)
    inner_s = np.clip(p_s, 1, misfit_sxp.shape[1] - 2)
    before_s, here_s, after_s = (misfit_sxp[row_s, inner_s + step] for step in (-1, 0, 1))
    with np.errstate(invalid="ignore", divide="ignore"):
        bend_s = before_s - 2 * here_s + after_s
        vertex_s = here_s - (after_s - before_s) ** 2 / (8 * bend_s)
    return np.where((inner_s == p_s) & (bend_s > 0) & np.isfinite(vertex_s), vertex_s, misfit_sxp[row_s, p_s])


def least_of(function: Callable[[Floats], Floats], low: float, high: float) -> tuple[float, float]:
    """Where a function with one dip between two places is least, and its value there, by finer and finer steps."""
    place, least = low, math.inf
    for _ in range(ROUNDS):
        at_p = np.linspace(low, high, FINE)
        value_p = function(at_p)
        p = int(np.argmin(value_p))
        place, least = float(at_p[p]), float(value_p[p])
        low, high = float(at_p[max(p - 1, 0)]), float(at_p[min(p + 1, FINE - 1)])
    return place, least


def _places(x_l: Floats) -> Floats:
    between = np.linspace(x_l[:-1], x_l[1:], STEPS, endpoint=False).T.ravel()
    return np.append(between, x_l[-1])


def _misfits(means: Means, curve: Curve, place_p: Floats) -> tuple[Floats, NDArray[np.bool_]]:
    """What the curve misses with its minimum at each place, by generalised least squares, and whether it is one."""
    x_l, scale = means.x_l, float(means.x_l[-1] - means.x_l[0])
    columns_lxpxt = curve((x_l[:, None] - place_p) / scale)
    size = 1 + columns_lxpxt.shape[-1]
    own_lxpxt = means.whitening_lxl @ columns_lxpxt.reshape(len(x_l), -1)
    y_l = means.whitening_lxl @ (means.mean_l - means.mean_l.min())
    x_pxtxl: Floats = np.empty((len(place_p), size, len(x_l)))
    x_pxtxl[:, 0] = means.whitening_lxl.sum(axis=1)
    x_pxtxl[:, 1:] = own_lxpxt.reshape(len(x_l), len(place_p), -1).transpose(1, 2, 0)
    normal_pxtxt = x_pxtxl @ np.swapaxes(x_pxtxl, 1, 2)
    ridge = 1e-13 * np.trace(normal_pxtxt, axis1=1, axis2=2)[:, None, None] * np.eye(size)
    right_pxtx1 = x_pxtxl @ y_l[:, None]
    found_pxt = np.asarray(np.linalg.solve(normal_pxtxt + ridge, right_pxtx1), dtype=np.float64)[..., 0]
    missed_pxl = y_l - (found_pxt[:, None] @ x_pxtxl)[:, 0]
    bends_pxt = found_pxt[:, 1:2] if curve is _cubic else found_pxt[:, 1:]
    upward_p = (bends_pxt >= 0).all(axis=1) & (bends_pxt > 0).any(axis=1)
    return np.asarray((missed_pxl**2).sum(axis=1), dtype=np.float64), np.asarray(upward_p)


def _ends(fit: CurveFit, limit: float) -> tuple[float, float]:
    """How far from its best place outwards the curve fits well enough, at most to the ends of its window."""
    place_p, last = fit.place_p, len(fit.place_p) - 1

    def end(p: int, step: int) -> float:
        inside = fit.place
        while 0 <= p <= last and fit.misfit_p[p] <= limit:
            inside, p = float(place_p[p]), p + step
        if not 0 <= p <= last or fit.missed(inside) >= limit:
            return inside
        return float(optimize.brentq(lambda at: fit.missed(at) - limit, inside, float(place_p[p])))

    above = int(np.searchsorted(place_p, fit.place, side="right"))
    return end(above - 1 if above and place_p[above - 1] < fit.place else above - 2, -1), end(above, 1)
