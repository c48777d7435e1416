"""Minimising a scaling law's objective: a whole grid of starts, the best polished, and the best of those once more.

The objective is the SUM of Huber losses of log residuals (Hoffmann et al. 2022); LAD is its limit for small δ; least
squares is taken on the losses themselves, where everything but the exponents is linear (variable projection, Golub &
Pereyra 1973).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import lru_cache, partial
from itertools import product
from typing import Literal

import numpy as np
from scipy import optimize

from isoloss.analysis.descent import Local, descend
from isoloss.analysis.laws import Floats, Law

ObjectiveName = Literal["huber", "ls", "lad", "ls_log"]
DELTA = 1e-3
LAD_DELTA = 1e-7
"""LAD is solved as Huber with δ this small, approached from DELTA by tenths: residuals below it are none."""

START_EXPONENTS = np.linspace(0.05, 1.6, 12)
START_FLOORS = (0.0, 0.3, 0.6, 0.8, 0.9, 0.97)
"""Floors to start from, as shares of the lowest loss."""
POLISHED_STARTS = 32
COARSE_ROWS = 1000
"""Larger tables are searched on the means of rows at one point, at most this many; the minimum is polished on all."""
AGREEMENT = 1e-6
"""Polished starts agree when their objectives differ by less than this share."""
TOLERANCE, COARSE_TOLERANCE = 1e-14, 1e-9
"""Of the minimum that is returned, and of those of the starts, which only have to be told from each other."""


OBJECTIVES: dict[str, str] = {
    "huber": "the sum of Huber losses of log residuals",
    "ls": "least squares on the losses",
    "lad": "the sum of absolute log residuals",
    "ls_log": "least squares on the logarithms of the losses",
}


@dataclass(frozen=True)
class Objective:
    """What is minimised: the sum of Huber losses of log residuals, their absolute or square sum, or losses'."""

    name: ObjectiveName
    delta: float | None

    def residuals(self, law: Law, theta_p: Floats) -> tuple[Floats, Floats]:
        """Predicted less observed, shape [n], and their derivatives, [n, p]: of losses for ls, else of log losses.

        Both are times the root of a row's weight. Of several θ, [s, p], they are of the shapes [s, n] and [s, n, p].
        """
        log_n, jacobian_nxp = law.log_loss(theta_p, law.x_Kxn)
        residuals_n = log_n - law.y_n
        if self.name == "ls":
            loss_n = np.exp(log_n)
            residuals_n, jacobian_nxp = loss_n - np.exp(law.y_n), jacobian_nxp * loss_n[..., None]
        if law.weight_n is None:
            return residuals_n, jacobian_nxp
        root_n = np.sqrt(law.weight_n)
        return residuals_n * root_n, jacobian_nxp * root_n[:, None]

    def value(self, residuals_n: Floats) -> float:
        """The objective: Σ r²/2 for ls, Σ |r| for lad, Huber's Σ (r²/2 up to δ, δ(|r| − δ/2) beyond; Huber 1964)."""
        return float(self.values(residuals_n))

    def values(self, residuals_sxn: Floats) -> Floats:
        """The same of several rows of residuals, shape [s]."""
        size_sxn = np.abs(residuals_sxn)
        if self.delta is None:
            return np.sum(size_sxn**2, axis=-1) / 2
        if self.name == "lad":
            return np.sum(size_sxn, axis=-1)
        near_sxn = np.minimum(size_sxn, self.delta)
        return np.vecdot(near_sxn, size_sxn - near_sxn / 2)

    def around(self, law: Law, theta_sxp: Floats) -> Local:
        """The objective around several θ. Only residuals up to δ bend Huber's; all others bound how it may bend."""
        residuals_sxn, jacobian_sxnxp = self.residuals(law, theta_sxp)
        slope_sxn, size_sxn = self.slopes(residuals_sxn), np.abs(residuals_sxn)
        transposed_sxpxn = jacobian_sxnxp.swapaxes(1, 2)
        if self.delta is None:
            hessian_sxpxp = transposed_sxpxn @ jacobian_sxnxp
            bound_sxpxp = np.zeros_like(hessian_sxpxp)
        else:
            beyond_sxn = size_sxn > self.delta
            hessian_sxpxp = (transposed_sxpxn * ~beyond_sxn[:, None]) @ jacobian_sxnxp
            share_sxn = np.where(beyond_sxn, self.delta / np.maximum(size_sxn, self.delta), 0.0)
            bound_sxpxp = (transposed_sxpxn * share_sxn[:, None]) @ jacobian_sxnxp
        gradient_sxp = (transposed_sxpxn @ slope_sxn[:, :, None])[:, :, 0]
        return Local(self.values(residuals_sxn), gradient_sxp, hessian_sxpxp, bound_sxpxp)

    def smoothed(self) -> list[Objective]:
        """The objectives to solve in turn: for a small δ, Huber's with larger ones lead up to it."""
        if self.delta is None or self.delta >= DELTA:
            return [self]
        tenths = int(np.ceil(np.log10(DELTA / self.delta) - 1e-9))
        return [*(Objective("huber", DELTA / 10**k) for k in range(tenths)), self]

    def slopes(self, residuals_n: Floats) -> Floats:
        """The objective's derivative by each residual."""
        if self.delta is None:
            return residuals_n
        clipped_n = np.clip(residuals_n, -self.delta, self.delta)
        return clipped_n / self.delta if self.name == "lad" else clipped_n


