"""The trend of one loss curve in log2(step): its noise, improvement per doubling over windows, and rise at the end.

Noise is what a smooth trend leaves of the last two doublings of steps, taken to be of equal variance over the run. A
run of more than 64 evaluations is first condensed to means of consecutive ones.

With 20 points or more there, the trend is a cubic and noise may be correlated from point to point: as a first-order
autoregression, its autocorrelation ρ corrected for bias as in Kendall (1954), its variance multiplied by
(1 + ρ) / (1 − ρ), what a mean of many such points has. Where a bend at one point explains three quarters of what the
cubic leaves, as a cooldown of the learning rate makes one, the trend has it as well. With fewer points correlation
cannot be told: they are taken to be independent, noise comes from second differences and is pooled over such runs of
the table, without those that are too noisy (`isoloss.analysis.pooling`).
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import overload

import numpy as np
from numpy.typing import NDArray
from scipy import special

from isoloss.analysis.curves import Noise, short_term_noise
from isoloss.analysis.estimate import LEVEL, Estimate
from isoloss.analysis.jumps import Jump, noise_beside
from isoloss.analysis.pooling import shared_noise, typical
from isoloss.design.audit_hypotheses import FEWEST_EVALUATIONS

Floats = NDArray[np.float64]
LEAST = FEWEST_EVALUATIONS
"""Evaluations that a window must have."""
MOST_POINTS = 64
LONG = 20
"""Points in the last two doublings from which a run's noise stands for itself."""
LEAST_DF = 2.0
TREND = 4
"""Parameters of the cubic trend."""
BEND = 4.0
"""How many times smaller a bend at one point has to make the residual squares to be part of the trend."""
FALL_LEVEL = 0.998
"""Of the interval of the fall at the end: its false positives come on top of those of the slope."""
GRIDS = 64
"""Grids of steps of which is kept what follows from them alone: the runs of a table mostly share a few."""
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


@dataclass(frozen=True, eq=False)
class Windows(Sequence[Window]):
    """All w windows of a run in the order of their first step, each made when asked for: a table has many."""

    points: Points
    start_w: NDArray[np.int64]
    end_w: NDArray[np.int64]
    improvement_w: Floats
    half_w: Floats
    """Half the width of each improvement's interval."""
    method: str

    def __len__(self) -> int:
        return len(self.improvement_w)

    @overload
    def __getitem__(self, w: int) -> Window: ...
    @overload
    def __getitem__(self, w: slice) -> Sequence[Window]: ...
    def __getitem__(self, w: int | slice) -> Window | Sequence[Window]:
        if isinstance(w, slice):
            return [self[i] for i in range(*w.indices(len(self)))]
        value, half = float(self.improvement_w[w]), float(self.half_w[w])
        start, end = int(self.start_w[w]), int(self.end_w[w])
        n = int(self.points.count_j[start : end + 1].sum())
        improvement = Estimate(value, value - half, value + half, LEVEL, n, self.method)
        return Window(float(self.points.first_step_j[start]), float(self.points.last_step_j[end]), improvement)


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


def judge_noise(
    runs: Sequence[Points], jumps: Sequence[Jump | None] = (), own_points: Sequence[bool] = ()
) -> list[RunNoise | None]:
    """The noise to judge each run by; None where even that of all runs has fewer than LEAST_DF degrees of freedom.

    Of a run with few points and a jump it is the noise on either side of that. A run whose points are not its own is
    judged by what the others share.
    """
    own = [
        None if _is_long(run) else noise_beside(run.x_j, run.y_j, jump) if jump else _short_noise(run)
        for run, jump in zip(runs, jumps or [None] * len(runs), strict=True)
    ]
    few = [noise for noise in own if noise]
    counted = [noise for noise, its_own in zip(own, own_points or [True] * len(own), strict=True) if noise and its_own]
    shared, sharing = shared_noise(counted)
    belongs = iter(typical(few))
    return [
        _noise_of_long(run)
        if _is_long(run)
        else _noise_of_short(run, noise, noise is None or next(belongs), shared, sharing)
        for run, noise in zip(runs, own, strict=True)
    ]


