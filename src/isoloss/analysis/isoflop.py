"""IsoFLOP profiles: at each compute, the size with the lowest loss, from a curve through the runs of equal compute.

The curve is a cubic in log N through the sizes near the minimum. Hoffmann et al. (2022, approach 2) take a parabola,
whose minimum is biased even without noise where the two sides of the valley differ in steepness; it can be asked for
and is labelled.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from math import exp, log1p, sqrt
from typing import Literal

import numpy as np
import polars as pl
from scipy import special

from isoloss.analysis.cells import SAME, Codes, close_groups
from isoloss.analysis.columns import usable_rows
from isoloss.analysis.estimate import LEVEL, Estimate
from isoloss.analysis.laws import Floats
from isoloss.diagnostic import Diagnostic

Curve = Literal["cubic", "parabola"]
DEGREES: dict[Curve, int] = {"cubic": 3, "parabola": 2}
TOLERANCE = 0.1
"""Runs are of one profile when their computes differ by no more than this share of the smallest."""
MIN_SIZES = 4
"""Fewer sizes at about one compute are taken for a coincidence, not for a profile."""
LOCAL_SIZES, LOCAL_RATIO = 7, 4.0
"""A cubic goes through this many sizes nearest to the minimum, and all within this ratio of it."""


@dataclass(frozen=True)
class Profile:
    """Runs of about equal compute, and the minimum of the curve through them where the data bracket one."""

    flops: float
    """Their geometric mean."""
    computes: tuple[float, float]
    n: int
    sizes: tuple[float, ...]
    curve: Curve
    optimal_params: Estimate | None
    lowest_loss: Estimate | None
    cautions: tuple[Diagnostic, ...]


@dataclass(frozen=True)
class _Minimum:
    """Place (log N) and height of a curve's minimum, their standard errors per unit of noise, and what is left over."""

    x: float
    x_se: float
    height: float
    height_se: float
    squares: float
    df: int

    @property
    def relative_squares(self) -> float:
        return self.squares / self.height**2


def isoflop_profiles(
    table: pl.DataFrame, params: str, compute: str, loss: str, curve: Curve = "cubic", tolerance: float = TOLERANCE
) -> list[Profile]:
    """A profile for every compute at which at least MIN_SIZES sizes were trained; columns hold N, FLOPs, the loss.

    Noise is shared by all profiles, in proportion to their lowest losses. Raises ConfigError when a column is missing
    or not positive.
    """
    rows = usable_rows(table, positive=[params, compute, loss])
    log_n, log_c, loss_n = np.log(rows.floats(params)), np.log(rows.floats(compute)), rows.floats(loss)
    found = [
        (rows_n, *_searched(log_n[rows_n], log_c[rows_n], loss_n[rows_n], curve))
        for rows_n in budgets(log_c, close_groups(log_n), tolerance)
    ]
    minima = [minimum for _, minimum, _ in found if minimum]
    df = sum(minimum.df for minimum in minima)
    noise = sqrt(sum(minimum.relative_squares for minimum in minima) / df) if df else 0.0
    shared = f" shared by {len(minima)} profiles" if len(minima) > 1 else ""
    method = f"{curve} in log N, delta method, t with {df} df{shared}"
    profiles: list[Profile] = []
    for rows_n, minimum, cautions in found:
        sizes = tuple(np.exp(np.unique(log_n[rows_n])).tolist())
        computes = exp(float(log_c[rows_n].min())), exp(float(log_c[rows_n].max()))
        flops, n = exp(float(log_c[rows_n].mean())), len(rows_n)
        profile = Profile(flops, computes, n, sizes, curve, None, None, tuple(cautions))
        profiles.append(_with_minimum(profile, minimum, noise, df, method) if minimum else profile)
    return profiles


def budgets(log_c: Floats, size_n: Codes, tolerance: float) -> list[Codes]:
    """The rows of each compute at which several sizes were trained, in the order of compute.

    Windows no wider than the tolerance, those with the most sizes first, and further from each other than it.
    """
    order = np.argsort(log_c, kind="stable")
    sorted_n, width = log_c[order], log1p(tolerance) + 1e-12
    ends = np.searchsorted(sorted_n, sorted_n + width, side="right").tolist()
    windows = [(len(np.unique(size_n[order[low:high]])), low, high) for low, high in enumerate(ends)]
    taken: list[tuple[int, int]] = []
    for count, low, high in sorted(windows, key=lambda window: (-window[0], window[1] - window[2], window[1])):
        apart = all(
            sorted_n[low] - sorted_n[end - 1] > width or sorted_n[start] - sorted_n[high - 1] > width
            for start, end in taken
        )
        if count >= MIN_SIZES and apart:
            taken.append((low, high))
    return [order[low:high] for low, high in sorted(taken)]


