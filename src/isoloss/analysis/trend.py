"""The trend of one loss curve in log2(step): its noise, improvement per doubling over windows, and rise at the end.

Noise is what a smooth trend leaves of the last two doublings of steps, taken to be of equal variance over the run. A
run of more than 64 evaluations is first condensed to means of consecutive ones.

With 20 points or more there, the trend is a cubic and noise may be correlated from point to point: as a first-order
autoregression, its autocorrelation ρ corrected for bias as in Kendall (1954), its variance multiplied by
(1 + ρ) / (1 − ρ), what a mean of many such points has. With fewer, correlation cannot be told: points are taken to be
independent, noise comes from second differences and is pooled over all such runs of the table.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import reduce
from operator import add

import numpy as np
from numpy.typing import NDArray
from scipy import special

from isoloss.analysis.curves import Noise, short_term_noise
from isoloss.analysis.estimate import LEVEL, Estimate
from isoloss.spec.audit_hypotheses import FEWEST_EVALUATIONS

Floats = NDArray[np.float64]
LEAST = FEWEST_EVALUATIONS
"""Evaluations that a window must have."""
MOST_POINTS = 64
LONG = 20
"""Points in the last two doublings from which a run's noise stands for itself."""
LEAST_DF = 2.0
TREND = 4
"""Parameters of the cubic trend."""
ROUNDING = 1e-12
"""Relative size of what arithmetic leaves of no noise at all."""


@dataclass(frozen=True)
class Points:
    """A curve after step 0, j points each the mean of `count_j` evaluations: x is log2(step), y the loss."""

    x_j: Floats
    y_j: Floats
    first_step_j: Floats
    last_step_j: Floats
    count_j: NDArray[np.int64]
    late: int
    """Where the last two doublings of steps begin; at least four points follow."""


@dataclass(frozen=True)
class RunNoise:
    """Standard deviation of a run's points as it counts for means of them, its degrees of freedom and source in words.

    `runs` share it; `above_pool` when the run was too noisy for that by more than chance.
    """

    sd: float
    df: float
    source: str
    runs: int = 1
    above_pool: bool = False
    autocorrelation: float | None = None


@dataclass(frozen=True)
class Window:
    """Consecutive evaluations of a run and its improvement over them, in nats per doubling of steps."""

    first_step: float
    last_step: float
    improvement: Estimate