def make_objective(name: ObjectiveName, delta: float = DELTA) -> Objective:
    """An objective by name; δ is Huber's alone."""
    return Objective(name, {"huber": delta, "ls": None, "lad": LAD_DELTA, "ls_log": None}[name])


@dataclass(frozen=True)
class Solution:
    """The lowest minimum found, and how many of the polished starts reach it."""

    theta_p: Floats
    value: float
    gradient_norm: float
    n_starts: int
    n_polished: int
    agreeing_sxp: Floats
    """Where the starts that agree on the lowest value end."""

    @property
    def n_agreeing(self) -> int:
        """How many they are."""
        return len(self.agreeing_sxp)


def solve(law: Law, objective: Objective) -> Solution:
    """Minimise over a whole grid of starts: the best are polished, and the best of those polished again on all rows."""
    coarse, (first, *later) = _thinned(law), objective.smoothed()
    candidates = [coarse.start(additive_a) for additive_a in _starts(coarse.additive)]
    values = [_value(coarse, first, theta_p) for theta_p in candidates]
    best_sxp = np.array(candidates)[np.argsort(values, kind="stable")[:POLISHED_STARTS]]
    ends_sxp = descend(partial(first.around, coarse), best_sxp, coarse.bounds(), COARSE_TOLERANCE)
    reached_s = np.array([_value(coarse, first, theta_p) for theta_p in ends_sxp])
    lowest = float(reached_s.min())
    # Without noise every minimum is rounding error: there, agreement is judged on the scale of the best start.
    unit = max(lowest, 1e-12 * min(values))
    theta_p: Floats = ends_sxp[np.argmin(reached_s)]
    for stage in (first, *later):
        theta_p = refine(law, stage, theta_p)
    residuals_n, jacobian_nxp = objective.residuals(law, theta_p)
    gradient_p = jacobian_nxp.T @ objective.slopes(residuals_n)
    return Solution(
        theta_p,
        objective.value(residuals_n),
        float(np.linalg.norm(gradient_p)),
        len(candidates),
        len(ends_sxp),
        ends_sxp[reached_s <= lowest + AGREEMENT * unit],
    )


def polish(law: Law, objective: Objective, start_p: Floats, tolerance: float = TOLERANCE) -> Floats:
    """A local minimum from a start, by a trust region with analytic derivatives within the law's bounds."""
    low_p, high_p = law.bounds()
    within_p: Floats = np.clip(start_p, low_p + 1e-9, high_p - 1e-9)
    spread = objective.delta or max(1e-12, float(np.std(objective.residuals(law, start_p)[0])))

    @lru_cache(maxsize=1)  # scipy asks for both at one place, one after the other
    def at(theta: bytes) -> tuple[Floats, Floats]:
        return objective.residuals(law, np.frombuffer(theta))

    solved = optimize.least_squares(
        lambda theta_p: at(theta_p.tobytes())[0] / spread,
        within_p,
        jac=lambda theta_p: at(theta_p.tobytes())[1] / spread,
        bounds=(low_p, high_p),
        loss="linear" if objective.delta is None else "huber",
        x_scale="jac",
        ftol=tolerance,
        xtol=tolerance,
        gtol=tolerance,
        max_nfev=300,
    )
    return solved.x