def _with_minimum(profile: Profile, minimum: _Minimum, noise: float, df: int, method: str) -> Profile:
    half = float(special.stdtrit(df, (1 + LEVEL) / 2)) * noise * minimum.height
    x_half, height_half = half * minimum.x_se, half * minimum.height_se
    value, low, high = np.exp([minimum.x, minimum.x - x_half, minimum.x + x_half]).tolist()
    size = Estimate(value, low, high, LEVEL, profile.n, method)
    least, most = minimum.height - height_half, minimum.height + height_half
    lowest = Estimate(minimum.height, least, most, LEVEL, profile.n, method)
    cautions = profile.cautions
    if low < profile.sizes[0] or high > profile.sizes[-1]:
        text = "The interval of the best size reaches beyond the sizes trained."
        cautions = (*cautions, Diagnostic("interval_beyond_data", "limits", text))
    return replace(profile, optimal_params=size, lowest_loss=lowest, cautions=cautions)


def _searched(
    log_n: Floats, log_c: Floats, loss_n: Floats, curve: Curve
) -> tuple[_Minimum | None, Sequence[Diagnostic]]:
    """The minimum of a curve through the means of each size, replicates being no points of their own."""
    degree, size_n = DEGREES[curve], close_groups(log_n)
    counts = np.bincount(size_n)
    x_n, c_n, y_n = (np.bincount(size_n, values) / counts for values in (log_n, log_c - log_c.mean(), loss_n))
    cautions: list[Diagnostic] = []
    if curve == "parabola":
        cautions.append(Diagnostic("parabola_biased", "limits", "A parabola's minimum is biased even without noise."))
    if len(x_n) < degree + 2:
        text = f"{len(x_n)} sizes are too few for a {curve} with an error of its own; {degree + 2} are needed."
        return None, [*cautions, Diagnostic("few_levels", "limits", text)]
    found = _minimum(x_n, c_n, y_n, degree)
    if found is None:
        text = f"No minimum of the {curve} lies between the second smallest and the second largest size."
        return None, [*cautions, Diagnostic("not_bracketed", "limits", text)]
    distance_n = np.abs(x_n - found.x)
    near_n = distance_n <= max(np.log(LOCAL_RATIO), np.sort(distance_n)[min(LOCAL_SIZES, len(x_n)) - 1])
    if curve == "cubic" and not near_n.all():
        found = _minimum(x_n[near_n], c_n[near_n], y_n[near_n], degree) or found
    return found, cautions


def _minimum(x_n: Floats, c_n: Floats, y_n: Floats, degree: int) -> _Minimum | None:
    """The polynomial's minimum at the mean compute; None where it is not bracketed.

    Where computes differ by more than 1% and there are points enough, the loss may also fall with log C.
    """
    centre = float(x_n.mean())
    basis_nxt = np.vander(x_n - centre, degree + 1, increasing=True)
    if float(np.ptp(c_n)) > log1p(SAME) and len(x_n) > degree + 2:
        basis_nxt = np.column_stack([basis_nxt, c_n])
    coefficients_t, *_ = np.linalg.lstsq(basis_nxt, y_n, rcond=None)
    squares = float(np.sum((y_n - basis_nxt @ coefficients_t) ** 2))
    unit_txt = np.asarray(np.linalg.pinv(basis_nxt.T @ basis_nxt), dtype=np.float64)
    unit_txt = unit_txt[: degree + 1, : degree + 1]
    polynomial = np.polynomial.Polynomial(coefficients_t[: degree + 1])
    inner = np.sort(x_n - centre)[1:-1]
    minima = [
        float(root.real)
        for root in polynomial.deriv().roots()
        if abs(root.imag) < 1e-9 and inner[0] <= root.real <= inner[-1] and polynomial.deriv(2)(root.real) > 0
    ]
    if not minima:
        return None
    x = min(minima, key=lambda place: float(polynomial(place)))
    powers_t = np.arange(degree + 1)
    slope_t = powers_t * x ** np.maximum(powers_t - 1, 0)  # of the derivative by each coefficient
    x_se = float(np.sqrt(slope_t @ unit_txt @ slope_t)) / float(polynomial.deriv(2)(x))
    height_t = x**powers_t
    height_se = float(np.sqrt(height_t @ unit_txt @ height_t))
    return _Minimum(x + centre, x_se, float(polynomial(x)), height_se, squares, len(x_n) - basis_nxt.shape[1])