def condense(step_n: Floats, loss_n: Floats) -> Points:
    """The points of a run's evaluations (ascending steps): groups of equal size, the first takes what is left over."""
    after_zero = int((step_n <= 0).sum())
    step_n, loss_n = step_n[after_zero:], loss_n[after_zero:]
    x_n, n = np.log2(step_n), len(step_n)
    size = max(1, math.ceil(n / MOST_POINTS))
    if size == 1:
        return Points(x_n, loss_n, step_n, step_n, np.ones(n, dtype=np.int64), _late(x_n))
    starts = np.arange(n // size) * size + n % size
    starts[0] = 0
    count_j = np.diff(starts, append=n)
    x_j, y_j = np.add.reduceat(x_n, starts) / count_j, np.add.reduceat(loss_n, starts) / count_j
    return Points(x_j, y_j, step_n[starts], step_n[starts + count_j - 1], count_j, _late(x_j))


def judge_noise(runs: Sequence[Points]) -> list[RunNoise | None]:
    """The noise to judge each run by; None where even that of all runs has fewer than LEAST_DF degrees of freedom."""
    own = [None if _is_long(run) else short_term_noise(run.x_j[run.late :], run.y_j[run.late :]) for run in runs]
    few = [noise for noise in own if noise]
    shared = reduce(add, few) if few else None
    return [
        _noise_of_long(run) if _is_long(run) else _noise_of_short(run, noise, shared, len(few))
        for run, noise in zip(runs, own, strict=True)
    ]


def windows_of(points: Points, noise: RunNoise) -> tuple[Window, ...]:
    """The windows of a run, in the order of their first step; the last one ends with the run."""
    starts, ends = _window_places(points.x_j)
    if not len(starts):
        return ()
    x_j, y_j = points.x_j - points.x_j.mean(), points.y_j - points.y_j.mean()
    n_w = ends - starts + 1
    sum_x_w, sum_y_w, sum_xx_w, sum_xy_w = (_sums(each, starts, ends) for each in (x_j, y_j, x_j * x_j, x_j * y_j))
    spread_w = sum_xx_w - sum_x_w**2 / n_w
    improvement_w = -(sum_xy_w - sum_x_w * sum_y_w / n_w) / spread_w
    half_w = float(special.stdtrit(noise.df, (1 + LEVEL) / 2)) * noise.sd / np.sqrt(spread_w)
    evaluations_w = _sums(points.count_j.astype(np.float64), starts, ends).astype(np.int64)
    method = f"least squares of loss on log2(step), {noise.source}"
    return tuple(
        Window(
            float(points.first_step_j[start]),
            float(points.last_step_j[end]),
            Estimate(value, value - half, value + half, LEVEL, evaluations, method),
        )
        for start, end, value, half, evaluations in zip(
            starts, ends, improvement_w.tolist(), half_w.tolist(), evaluations_w.tolist(), strict=True
        )
    )


def rise_at_end(points: Points, noise: RunNoise) -> Estimate | None:
    """How far the mean of a run's last stretch is above that of its lowest earlier one, in nats.

    A stretch is a sixteenth of the points, at least two. The minimum of noisy values is too low, so the interval holds
    for all earlier stretches at once (Bonferroni): where the loss never rises, its lower end is above 0 in at most
    2.5% of runs. None where there is no room for two stretches.
    """
    stretch = max(2, len(points.y_j) // 16)
    candidates = len(points.y_j) - 2 * stretch + 1
    if candidates < 1:
        return None
    mean_w = np.convolve(points.y_j, np.full(stretch, 1 / stretch), mode="valid")
    value = float(mean_w[-1] - mean_w[:candidates].min())
    half = float(special.stdtrit(noise.df, 1 - (1 - LEVEL) / 2 / candidates)) * noise.sd * math.sqrt(2 / stretch)
    method = f"last stretch minus the lowest of {candidates} earlier ones (Bonferroni), {noise.source}"
    return Estimate(value, value - half, value + half, LEVEL, int(points.count_j.sum()), method)


def _late(x_j: Floats) -> int:
    if len(x_j) <= LEAST:
        return 0
    return min(int((x_j < x_j[-1] - 2 - 1e-9).sum()), len(x_j) - LEAST)


def _is_long(run: Points) -> bool:
    return len(run.x_j) - run.late >= LONG


def _noise_of_long(run: Points) -> RunNoise:
    """A run's own noise around a cubic, with its autocorrelation."""
    x_j, y_j = run.x_j[run.late :], run.y_j[run.late :]
    n = len(x_j)
    basis_jxt, _ = np.linalg.qr(np.vander((x_j - x_j.mean()) / (x_j[-1] - x_j[0]), TREND))
    residual_j = y_j - basis_jxt @ (basis_jxt.T @ y_j)
    squares = float(residual_j @ residual_j)
    floor = _rounding(run)
    if squares <= n * floor**2:
        return RunNoise(floor, float(n - TREND), "no noise around a cubic")
    lag_one = float(residual_j[1:] @ residual_j[:-1]) / squares
    rho = min(max((lag_one + TREND / n) / (1 - (TREND + 3) / n), 0.0), 0.95)
    variance = squares / (n - TREND) * (1 + rho) / (1 - rho)
    df = max((n - TREND) * (1 - rho**2) / (1 + rho**2), 2.0)
    source = f"noise around a cubic, autocorrelation {rho:.2f}, df {df:.1f}"
    return RunNoise(max(math.sqrt(variance), floor), df, source, autocorrelation=rho)


def _noise_of_short(run: Points, own: Noise | None, shared: Noise | None, runs: int) -> RunNoise | None:
    """The noise that all short runs share, or the run's own where that is larger by more than chance."""
    if own is None or shared is None:
        return None
    above = own.exceeds(shared)
    if shared.df < LEAST_DF:
        return None
    used, runs = (own, 1) if above else (shared, runs)
    source = f"noise from second differences, df {used.df:.1f}" + (f", {runs} runs" if runs > 1 else "")
    return RunNoise(max(math.sqrt(used.variance), _rounding(run)), used.df, source, runs, above)


def _rounding(run: Points) -> float:
    return ROUNDING * float(np.max(np.abs(run.y_j)))


def _window_places(x_j: Floats) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """First and last places of the windows: from each point the shortest one, and the shortest that ends at the end."""
    points = len(x_j)
    if points < LEAST:
        return np.zeros(0, dtype=np.int64), np.zeros(0, dtype=np.int64)
    # A doubling to within rounding: 500 to 1,000 must count as one.
    ends = np.maximum(np.searchsorted(x_j, x_j + 1 - 1e-9), np.arange(points) + LEAST - 1)
    last = max(min(int((x_j <= x_j[-1] - 1 + 1e-9).sum()) - 1, points - LEAST), 0)
    starts = np.arange(last + 1)
    return starts, np.minimum(np.where(starts == last, points - 1, ends[: last + 1]), points - 1)


def _sums(value_j: Floats, starts: NDArray[np.int64], ends: NDArray[np.int64]) -> Floats:
    """Sums of a column over each window."""
    running_j = np.cumsum(value_j)
    return running_j[ends] - running_j[starts] + value_j[starts]
