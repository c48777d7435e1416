"""IsoFLOP profiles: at each compute, the size with the lowest loss, from a curve through the runs of equal compute.

The curve is a cubic in log N. Hoffmann et al. (2022, approach 2) take a parabola, whose minimum is biased even without
noise where the two sides of the valley differ in steepness; it can be asked for and is labelled.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import numpy as np
import polars as pl
from scipy import special

from isoloss.analysis.columns import usable_rows
from isoloss.analysis.estimate import LEVEL, Estimate
from isoloss.analysis.laws import Floats
from isoloss.diagnostic import Diagnostic

Curve = Literal["cubic", "parabola"]
DEGREES: dict[Curve, int] = {"cubic": 3, "parabola": 2}
SAME_COMPUTE = 0.05
"""Runs are of one profile when their computes differ by less than this share of the smallest."""
MIN_SIZES = 4
"""Fewer sizes at about one compute are taken for a coincidence, not for a profile."""


@dataclass(frozen=True)
class Profile:
    """Runs of about equal compute, and the minimum of the curve through them where the data bracket one."""

    flops: float
    n: int
    sizes: tuple[float, ...]
    curve: Curve
    optimal_params: Estimate | None
    lowest_loss: Estimate | None
    cautions: tuple[Diagnostic, ...]


def isoflop_profiles(
    table: pl.DataFrame, params: str, compute: str, loss: str, curve: Curve = "cubic"
) -> list[Profile]:
    """A profile for every compute at which at least MIN_SIZES sizes were trained; columns hold N, FLOPs, the loss.

    Raises ConfigError when a column is missing or not positive.
    """
    rows = usable_rows(table, positive=[params, compute, loss]).table.sort(compute)
    starts: list[float] = []
    for flops in rows[compute].cast(pl.Float64()).to_list():
        if not starts or flops > starts[-1] * (1 + SAME_COMPUTE):
            starts.append(flops)
    profiles: list[Profile] = []
    for low, high in zip(starts, [*starts[1:], float("inf")], strict=True):
        group = rows.filter(pl.col(compute).is_between(low, high, closed="left"))
        if group[params].n_unique() >= MIN_SIZES:
            profiles.append(_profile(group, params, compute, loss, curve))
    return profiles


def _profile(group: pl.DataFrame, params: str, compute: str, loss: str, curve: Curve) -> Profile:
    means = group.group_by(params).agg(pl.col(loss).mean()).sort(params)  # replicates are no points of their own
    size_n, loss_n = (means[column].cast(pl.Float64()).to_numpy() for column in (params, loss))
    sizes = tuple(size_n.tolist())
    flops, degree, n = float(np.exp(np.log(group[compute].to_numpy()).mean())), DEGREES[curve], len(group)
    cautions: list[Diagnostic] = []
    if curve == "parabola":
        cautions.append(Diagnostic("parabola_biased", "limits", "A parabola's minimum is biased even without noise."))
    found = None
    if len(sizes) < degree + 2:
        text = f"{len(sizes)} sizes are too few for a {curve} with an error of its own; {degree + 2} are needed."
        cautions.append(Diagnostic("few_levels", "limits", text))
    else:
        found = _minimum(np.log(size_n), loss_n, degree)
        if found is None:
            text = f"No minimum of the {curve} lies between the second smallest and the second largest size."
            cautions.append(Diagnostic("not_bracketed", "limits", text))
    if found is None:
        return Profile(flops, n, sizes, curve, None, None, tuple(cautions))
    x, x_se, lowest, lowest_se = found
    df = len(sizes) - degree - 1
    quantile, method = float(special.stdtrit(df, (1 + LEVEL) / 2)), f"{curve} in log N, delta method, t with {df} df"
    value, low, high = np.exp([x, x - quantile * x_se, x + quantile * x_se]).tolist()
    size = Estimate(value, low, high, LEVEL, n, method)
    half = quantile * lowest_se
    least = Estimate(lowest, lowest - half, lowest + half, LEVEL, n, method)
    return Profile(flops, n, sizes, curve, size, least, tuple(cautions))


def _minimum(x_n: Floats, loss_n: Floats, degree: int) -> tuple[float, float, float, float] | None:
    """Place and height of the polynomial's minimum with their standard errors; None where it is not bracketed."""
    centre = float(x_n.mean())
    basis_nxq = np.vander(x_n - centre, degree + 1, increasing=True)
    coefficients_q, *_ = np.linalg.lstsq(basis_nxq, loss_n, rcond=None)
    residuals_n = loss_n - basis_nxq @ coefficients_q
    covariance_qxq = np.linalg.inv(basis_nxq.T @ basis_nxq) * float(residuals_n @ residuals_n)
    covariance_qxq = np.asarray(covariance_qxq / (len(x_n) - degree - 1), dtype=np.float64)
    polynomial = np.polynomial.Polynomial(coefficients_q)
    inner = sorted(set((x_n - centre).tolist()))[1:-1]
    minima = [
        float(root.real)
        for root in polynomial.deriv().roots()
        if abs(root.imag) < 1e-9 and inner[0] <= root.real <= inner[-1] and polynomial.deriv(2)(root.real) > 0
    ]
    if not minima:
        return None
    x = min(minima, key=lambda place: float(polynomial(place)))
    powers_q = np.arange(degree + 1)
    slope_q = powers_q * x ** np.maximum(powers_q - 1, 0)  # of the derivative by each coefficient
    x_se = float(np.sqrt(slope_q @ covariance_qxq @ slope_q)) / float(polynomial.deriv(2)(x))
    height_q = x**powers_q
    return x + centre, x_se, float(polynomial(x)), float(np.sqrt(height_q @ covariance_qxq @ height_q))
