"""Curves: read from a table, their short-term noise around a trend, and steps that take longer than the others."""

from __future__ import annotations

import itertools
from collections.abc import Collection, Sequence
from dataclasses import dataclass

import numpy as np
import polars as pl
from numpy.typing import NDArray
from scipy import special

from isoloss.analysis.columns import Rows
from isoloss.analysis.estimate import LEVEL, Estimate
from isoloss.errors import ConfigError

Floats = NDArray[np.float64]


@dataclass(frozen=True)
class Curve:
    """The finite evaluations of one run, ascending in step."""

    run: str
    step_n: Floats
    loss_n: Floats


def curves_of(rows: Rows, run: str, step: str, loss: str) -> list[Curve]:
    """The runs in the order they first appear. Raises ConfigError for negative steps and for two losses at one step."""
    evaluations = rows.table.select(run=pl.col(run), step=pl.col(step), loss=pl.col(loss)).with_row_index("place")
    table = evaluations.sort(pl.col("place").min().over("run"), "step")
    if float(np.min(rows.floats(step))) < 0:
        raise ConfigError(f"column '{step}' holds negative steps; steps count from 0", (step,))
    doubled = table.filter((pl.col("run") == pl.col("run").shift()) & (pl.col("step") == pl.col("step").shift()))
    if len(doubled):
        raise ConfigError(
            f"run {doubled['run'][0]!r} has more than one loss at step {doubled['step'][0]:g} ({len(doubled):,} such "
            "rows in all); keep one row an evaluation",
            (run, step),
        )
    names, steps, losses = table["run"].to_list(), table["step"].to_numpy(), table["loss"].to_numpy()
    edges = [0, *(np.flatnonzero(np.diff(table["run"].rle_id().to_numpy())) + 1).tolist(), len(table)]
    return [
        Curve(str(names[start]), steps[start:stop], losses[start:stop]) for start, stop in itertools.pairwise(edges)
    ]


def end_without_loss(table: pl.DataFrame, run: str, step: str, loss: str) -> set[str]:
    """Runs whose last loss is NaN or infinite. An absent one (null) was not evaluated and says nothing."""
    numbers = table.select(run, pl.col(step, loss).cast(pl.Float64(), strict=False)).drop_nulls()
    last = numbers.filter(pl.col(step) == pl.col(step).max().over(run))
    return {str(name) for name in last.filter(~pl.col(loss).is_finite())[run]}


@dataclass(frozen=True)
class Noise:
    """Variance around a trend, from `n` residuals that share points with their neighbours; noises add up by pooling.

    `overlap` is the sum of squared correlations of the residuals, each with itself and every other: `n` for
    independent ones. The degrees of freedom follow from it (Satterthwaite 1946).
    """

    sum_of_squares: float
    n: int
    overlap: float

    def __add__(self, other: Noise) -> Noise:
        return Noise(self.sum_of_squares + other.sum_of_squares, self.n + other.n, self.overlap + other.overlap)

    @property
    def variance(self) -> float:
        """Mean squared residual, in the square of the curve's unit."""
        return self.sum_of_squares / self.n

    @property
    def df(self) -> float:
        """Of the chi-squared distribution with the mean and variance of `variance`, for independent normal noise."""
        return self.n**2 / self.overlap

    def exceeds(self, other: Noise) -> bool:
        """Whether this variance is the larger one by more than chance (one-sided F, 5%)."""
        return self.variance > other.variance * float(special.fdtri(self.df, other.df, LEVEL))


def short_term_noise(x_j: Floats, y_j: Floats) -> Noise | None:
    """Noise of y around a smooth function of x (ascending): each point against the chord of its neighbours.

    A straight trend leaves no trace, a bent one adds to the variance. None below three points. Gasser, Sroka and
    Jennen-Steinmetz (1986).
    """
    places = len(x_j) - 2
    if places < 1:
        return None
    left, middle, right = (x_j[start : start + places] for start in (0, 1, 2))
    weights_qx3 = np.stack([(middle - right) / (right - left), np.ones(places), (left - middle) / (right - left)], 1)
    weights_qx3 /= np.sqrt((weights_qx3**2).sum(1, keepdims=True))
    residual_q = sum(weights_qx3[:, k] * y_j[k : k + places] for k in range(3))
    overlap = float(places)
    for lag in (1, 2):  # residuals one and two places from each other have points in common
        first, second = weights_qx3[:-lag], weights_qx3[lag:]
        overlap += 2 * float(((first[:, lag:] * second[:, : 3 - lag]).sum(1) ** 2).sum())
    return Noise(float(np.dot(residual_q, residual_q)), places, overlap)


