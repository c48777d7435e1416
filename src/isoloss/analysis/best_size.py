"""The size with the lowest loss where the product N·D is given.

Of A/N^α + B/D^β it is N* = K·(N·D)^a with a = β/(α+β) and K = (αA/βB)^(1/(α+β)) (Hoffmann et al. 2022, equation 4).
With a term in both there is one minimum still, the root of a function that rises with N. Where N^p·D is given,
N^p takes the place of N, and α/p that of α.
"""

from __future__ import annotations

from math import inf, log

import numpy as np
from scipy import optimize

from isoloss.analysis.laws import Floats, Law


def log_best_size(law: Law, log_nd: float, theta_p: Floats, size_power: float = 1.0) -> float:
    """log N* where the product N^size_power · D is given, of a law in N and D whose tokens are all new."""
    log_a, log_b, *others = law.published(theta_p).tolist()
    log_g = others.pop(0) if law.form == "LNDX" else -inf
    alpha, beta, *_ = others
    if law.form == "LNDK":  # the sum that is raised to a power is itself one of two terms
        log_a, alpha, beta = alpha / beta * log_a, alpha / beta, 1.0
    alpha /= size_power
    additive = float((np.log(alpha / beta) + log_a - log_b + beta * log_nd) / (alpha + beta))
    if log_g == -inf or alpha == beta:
        return additive / size_power
    return _with_interaction(additive, log_nd, (log_a, log_b, log_g), (alpha, beta)) / size_power


def _with_interaction(additive: float, log_nd: float, logs: tuple[float, ...], exponents: tuple[float, float]) -> float:
    """log N* of A/N^α + B/D^β + G/(N^α·D^β), from that without G, which it lies on a known side of.

    There βB·N^α + (β − α)G = αA·D^β, whose left less right side rises with N. The larger α or β decides on which side
    the middle term is positive; the equation is solved in logarithms.
    """
    (log_a, log_b, log_g), (alpha, beta) = logs, exponents
    log_n_side, log_d_side = log(beta) + log_b, log(alpha) + log_a
    middle = log(abs(beta - alpha)) + log_g

    def excess(log_n: float) -> float:
        sides = [log_n_side + alpha * log_n, log_d_side + beta * (log_nd - log_n)]
        sides[alpha > beta] = float(np.logaddexp(sides[alpha > beta], middle))
        return sides[0] - sides[1]

    most = float(np.logaddexp(log_n_side + alpha * additive, middle))  # both sides are equal at `additive`
    other = (most - log_n_side) / alpha if alpha > beta else log_nd - (most - log_d_side) / beta
    low, high = sorted((additive, other))
    if excess(low) >= 0 or excess(high) <= 0:  # G is too small to move it by more than rounding
        return additive
    return float(optimize.brentq(excess, low, high, xtol=1e-14, rtol=1e-15))
