"""How far a scaling fit may be off: standard errors of anything computed from its parameters, and t intervals.

Two ways. Delta: the covariance of the M-estimator, s²·c·(JᵀJ)⁻¹ with c = E[ψ²]/E[ψ']² under normal residuals (Huber
1964), which lies between 1 (least squares) and π/2 (LAD). Bootstrap: refits to resampled residuals. In both the noise s
is taken between cells (rows of equal size and horizon) with their degrees of freedom, so that a lack of fit that
replicates share counts; and from residuals of least squares, in the objective's own unit, which alone lose just p
degrees of freedom: a robust fit passes through p points and strays from the others.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from math import exp, pi, sqrt

import numpy as np
from scipy import special

from isoloss.analysis.cells import Codes, cells_of
from isoloss.analysis.clusters import WEBB, clustered_covariance, freed_residuals
from isoloss.analysis.estimate import LEVEL, Estimate
from isoloss.analysis.laws import Floats, Law
from isoloss.analysis.solve import Objective, polish

BOOTSTRAPS = 400
NO_CLIPPING = 1e3
"""A δ no log residual reaches: Huber's loss is then least squares on log losses."""

Quantity = Callable[[Floats], float]
"""Any function of θ."""


@dataclass(frozen=True)
class Uncertainty:
    """What standard errors are computed from; `draws_Bxp` are the bootstrap's refits, else `covariance_pxp` is used."""

    theta_p: Floats
    covariance_pxp: Floats
    draws_Bxp: Floats | None
    noise: float
    """Residual standard deviation of one run: relative (of the log loss), or of the loss itself for ls."""
    n: int
    df: int
    method: str

    def se(self, quantity: Quantity) -> float:
        """Standard error of a quantity."""
        if self.draws_Bxp is not None:
            low, high = np.quantile([quantity(theta_p) for theta_p in self.draws_Bxp], special.ndtr([-1.0, 1.0]))
            return float(high - low) / 2  # a quantile range: single refits may run off
        steps_p = 1e-4 * np.sqrt(np.diag(self.covariance_pxp)) + 1e-9
        moved_pxp = np.diag(steps_p)
        slope_p = [
            (quantity(self.theta_p + step_p) - quantity(self.theta_p - step_p)) / (2 * size)
            for step_p, size in zip(moved_pxp, steps_p, strict=True)
        ]
        return sqrt(max(0.0, float(np.array(slope_p) @ self.covariance_pxp @ np.array(slope_p))))

    def estimate(self, quantity: Quantity, *, log: bool = False, extra: float = 0.0, level: float = LEVEL) -> Estimate:
        """A quantity with its interval; `log` quantities are logarithms and come back as what they are logs of.

        `extra` is a variance that is added: that of a single new run for a prediction.
        """
        value = quantity(self.theta_p)
        half = float(special.stdtrit(self.df, (1 + level) / 2)) * sqrt(self.se(quantity) ** 2 + extra)
        ends = (value, value - half, value + half)
        value, low, high = np.exp(np.minimum(ends, 700.0)) if log else ends
        return Estimate(float(value), float(low), float(high), level, self.n, self.method)


def huber_inefficiency(delta: float | None, noise: float) -> float:
    """Variance of a Huber estimate over that of least squares, for normal residuals: 1 (δ ≫ σ) to π/2 (δ ≪ σ)."""
    if delta is None or noise == 0:
        return 1.0
    k = delta / noise
    if k < 1e-4:
        return np.pi / 2
    inside = 2 * special.ndtr(k) - 1
    squares = inside - 2 * k * exp(-(k**2) / 2) / sqrt(2 * pi) + 2 * k**2 * special.ndtr(-k)
    return float(squares / inside**2)


def by_delta(law: Law, objective: Objective, theta_p: Floats, cluster_n: Codes | None = None) -> Uncertainty:
    """Delta-method uncertainty of a fit, by clusters where they are given.

    Raises numpy's LinAlgError when the data do not determine the parameters.
    """
    if cluster_n is not None:
        return _by_clusters(law, objective, theta_p, cluster_n)
    jacobian_nxp = objective.residuals(law, theta_p)[1]
    noise, df, n_cells = _noise(law, least_squares_fit(law, objective, theta_p)[0])
    width_p = np.linalg.norm(jacobian_nxp, axis=0)
    unit_nxp = jacobian_nxp / width_p
    unit_pxp = np.asarray(np.linalg.inv(unit_nxp.T @ unit_nxp) / np.outer(width_p, width_p), dtype=np.float64)
    covariance_pxp = noise**2 * huber_inefficiency(objective.delta, noise) * unit_pxp
    method = f"delta method, t with {df} df{_between(law, n_cells)}"
    return Uncertainty(theta_p, covariance_pxp, None, noise, len(law.y_n), df, method)


