"""Where loss curves stand at their end (improving, plateaued, U-turned, diverged or not to be told), and when they
reach a target.

A run is judged by the first of these sentences that is true, so that it has exactly one state. Every interval is the
two-sided 95% one shown with the result; tolerance ε is in nats per doubling of steps.

1. *diverged*: the last loss is not finite, or the loss rose by five tolerances or more at once and stayed there.
2. *U-turned*: the rise from its lowest stretch to its last stretch has its lower end above 0 and is larger than ε, or
   the upper end of the improvement per doubling over the last window is below −ε.
3. *improving* late: the fall from the first half of the last window to the last stretch has the lower end of its 99.8%
   interval above 0 and is larger than ε, as after a cooldown of the learning rate.
4. *plateaued*: the interval of the improvement over the last window lies between −ε and ε. The plateau begins with the
   earliest window since which its upper end is below ε in every window (each must pass: an intersection-union test,
   Berger 1982).
5. *improving*: the lower end of the improvement over the last window is above 0.
6. *inconclusive*: none of these, too few evaluations, or noise that cannot be told.

A window is the shortest row of consecutive evaluations from a given one that spans a doubling of steps and has four
evaluations; the last window ends with the run, and is all there is when the evaluations span less than a doubling. Its
improvement is minus the slope of a least-squares line of loss on log2(step). Evaluations at step 0 have no logarithm
and count for the best loss and the target alone. `isoloss.analysis.trend` says where noise comes from.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace

import numpy as np
import polars as pl

from isoloss.analysis.beginnings import first_of_equals, mostly_own
from isoloss.analysis.columns import usable_rows
from isoloss.analysis.convergence_cautions import cautions_about
from isoloss.analysis.crossing import Crossing, P, crossings, groups_of
from isoloss.analysis.curves import Curve, curves_of, end_without_loss, proportion
from isoloss.analysis.estimate import Estimate
from isoloss.analysis.gap import gaps_at_end
from isoloss.analysis.jumps import jumps_that_stay
from isoloss.analysis.learning_rate import column_of_rates, rates_falling
from isoloss.analysis.states import JUMP, state_of
from isoloss.analysis.states import STATES as STATES
from isoloss.analysis.states import State as State
from isoloss.analysis.trend import (
    Points,
    RunNoise,
    Window,
    Windows,
    condense,
    judge_noise,
    rise_at_end,
    windows_of,
)
from isoloss.diagnostic import Diagnostic
from isoloss.errors import ConfigError


@dataclass(frozen=True)
class Rates:
    """What one step of a run costs, where it is known: tokens, FLOPs, seconds."""

    tokens_per_step: float | None = None
    flops_per_step: float | None = None
    seconds_per_step: float | None = None


@dataclass(frozen=True)
class TimeToTarget:
    """When a run first had the target loss or less.

    Reached: `step` is that of the first evaluation at or below the target, which lies after step `after` (None when it
    was the first of all); nothing is interpolated between the two. Not reached: `step` is the last one evaluated, and
    the time is longer than that (right-censored). Tokens, FLOPs and seconds are those of `step`, None where no rate
    is known.
    """

    reached: bool
    step: float
    after: float | None
    tokens: float | None
    flops: float | None
    seconds: float | None


@dataclass(frozen=True)
class RunConvergence:
    """One run: `n` evaluations; losses in nats/token; `improvement` over the last of its `windows`.

    `plateau_step` is None unless plateaued. `rise` is how far the loss of the last stretch is above the lowest one.
    `rate_falling` says whether the learning rate still fell at the end, None where rates are not known.
    """

    run: str
    n: int
    first_step: float
    last_step: float
    best_loss: float
    best_step: float
    final_loss: float
    final_gap: float | None
    state: State
    plateau_step: float | None
    improvement: Estimate | None
    rise: Estimate | None
    noise_sd: float | None
    to_target: TimeToTarget | None
    windows: Sequence[Window]
    rate_falling: bool | None = None


@dataclass(frozen=True)
class Convergence:
    """All runs of a table, in its order; `shares` of them in each state, each with its own interval.

    `reached` is the share that reached the target, `gap` the mean of final val − final train loss over runs;
    `crossing` is when the mean of each group's runs reached the target, empty without one.
    """

    runs: tuple[RunConvergence, ...]
    tolerance: float
    target: float | None
    shares: dict[State, Estimate]
    reached: Estimate | None
    gap: Estimate | None
    cautions: tuple[Diagnostic, ...]
    crossing: tuple[Crossing, ...] = ()


def analyse_convergence(
    table: pl.DataFrame,
    run: str = "run",
    step: str = "step",
    loss: str = "loss",
    *,
    target: float | None = None,
    tolerance: float = 0.02,
    train_loss: str | None = None,
    rates: Mapping[str, Rates] | None = None,
    group: str | None = None,
    p: float = P,
    lr: str | None = None,
    rate_falling: Mapping[str, bool] | None = None,
) -> Convergence:
    """Judge every run of a table with one row an evaluation.

    `tolerance` is in nats per doubling of steps, `target` in the unit of `loss`; `rates` are by run. Runs with the same
    value in column `group` are replicates, whose mean is tested against the target at `p`. Whether the learning rate
    was still falling is given by run, or told from the column `lr`, one of that name or learning_rate where there is
    one. Raises ConfigError for a column that is missing or not numeric, a negative step, two losses at one step of a
    run, a tolerance that is not above 0, a group without a target.
    """
    if not (math.isfinite(tolerance) and tolerance > 0):
        raise ConfigError(f"tolerance={tolerance:g}: nats per doubling of steps, must be finite and above 0")
    if target is not None and not math.isfinite(target):
        raise ConfigError(f"target={target:g}: a loss to reach must be finite")
    if len({run, step, loss}) < 3:
        raise ConfigError(f"run, step and loss must be three columns, not {run}, {step} and {loss}", (loss,))
    if group is not None and target is None:
        raise ConfigError(f"group '{group}' needs a target that the mean of its runs is held against", (group,))
    rows = usable_rows(table, numeric=[step, loss], other=[run])
    if rate_falling is None:
        rate_falling = _rates_of(table, run, step, lr)
    curves = curves_of(rows, run, step, loss)
    lost = end_without_loss(table, run, step, loss)
    gaps, gap, gap_cautions = gaps_at_end(rows, run, step, loss, train_loss)
    points = [condense(curve.step_n, curve.loss_n) for curve in curves]
    jumps = jumps_that_stay([(each.x_j, each.y_j) for each in points], JUMP * tolerance)
    noises = judge_noise(points, jumps, mostly_own(curves))
    runs = tuple(
        _run_convergence(
            curve,
            own_points,
            noise,
            tolerance,
            None if target is None else _time_to(target, curve, (rates or {}).get(curve.run, Rates())),
            curve.run in lost or jump is not None,
            gaps.get(curve.run),
            rate_falling.get(curve.run),
        )
        for curve, own_points, noise, jump in zip(curves, points, noises, jumps, strict=True)
    )
    count = len(runs)
    reached = [] if target is None else _distinct_outcomes(curves, target)
    return Convergence(
        runs,
        tolerance,
        target,
        {state: proportion(sum(each.state == state for each in runs), count) for state in STATES},
        proportion(sum(reached), len(reached)) if reached else None,
        gap,
        (*rows.cautions, *cautions_about(curves, points, noises, lost), *gap_cautions),
        () if target is None else crossings(curves, target, groups_of(table, run, group) if group else None, p=p),
    )


def convergence_as_json(convergence: Convergence) -> str:
    """One object at full precision; of a run's windows the steps of the last one."""
    entries = asdict(replace(convergence, runs=()))
    cautions = entries.pop("cautions")
    del entries["runs"]  # comes last
    runs = [
        {
            **asdict(replace(run, windows=())),
            "last_window": [run.windows[-1].first_step, run.windows[-1].last_step] if run.windows else None,
        }
        for run in convergence.runs
    ]
    for run in runs:
        del run["windows"]
    return json.dumps({**entries, "cautions": cautions, "runs": runs}, indent=2, allow_nan=False, ensure_ascii=False)


