"""IsoFLOP profiles: at each compute, the size with the lowest loss, from a curve through the runs of equal compute.

The curve is a cubic in log N through the sizes near the minimum. Hoffmann et al. (2022, approach 2) take a parabola,
whose minimum is biased even without noise where the two sides of the valley differ in steepness; it can be asked for
and is labelled.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from math import exp, log1p
from typing import Literal

import numpy as np
import polars as pl
from scipy import special

from isoloss.analysis.cells import Codes, close_groups
from isoloss.analysis.columns import usable_rows
from isoloss.analysis.estimate import LEVEL, Estimate
from isoloss.analysis.isoflop_minima import Minima, Minimum, alike, each_alone, minimum_of
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
    common_half: float = 0.0
    """Of the half interval of log N*, what comes from the asymmetry that profiles share: it moves all minima at once,
    in the direction of its sign."""


def isoflop_profiles(
    table: pl.DataFrame, params: str, compute: str, loss: str, curve: Curve = "cubic", tolerance: float = TOLERANCE
) -> list[Profile]:
    """A profile for every compute at which at least MIN_SIZES sizes were trained; columns hold N, FLOPs, the loss.

    Noise is shared by all profiles, in proportion to their lowest losses, and so is the asymmetry of cubics unless they
    differ in it. Raises ConfigError when a column is missing
    or not positive.
    """
    rows = usable_rows(table, positive=[params, compute, loss])
    log_n, log_c, loss_n = np.log(rows.floats(params)), np.log(rows.floats(compute)), rows.floats(loss)
    found = [
        (rows_n, *_searched(log_n[rows_n], log_c[rows_n], loss_n[rows_n], curve))
        for rows_n in budgets(log_c, close_groups(log_n), tolerance)
    ]
    bracketed = [minimum for _, minimum, _ in found if minimum]
    minima = alike(bracketed) if curve == "cubic" else each_alone(bracketed)
    placed = iter(minima.found)
    profiles: list[Profile] = []
    for rows_n, minimum, cautions in found:
        sizes = tuple(np.exp(np.unique(log_n[rows_n])).tolist())
        computes = exp(float(log_c[rows_n].min())), exp(float(log_c[rows_n].max()))
        flops, n = exp(float(log_c[rows_n].mean())), len(rows_n)
        profile = Profile(flops, computes, n, sizes, curve, None, None, tuple(cautions))
        profiles.append(_with_minimum(profile, next(placed), minima) if minimum else profile)
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


def _with_minimum(profile: Profile, minimum: Minimum, minima: Minima) -> Profile:
    if not minimum.bracketed:
        return replace(profile, cautions=(*profile.cautions, _not_bracketed(profile.curve)))
    alike = f" of one asymmetry for {minima.n_alike} profiles" if minima.n_alike else ""
    shared = f" shared by {len(minima.found)} profiles" if len(minima.found) > 1 else ""
    method = f"{profile.curve} in log N{alike}, delta method, t with {minima.df} df{shared}"
    half = float(special.stdtrit(minima.df, (1 + LEVEL) / 2)) * minima.noise * minimum.height
    x_half, height_half = half * minimum.x_se, half * minimum.height_se
    value, low, high = np.exp([minimum.x, minimum.x - x_half, minimum.x + x_half]).tolist()
    size = Estimate(value, low, high, LEVEL, profile.n, method)
    least, most = minimum.height - height_half, minimum.height + height_half
    lowest = Estimate(minimum.height, least, most, LEVEL, profile.n, method)
    cautions = profile.cautions
    if low < profile.sizes[0] or high > profile.sizes[-1]:
        text = "The interval of the best size reaches beyond the sizes trained."
        cautions = (*cautions, Diagnostic("interval_beyond_data", "limits", text))
    common = half * minimum.common_se
    return replace(profile, optimal_params=size, lowest_loss=lowest, cautions=cautions, common_half=common)


def _not_bracketed(curve: Curve) -> Diagnostic:
    text = f"No minimum of the {curve} lies between the second smallest and the second largest size."
    return Diagnostic("not_bracketed", "limits", text)


def _searched(
    log_n: Floats, log_c: Floats, loss_n: Floats, curve: Curve
) -> tuple[Minimum | None, Sequence[Diagnostic]]:
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
    found = minimum_of(x_n, c_n, y_n, degree)
    if found is None:
        return None, [*cautions, _not_bracketed(curve)]
    distance_n = np.abs(x_n - found.x)
    near_n = distance_n <= max(np.log(LOCAL_RATIO), np.sort(distance_n)[min(LOCAL_SIZES, len(x_n)) - 1])
    if curve == "cubic" and not near_n.all():
        found = minimum_of(x_n[near_n], c_n[near_n], y_n[near_n], degree) or found
    return found, cautions