@dataclass(frozen=True)
class SlowSteps:
    """Counts of one run: `spikes` of `steps` steps are slow; `after` of the steps, `both` of the spikes, follow an
    evaluation.
    """

    steps: int
    after: int
    spikes: int
    both: int


@dataclass(frozen=True)
class Spikes:
    """Slow steps of one or more runs, and whether they come right after an evaluation.

    `share` of the spikes come after one (None without spikes). Were each run's spikes spread evenly over its steps,
    `by_chance` is what to expect of it and `p` the probability of at least as many (hypergeometric within runs).
    """

    times: float
    runs: tuple[SlowSteps, ...]
    spikes: int
    after_evaluation: int
    share: Estimate | None
    by_chance: float | None
    p: float | None


def spike_report(step_time_n: Floats, evaluation_steps: Collection[int], times: float) -> Spikes:
    """Steps of one run that take longer than `times` its median step, and how many come right after an evaluation.

    `step_time_n[s]` are the seconds of step s, counted from 0; an evaluation at step s happens before step s. Step 0
    is left out, as it pays for the start, and so are steps without a finite time. Raises ConfigError when no other
    step is left or `times` is not above 1.
    """
    if not times > 1:
        raise ConfigError(f"times={times:g}: a spike takes more than the median step, so it must be above 1")
    step_time_n = np.asarray(step_time_n, dtype=np.float64)
    after_n = np.isin(np.arange(len(step_time_n)), np.asarray(list(evaluation_steps), dtype=np.int64))
    timed = np.flatnonzero(np.isfinite(step_time_n))
    timed = timed[timed > 0]
    if not len(timed):
        raise ConfigError("no step after step 0 has a finite time")
    slow, after = step_time_n[timed] > times * np.median(step_time_n[timed]), after_n[timed]
    run = SlowSteps(len(timed), int(after.sum()), int(slow.sum()), int((slow & after).sum()))
    return _spikes(times, (run,))


def pooled(spikes: Sequence[Spikes]) -> Spikes:
    """The spikes of several runs together. Raises ConfigError for none, or when they are not counted alike."""
    thresholds = {each.times for each in spikes}
    if len(thresholds) != 1:
        raise ConfigError(f"spikes over {len(thresholds)} thresholds cannot be pooled: there must be one")
    return _spikes(thresholds.pop(), tuple(run for each in spikes for run in each.runs))


def proportion(count: int, n: int, level: float = LEVEL) -> Estimate:
    """`count` of `n` as a share, with the exact interval of Clopper and Pearson (1934)."""
    low, high = clopper_pearson_low(count, n, level), 1 - clopper_pearson_low(n - count, n, level)
    return Estimate(count / n, low, high, level, n, "share, Clopper–Pearson interval")


def clopper_pearson_low(count: int, n: int, level: float = LEVEL) -> float:
    """The lower end of the two-sided exact interval for a share."""
    return float(special.betaincinv(count, n - count + 1, (1 - level) / 2)) if count else 0.0


def _spikes(times: float, runs: tuple[SlowSteps, ...]) -> Spikes:
    spikes, both = sum(run.spikes for run in runs), sum(run.both for run in runs)
    if not spikes:
        return Spikes(times, runs, 0, 0, None, None, None)
    expected = sum(run.spikes * run.after / run.steps for run in runs)
    return Spikes(times, runs, spikes, both, proportion(both, spikes), expected / spikes, _tail(runs, both))


def _log_choose(n: int, k: int | NDArray[np.int64]) -> Floats:
    """Logarithm of the number of ways to choose k of n, -inf where k is more than n."""
    ways = (
        special.gammaln(n + 1) - special.gammaln(np.add(k, 1)) - special.gammaln(np.maximum(np.subtract(n, k), 0) + 1)
    )
    return np.where(np.greater(k, n), -np.inf, ways)


def _tail(runs: Sequence[SlowSteps], both: int) -> float:
    """Probability that at least `both` spikes follow an evaluation when each run's spikes are spread evenly."""
    chances = np.ones(1)
    for run in runs:
        counts = np.arange(min(run.after, run.spikes) + 1)
        ways = _log_choose(run.after, counts) + _log_choose(run.steps - run.after, run.spikes - counts)
        chances = np.convolve(chances, np.exp(ways - _log_choose(run.steps, run.spikes)))  # hypergeometric
    return float(min(1.0, chances[both:].sum()))