def _by_clusters(law: Law, objective: Objective, theta_p: Floats, cluster_n: Codes) -> Uncertainty:
    """CR3 errors of least squares, dearer by what a robust objective costs, and t on the clusters less one."""
    residuals_n, jacobian_nxp = least_squares_fit(law, objective, theta_p)
    n_clusters, n = int(cluster_n.max()) + 1, len(residuals_n)
    freed = n_clusters / (n_clusters - 1) / max(1, n - law.n_parameters)
    noise = sqrt(float(residuals_n @ residuals_n) * freed)
    covariance_pxp = clustered_covariance(residuals_n, jacobian_nxp, cluster_n)
    covariance_pxp = covariance_pxp * huber_inefficiency(objective.delta, noise)
    method = f"cluster-robust (CR3), t with {n_clusters - 1} df from {n_clusters} clusters"
    return Uncertainty(theta_p, covariance_pxp, None, noise, n, n_clusters - 1, method)


def by_cluster_bootstrap(
    law: Law,
    objective: Objective,
    delta: Uncertainty,
    cluster_n: Codes,
    generator: np.random.Generator,
    draws: int = BOOTSTRAPS,
) -> Uncertainty:
    """Wild cluster bootstrap: refits to fitted values plus each cluster's freed residuals times a weight of its own."""
    residuals_n, jacobian_nxp = least_squares_fit(law, objective, delta.theta_p)
    n_clusters = int(cluster_n.max()) + 1
    freed_n = -freed_residuals(residuals_n, jacobian_nxp, cluster_n) * sqrt((n_clusters - 1) / n_clusters)
    refits = [
        _refitted(_with_errors(law, objective, delta.theta_p, freed_n * weight_n), objective, delta.theta_p)
        for weight_n in generator.choice(WEBB, size=(draws, n_clusters))[:, cluster_n]
    ]
    method = f"wild cluster bootstrap, {draws} refits, t with {delta.df} df from {n_clusters} clusters"
    return replace(delta, draws_Bxp=np.array(refits), method=method)


def _with_errors(law: Law, objective: Objective, theta_p: Floats, error_n: Floats) -> Law:
    """The law on fitted values plus errors in the objective's own unit."""
    fitted_n = law.log_loss(theta_p, law.x_Kxn)[0]
    if law.weight_n is not None:
        error_n = error_n / np.sqrt(law.weight_n)
    if objective.name == "ls":
        return replace(law, y_n=np.log(np.maximum(np.exp(fitted_n) + error_n, 1e-12)))
    return replace(law, y_n=fitted_n + error_n)


def by_bootstrap(
    law: Law, objective: Objective, delta: Uncertainty, generator: np.random.Generator, draws: int = BOOTSTRAPS
) -> Uncertainty:
    """Residual bootstrap around a fit: every cell takes the inflated residuals of a cell drawn at random, whole."""
    residuals_n, _ = least_squares_fit(law, objective, delta.theta_p)
    cell_n, n_cells = cells(law)
    inflated_n = -(residuals_n - residuals_n.mean()) * sqrt(n_cells / delta.df)
    rows_of = [np.flatnonzero(cell_n == cell) for cell in range(n_cells)]
    refits: list[Floats] = []
    for _ in range(draws):
        drawn_n = np.empty_like(inflated_n)
        for rows, donor in zip(rows_of, generator.integers(n_cells, size=n_cells), strict=True):
            given = inflated_n[rows_of[donor]]
            drawn_n[rows] = given if len(given) == len(rows) else generator.choice(given, size=len(rows))
        drawn = _with_errors(law, objective, delta.theta_p, drawn_n)
        refits.append(_refitted(drawn, objective, delta.theta_p))
    method = f"residual bootstrap, {draws} refits, t with {delta.df} df{_between(law, n_cells)}"
    return replace(delta, draws_Bxp=np.array(refits), method=method)


def least_squares_fit(law: Law, objective: Objective, theta_p: Floats) -> tuple[Floats, Floats]:
    """Predicted less observed, shape [n], where squares are least near a fit, and derivatives, [n, p]."""
    squares = objective if objective.delta is None else Objective("huber", NO_CLIPPING)
    return objective.residuals(law, polish(law, squares, theta_p))


def _refitted(law: Law, objective: Objective, theta_p: Floats) -> Floats:
    for stage in objective.smoothed():
        theta_p = polish(law, stage, theta_p)
    return theta_p


def cells(law: Law) -> tuple[Codes, int]:
    """The cell (rows whose variables agree but for 1%) each row belongs to, shape [n], and how many there are."""
    return cells_of(law.x_Kxn)


def _noise(law: Law, residuals_n: Floats) -> tuple[float, int, int]:
    """Standard deviation of one run between cells, its degrees of freedom, and the number of cells."""
    cell_n, n_cells = cells(law)
    sums, counts = np.bincount(cell_n, residuals_n), np.bincount(cell_n)
    df = n_cells - law.n_parameters
    return sqrt(float(np.sum(sums**2 / counts)) / df), df, n_cells


def _between(law: Law, n_cells: int) -> str:
    return "" if n_cells == len(law.y_n) else f" between {n_cells} cells"