def windows_of(points: Points, noise: RunNoise) -> Windows:
    """The windows of a run, in the order of their first step; the last one ends with the run."""
    start_w, end_w, x_j, sum_x_w, spread_w = _window_places(points.x_j.tobytes())
    y_j, n_w = points.y_j - points.y_j.mean(), end_w - start_w + 1
    sum_y_w, sum_xy_w = _sums(y_j, start_w, end_w), _sums(x_j * y_j, start_w, end_w)
    improvement_w = -(sum_xy_w - sum_x_w * sum_y_w / n_w) / spread_w
    half_w = float(special.stdtrit(noise.df, (1 + LEVEL) / 2)) * noise.sd / np.sqrt(spread_w)
    method = f"least squares of loss on log2(step), {noise.source}"
    return Windows(points, start_w, end_w, improvement_w, half_w, method)


def rise_at_end(points: Points, noise: RunNoise) -> Estimate | None:
    """How far the mean of a run's last stretch is above that of its lowest earlier one, in nats.

    A stretch is a sixteenth of the points, at least two. The minimum of noisy values is too low, so the interval holds
    for all earlier stretches at once (Bonferroni): where the loss never rises, its lower end is above 0 in at most
    2.5% of runs. None where there is no room for two stretches.
    """
    stretch = _stretch(points)
    candidates = len(points.y_j) - 2 * stretch + 1
    if candidates < 1:
        return None
    mean_w = np.convolve(points.y_j, np.full(stretch, 1 / stretch), mode="valid")
    value = float(mean_w[-1] - mean_w[:candidates].min())
    half = float(special.stdtrit(noise.df, 1 - (1 - LEVEL) / 2 / candidates)) * noise.sd * math.sqrt(2 / stretch)
    method = f"last stretch minus the lowest of {candidates} earlier ones (Bonferroni), {noise.source}"
    return Estimate(value, value - half, value + half, LEVEL, int(points.count_j.sum()), method)