def refine(law: Law, objective: Objective, theta_p: Floats) -> Floats:
    """The minimum polished once more, by a quasi-Newton method on the objective itself; never worse than before."""
    polished_p = polish(law, objective, theta_p)
    start_p = polished_p if _value(law, objective, polished_p) < _value(law, objective, theta_p) else theta_p
    unit = max(_value(law, objective, start_p), 1e-300)
    width_p = 1 / np.maximum(np.linalg.norm(objective.residuals(law, start_p)[1], axis=0), 1e-9)

    def scaled(step_p: Floats) -> tuple[float, Floats]:
        residuals_n, jacobian_nxp = objective.residuals(law, start_p + step_p * width_p)
        gradient_p = jacobian_nxp.T @ objective.slopes(residuals_n) * width_p
        return objective.value(residuals_n) / unit, gradient_p / unit

    found = optimize.minimize(
        scaled,
        np.zeros_like(start_p),
        jac=True,
        method="L-BFGS-B",
        bounds=list(zip(*((bound_p - start_p) / width_p for bound_p in law.bounds()), strict=True)),
        options={"maxiter": 2000, "maxfun": 20000, "ftol": 1e-16, "gtol": 1e-14, "maxcor": 30},
    )
    return start_p + found.x * width_p if found.fun < 1 else start_p


def _value(law: Law, objective: Objective, theta_p: Floats) -> float:
    return objective.value(objective.residuals(law, theta_p)[0])


def _thinned(law: Law) -> Law:
    """The law on the mean log losses of a large table's points, of these on some from the lowest to the highest."""
    if len(law.y_n) <= COARSE_ROWS:
        return law
    x_Kxm, point_n, rows_m = np.unique(law.x_Kxn, axis=1, return_inverse=True, return_counts=True)
    weight_n = np.ones_like(law.y_n) if law.weight_n is None else law.weight_n
    weight_m = np.bincount(point_n, weight_n)
    y_m = np.bincount(point_n, weight_n * law.y_n) / weight_m
    places = np.linspace(0, len(y_m) - 1, min(COARSE_ROWS, len(y_m))).astype(int)
    points = np.argsort(y_m, kind="stable")[places]
    shared = None if law.weight_n is None else (weight_m / rows_m)[points]
    return replace(law, x_Kxn=x_Kxm[:, points], y_n=y_m[points], weight_n=shared)


def _starts(law: Law) -> Sequence[Floats]:
    """A start for every combination of exponents and floor on a grid; given these, the scales are linear.

    The projection is non-negative least squares on the losses; with the floor among the unknowns it is the
    variable projection whose minimum over the exponents is the least-squares fit.
    """
    loss_n = np.exp(law.y_n)
    low_p, high_p = law.bounds()
    found: list[Floats] = []
    for exponents in product(START_EXPONENTS, repeat=law.n_terms):
        basis_nxK = np.exp(-np.array(exponents)[:, None] * law.x_Kxn).T
        for floor in [share * loss_n.min() for share in START_FLOORS] if law.floor else [0.0]:
            scales_k = _projected(basis_nxK, loss_n - floor)
            found.append(_theta(scales_k, exponents, [floor] if law.floor else [], low_p, high_p))
        if law.floor:
            *scales, floor = _projected(np.column_stack([basis_nxK, np.ones_like(loss_n)]), loss_n)
            found.append(_theta(np.array(scales), exponents, [floor], low_p, high_p))
    return found


def _projected(basis_nxK: Floats, target_n: Floats) -> Floats:
    return np.asarray(optimize.nnls(basis_nxK, target_n)[0], dtype=np.float64)


def _theta(
    scales_k: Floats, exponents: Sequence[float], floor: Sequence[float], low_p: Floats, high_p: Floats
) -> Floats:
    sizes = np.log(np.maximum([*scales_k, *floor], 1e-12))
    k = len(scales_k)
    return np.clip(np.concatenate([sizes[:k], exponents, sizes[k:]]), low_p, high_p)