def _rates_of(table: pl.DataFrame, run: str, step: str, lr: str | None) -> dict[str, bool]:
    """By run, whether the rate still fell at its end, from the column `lr` or one that is known by its name."""
    if lr is not None:
        usable_rows(table, numeric=[step, lr], other=[run])
    column = lr or column_of_rates(table, run)
    return {} if column is None else rates_falling(table, run, step, column)


def _run_convergence(
    curve: Curve,
    points: Points,
    noise: RunNoise | None,
    tolerance: float,
    to_target: TimeToTarget | None,
    diverged: bool,
    gap: float | None,
    rate_falling: bool | None,
) -> RunConvergence:
    windows = windows_of(points, noise) if noise else None
    rise = rise_at_end(points, noise) if noise else None
    improvement = windows[-1].improvement if windows else None
    state = state_of(points, noise, improvement, rise, tolerance, diverged=diverged)
    best = int(np.argmin(curve.loss_n))
    return RunConvergence(
        run=curve.run,
        n=len(curve.step_n),
        first_step=float(curve.step_n[0]),
        last_step=float(curve.step_n[-1]),
        best_loss=float(curve.loss_n[best]),
        best_step=float(curve.step_n[best]),
        final_loss=float(curve.loss_n[-1]),
        final_gap=gap,
        state=state,
        plateau_step=_plateau_step(windows, tolerance) if windows and state == "plateaued" else None,
        improvement=improvement,
        rise=rise,
        noise_sd=noise.sd if noise else None,
        to_target=to_target,
        windows=windows or (),
        rate_falling=rate_falling,
    )


def _plateau_step(windows: Windows, tolerance: float) -> float:
    """First step of the earliest window since which every window's improvement is below the tolerance."""
    above = np.flatnonzero(windows.improvement_w + windows.half_w >= tolerance)
    return windows[min(int(above[-1]) + 1, len(windows) - 1) if len(above) else 0].first_step


def _time_to(target: float, curve: Curve, rates: Rates) -> TimeToTarget:
    reached_n = curve.loss_n <= target
    reached = bool(reached_n.any())
    first = int(np.argmax(reached_n)) if reached else len(reached_n) - 1
    step = float(curve.step_n[first])
    after = float(curve.step_n[first - 1]) if reached and first else None
    costs = (rates.tokens_per_step, rates.flops_per_step, rates.seconds_per_step)
    return TimeToTarget(reached, step, after, *(None if cost is None else cost * step for cost in costs))


def _distinct_outcomes(curves: Sequence[Curve], target: float) -> list[bool]:
    """Whether runs reached the target; those that did in a beginning that they share count once."""
    reached = [bool((curve.loss_n <= target).any()) for curve in curves]
    places = [
        int(np.argmax(curve.loss_n <= target)) if there else len(curve.loss_n)
        for curve, there in zip(curves, reached, strict=True)
    ]
    return [there for there, first in zip(reached, first_of_equals(curves, places), strict=True) if first]
