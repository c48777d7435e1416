"""The power law through the minima of IsoFLOP profiles (Hoffmann et al. 2022, approach 2), beside the fitted law."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from math import exp, hypot, log, sqrt

import numpy as np
from scipy import special

from isoloss.analysis.cost import SIX_ND, Cost
from isoloss.analysis.estimate import LEVEL, Estimate, in_words
from isoloss.analysis.frontier import frontier
from isoloss.analysis.isoflop import Profile
from isoloss.analysis.laws import Floats
from isoloss.analysis.scaling import Fit
from isoloss.diagnostic import Diagnostic
from isoloss.wording import si

MIN_PROFILES = 3
"""Fewer minima leave a power law without an error of its own."""


@dataclass(frozen=True)
class Power:
    """coefficient · C^exponent."""

    exponent: Estimate
    coefficient: Estimate


@dataclass(frozen=True)
class IsoflopLaw:
    """The best size N and tokens D as powers of compute, and the best size in the middle of the profiles."""

    N: Power
    D: Power
    cost: Cost
    """From which D follows."""
    middle: float
    """Geometric mean of the profiles' computes, in FLOPs."""
    at_middle: Estimate


def isoflop_law(profiles: Sequence[Profile], cost: Cost = SIX_ND) -> IsoflopLaw | None:
    """Weighted least squares of log N* on log C; None with fewer than three minima.

    Weights are inverse variances: of each minimum, plus what minima vary by beyond it (DerSimonian and Laird 1986).
    Intervals are t on the number of minima less two, from how far the minima are off the line; what moves all minima at
    once is no part of the weights, and is added to the intervals.
    """
    found = [profile for profile in profiles if profile.optimal_params]
    known = [(p.flops, p.optimal_params) for p in found if p.optimal_params]
    if len(known) < MIN_PROFILES:
        return None
    x_w, y_w = np.log([flops for flops, _ in known]), np.log([size.value for _, size in known])
    half_w = np.array([log(size.high / size.low) / 2 for _, size in known if size.high and size.low])
    common_w = np.array([profile.common_half for profile in found])
    half_w = np.sqrt(np.maximum(half_w**2 - common_w**2, 0.0))
    variance_w = np.maximum(half_w / float(special.ndtri((1 + LEVEL) / 2)), max(float(half_w.max()) * 1e-3, 1e-9)) ** 2
    middle, df = float(x_w.mean()), len(known) - 2
    basis_wx2 = np.column_stack([np.ones_like(x_w), x_w - middle])
    weight_w = 1 / variance_w
    unit_2x2, _, squares = _weighted(basis_wx2, y_w, weight_w)
    spent = float(np.trace(unit_2x2 @ ((basis_wx2.T * weight_w**2) @ basis_wx2)))
    weight_w = 1 / (variance_w + max(0.0, (squares - df) / (float(weight_w.sum()) - spent)))
    unit_2x2, fitted_2, squares = _weighted(basis_wx2, y_w, weight_w)
    variance_2x2 = unit_2x2 * squares / df
    common_2 = unit_2x2 @ (basis_wx2.T @ (weight_w * common_w))
    quantile, n = float(special.stdtrit(df, (1 + LEVEL) / 2)), sum(p.n for p in profiles)
    method = f"power law through {len(known)} minima, weighted, t with {df} df"

    def estimate(intercept: float, slope: float, *, of_log: bool) -> Estimate:
        at_2 = np.array([intercept, slope])
        value = float(at_2 @ fitted_2)
        half = hypot(quantile * sqrt(max(0.0, float(at_2 @ variance_2x2 @ at_2))), float(at_2 @ common_2))
        ends = (value, value - half, value + half)
        value, low, high = (exp(end) for end in ends) if of_log else ends
        return Estimate(value, low, high, LEVEL, n, method)

    size = Power(estimate(0, 1, of_log=False), estimate(1, -middle, of_log=True))
    return IsoflopLaw(size, _tokens(size, cost), cost, exp(middle), estimate(1, 0, of_log=True))


def _weighted(basis_wx2: Floats, y_w: Floats, weight_w: Floats) -> tuple[Floats, Floats, float]:
    """Inverse information, coefficients and weighted squares left over, of weighted least squares."""
    unit_2x2 = np.asarray(np.linalg.inv((basis_wx2.T * weight_w) @ basis_wx2), dtype=np.float64)
    fitted_2 = unit_2x2 @ (basis_wx2.T @ (weight_w * y_w))
    return unit_2x2, fitted_2, float(weight_w @ (y_w - basis_wx2 @ fitted_2) ** 2)


def _tokens(size: Power, cost: Cost) -> Power:
    a, k, power = size.exponent, size.coefficient, cost.size_power
    assert a.low is not None and a.high is not None and k.low is not None and k.high is not None
    exponent, *ends = (1 - power * x for x in (a.value, a.high, a.low))
    coefficient, *bounds = (1 / (cost.per * x**power) for x in (k.value, k.high, k.low))
    return Power(
        replace(a, value=exponent, low=ends[0], high=ends[1]),
        replace(k, value=coefficient, low=bounds[0], high=bounds[1]),
    )


def disagreement(fit: Fit, law: IsoflopLaw, fitted: IsoflopLaw | None) -> list[Diagnostic]:
    """A caution where minima of the losses and of the fitted law differ by more than both intervals leave.

    `fitted` goes through minima of the fitted law's losses at the same runs, so that neither the cubics' bias nor what
    runs cost comes between the two; intervals are those of the law's frontier. None says nothing.
    """
    if fitted is None:
        return []
    found = frontier(fit, [law.middle], law.cost)
    a, best = _moved(found.a, fitted.N.exponent.value), _scaled(found.optima[0].n_params, fitted.at_middle.value)
    said: list[str] = []
    if _apart(a, law.N.exponent, log_scale=False):
        said.append(
            f"the best size grows as C^a with a = {in_words(law.N.exponent)} through the minima, and a = "
            f"{in_words(a)} by the fitted law"
        )
    if _apart(best, law.at_middle, log_scale=True):
        said.append(
            f"at {si(law.middle)}FLOP it is {in_words(law.at_middle)} through the minima, and {in_words(best)} by the "
            "fitted law"
        )
    if not said:
        return []
    text = f"IsoFLOP profiles and the fitted law disagree: {'; '.join(said)}."
    return [Diagnostic("isoflop_disagrees", "limits", text, "Trust neither beyond the runs before it is known why.")]


def _moved(estimate: Estimate, value: float) -> Estimate:
    """The same interval around another value."""
    by = value - estimate.value
    low, high = (None if end is None else end + by for end in (estimate.low, estimate.high))
    return replace(estimate, value=value, low=low, high=high)


def _scaled(estimate: Estimate, value: float) -> Estimate:
    """The same interval, as ratios, around another value."""
    by = value / estimate.value
    low, high = (None if end is None else end * by for end in (estimate.low, estimate.high))
    return replace(estimate, value=value, low=low, high=high)


def _apart(one: Estimate, other: Estimate, *, log_scale: bool) -> bool:
    """Whether two values differ by more than the root of their squared half intervals."""
    halves: list[float] = []
    for estimate in (one, other):
        if estimate.low is None or estimate.high is None:
            return False
        halves.append((log(estimate.high / estimate.low) if log_scale else estimate.high - estimate.low) / 2)
    distance = log(one.value / other.value) if log_scale else one.value - other.value
    return abs(distance) > sqrt(sum(half**2 for half in halves))