def fall_at_end(points: Points, noise: RunNoise) -> Estimate | None:
    """How far the mean of a run's last stretch is below that of the first half of its last window, in nats.

    Both are stated beforehand, so one t interval serves. None where there is no window.
    """
    start_w = _window_places(points.x_j.tobytes())[0]
    stretch = _stretch(points)
    if not len(start_w) or len(points.y_j) - start_w[-1] < stretch + 2:
        return None
    before_j = points.y_j[start_w[-1] : start_w[-1] + (len(points.y_j) - start_w[-1]) // 2]
    value = float(before_j.mean() - points.y_j[-stretch:].mean())
    half = (
        float(special.stdtrit(noise.df, (1 + FALL_LEVEL) / 2)) * noise.sd * math.sqrt(1 / stretch + 1 / len(before_j))
    )
    method = f"first half of the last window minus the last stretch, {noise.source}"
    return Estimate(value, value - half, value + half, FALL_LEVEL, int(points.count_j[start_w[-1] :].sum()), method)


def _stretch(points: Points) -> int:
    return max(2, len(points.y_j) // 16)


def _late(x_j: Floats) -> int:
    if len(x_j) <= LEAST:
        return 0
    return min(int((x_j < x_j[-1] - 2 - 1e-9).sum()), len(x_j) - LEAST)


def _is_long(run: Points) -> bool:
    return len(run.x_j) - run.late >= LONG


def _short_noise(run: Points) -> Noise | None:
    return short_term_noise(run.x_j[run.late :], run.y_j[run.late :])


def _noise_of_long(run: Points) -> RunNoise:
    """A run's own noise around a cubic, with its autocorrelation."""
    x_j, y_j = run.x_j[run.late :], run.y_j[run.late :]
    n = len(x_j)
    residual_j, trend = _around_trend((x_j - x_j.mean()) / (x_j[-1] - x_j[0]), y_j)
    around = "a cubic" if trend == TREND else "a cubic with a bend"
    squares = float(residual_j @ residual_j)
    floor = _rounding(run)
    if squares <= n * floor**2:
        return RunNoise(floor, float(n - trend), f"no noise around {around}")
    lag_one = float(residual_j[1:] @ residual_j[:-1]) / squares
    rho = min(max((lag_one + trend / n) / (1 - (trend + 3) / n), 0.0), 0.95)
    variance = squares / (n - trend) * (1 + rho) / (1 - rho)
    df = max((n - trend) * (1 - rho**2) / (1 + rho**2), 2.0)
    source = f"noise around {around}, autocorrelation {rho:.2f}, df {df:.1f}"
    return RunNoise(max(math.sqrt(variance), floor), df, source, autocorrelation=rho)


def _around_trend(x_j: Floats, y_j: Floats) -> tuple[Floats, int]:
    """What the trend leaves of a curve, and how many parameters it has: a cubic, with one bend where that is clear."""
    basis_jxt, bends_jxj, lengths = _trend_columns(x_j.tobytes())
    residual_j = y_j - basis_jxt @ (basis_jxt.T @ y_j)
    gains = np.divide((bends_jxj.T @ residual_j) ** 2, lengths, out=np.zeros_like(lengths), where=lengths > ROUNDING)
    best = int(np.argmax(gains))
    squares = float(residual_j @ residual_j)
    if gains[best] <= (1 - 1 / BEND) * squares:
        return residual_j, TREND
    bend_j = bends_jxj[:, best]
    return residual_j - bend_j * float(bend_j @ residual_j) / lengths[best], TREND + 2


@lru_cache(GRIDS)
def _trend_columns(x: bytes) -> tuple[Floats, Floats, Floats]:
    """Of x_j, as bytes: a basis of the cubics, [j, t], and a bend at each inner point, [j, j - 3], with its squares.

    A bend adds max(x - at, 0); it is what of this the cubic does not have.
    """
    x_j = np.frombuffer(x)
    basis_jxt, _ = np.linalg.qr(np.vander(x_j, TREND))
    bends_jxj = np.maximum(x_j[:, None] - x_j[None, 1:-2], 0)
    bends_jxj -= basis_jxt @ (basis_jxt.T @ bends_jxj)
    return basis_jxt, bends_jxj, (bends_jxj**2).sum(0)


def _noise_of_short(
    run: Points, own: Noise | None, belongs: bool, shared: Noise | None, sharing: int
) -> RunNoise | None:
    """The noise that short runs share, or the run's own where that is larger by more than chance."""
    if own is None or shared is None:
        return None
    above = not belongs or own.exceeds(shared)
    if shared.df < LEAST_DF:
        return None
    used, runs = (own, 1) if above else (shared, sharing)
    source = f"noise from second differences, df {used.df:.1f}" + (f", {runs} runs" if runs > 1 else "")
    return RunNoise(max(math.sqrt(used.variance), _rounding(run)), used.df, source, runs, above)


def _rounding(run: Points) -> float:
    return ROUNDING * float(np.max(np.abs(run.y_j)))


@lru_cache(GRIDS)
def _window_places(x: bytes) -> tuple[NDArray[np.int64], NDArray[np.int64], Floats, Floats, Floats]:
    """First and last places of the windows: from each point the shortest one, and the shortest that ends at the end.

    Of x_j, as bytes; with x_j from its mean, its sums over the windows, and its squares around the mean of each.
    """
    x_j = np.frombuffer(x)
    points = len(x_j)
    if points < LEAST:
        none = np.zeros(0, dtype=np.int64)
        return none, none, x_j, np.zeros(0), np.zeros(0)
    # A doubling to within rounding: 500 to 1,000 must count as one.
    ends = np.maximum(np.searchsorted(x_j, x_j + 1 - 1e-9), np.arange(points) + LEAST - 1)
    last = max(min(int((x_j <= x_j[-1] - 1 + 1e-9).sum()) - 1, points - LEAST), 0)
    start_w = np.arange(last + 1)
    end_w = np.minimum(np.where(start_w == last, points - 1, ends[: last + 1]), points - 1)
    x_j = x_j - x_j.mean()
    sum_x_w = _sums(x_j, start_w, end_w)
    return start_w, end_w, x_j, sum_x_w, _sums(x_j * x_j, start_w, end_w) - sum_x_w**2 / (end_w - start_w + 1)


def _sums(value_j: Floats, start_w: NDArray[np.int64], end_w: NDArray[np.int64]) -> Floats:
    """Sums of a column over each window."""
    running_j = np.cumsum(value_j)
    return running_j[end_w] - running_j[start_w] + value_j[start_w]
