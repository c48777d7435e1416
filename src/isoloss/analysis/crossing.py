"""When the mean loss of replicates gets to a target: the step a t test shows it at, and where the mean itself crosses.

The one-sided t test (Student 1908) of the mean against the target is what records of training speed are judged by: a
mean over runs that is below the target by more than their spread explains. It is made at every step that is evaluated,
without allowance for their number, as records are judged; a curve that stays just at its target for many evaluations
gets below it by chance more often than p says.

The interval of the crossing has as its ends the first steps at which the lower and the upper end of the 95% t interval
of the mean are at or below the target, on straight lines between evaluations: the t interval inverted (Fieller 1954).
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import polars as pl
from numpy.typing import NDArray
from scipy import special

from isoloss.analysis.beginnings import families_of, means_of_families
from isoloss.analysis.curves import Curve
from isoloss.analysis.estimate import LEVEL
from isoloss.errors import ConfigError
from isoloss.study.synonyms import did_you_mean

Floats = NDArray[np.float64]
Group = str | int | float | bool | None
P = 0.01


@dataclass(frozen=True)
class Crossing:
    """When the mean of a group's `n` runs reached the target; runs that share a beginning are one, their mean.

    `step` is the first evaluated one whose test has `p` at or below the limit, both None where there is none.
    `mean_step` is where the mean crosses, with `low` and `high`; each None where it does not.
    """

    group: Group
    step: float | None
    p: float | None
    mean_step: float | None
    low: float | None
    high: float | None
    n: int
    method: str


def groups_of(table: pl.DataFrame, run: str, group: str) -> dict[str, Group]:
    """The group of each run. Raises ConfigError for a column that is missing or that varies within a run."""
    if group not in table.columns:
        raise ConfigError(f"the table has no column '{group}': {did_you_mean(group, table.columns)}", (group,))
    pairs = table.select(run=pl.col(run).cast(pl.String()), group=pl.col(group)).drop_nulls("run").unique()
    pairs = pairs.filter(pl.col("group").is_not_null() | (pl.len().over("run") == 1))
    twice = pairs.filter(pl.len().over("run") > 1).sort("run")
    if len(twice):
        raise ConfigError(
            f"run {twice['run'][0]!r} has more than one value in column '{group}'; a run belongs to one group",
            (group,),
        )
    return {name: _plain(value) for name, value in pairs.iter_rows()}


def crossings(
    curves: Sequence[Curve], target: float, groups: Mapping[str, Group] | None = None, *, p: float = P
) -> tuple[Crossing, ...]:
    """A crossing for each group, in the order of their first runs; of all runs together without `groups`."""
    if not 0 < p < 1:
        raise ConfigError(f"p={p:g}: the probability below which a test counts must lie between 0 and 1")
    members: dict[Group, list[Curve]] = {}
    for curve in curves:
        members.setdefault(None if groups is None else groups.get(curve.run), []).append(curve)
    return tuple(_crossing(group, runs, target, p) for group, runs in members.items())


def _crossing(group: Group, runs: Sequence[Curve], target: float, limit: float) -> Crossing:
    step_j, loss_uxj, where = _at_equal_steps(runs)
    if not len(step_j):
        return Crossing(group, None, None, None, None, None, len(runs), f"no test: {where}")
    loss_uxj = means_of_families(loss_uxj, families_of(runs))
    n = len(loss_uxj)
    mean_j = loss_uxj.mean(0)
    mean_step = _first_at_or_below(step_j, mean_j, target)
    notes = "; the mean is at or below the target at the first step" if mean_j[0] <= target else ""
    notes += f"; {len(runs)} runs, of which those with the same beginning count as one" if n < len(runs) else ""
    if n == 1:
        method = f"one run: no t test and no interval; where the run itself crosses, on straight lines{notes}"
        return Crossing(group, None, None, mean_step, None, None, 1, method)
    error_j = loss_uxj.std(0, ddof=1) / math.sqrt(n)
    p_j = _p_values(mean_j - target, error_j, n - 1)
    band_j = float(special.stdtrit(n - 1, (1 + LEVEL) / 2)) * error_j
    low = _first_at_or_below(step_j, mean_j - band_j, target)
    if low is not None and mean_j[0] - band_j[0] <= target:
        low = None  # it may have crossed before the first evaluation
    high = _first_at_or_below(step_j, mean_j + band_j, target)
    passed = np.flatnonzero(p_j <= limit)
    method = (
        f"one-sided t test of the mean of {n} runs at {where}, p at or below {limit:g}, each step by itself; interval: "
        f"where the {LEVEL:.0%} t interval of the mean crosses the target, on straight lines between these steps{notes}"
    )
    if not len(passed):
        method += f"; no step passes, p {p_j[-1]:.2g} at the last one"
        return Crossing(group, None, None, mean_step, low, high, n, method)
    first = int(passed[0])
    return Crossing(group, float(step_j[first]), float(p_j[first]), mean_step, low, high, n, method)


def _at_equal_steps(runs: Sequence[Curve]) -> tuple[Floats, Floats, str]:
    """The runs' losses at the same steps, and which these are in words.

    The steps at which every run is evaluated; where these are fewer than half of the evaluations of a run within the
    steps that all have, every step of any run there, each run on straight lines between its own evaluations.
    """
    grids = list({run.step_n.tobytes(): run.step_n for run in runs}.values())  # mostly one, whatever the runs
    start, end = max(step_n[0] for step_n in grids), min(step_n[-1] for step_n in grids)
    within = [step_n[(step_n >= start) & (step_n <= end)] for step_n in grids]
    common_j = within[0]
    for step_n in within[1:]:
        common_j = np.intersect1d(common_j, step_n)
    every_j = np.unique(np.concatenate(within))
    if not len(every_j):
        return every_j, np.empty((len(runs), 0)), "the runs have no steps in common"
    ends = {float(step_n[-1]) for step_n in grids}
    until = f", up to step {end:g}, where the first of them ends" if len(ends) > 1 else ""
    if 2 * len(common_j) >= max(map(len, within)):
        places = [np.searchsorted(run.step_n, common_j) for run in runs]
        loss_uxj = np.stack([run.loss_n[place] for run, place in zip(runs, places, strict=True)])
        return common_j, loss_uxj, f"the steps that all have{until}"
    loss_uxj = np.stack([np.interp(every_j, run.step_n, run.loss_n) for run in runs])
    return every_j, loss_uxj, f"the steps of any run, the others on straight lines between their own{until}"


def _p_values(difference_j: Floats, error_j: Floats, df: int) -> Floats:
    """Of the mean being at the target or above it. Without any spread the difference alone decides."""
    t_j = np.divide(difference_j, error_j, out=np.copysign(np.inf, difference_j), where=error_j > 0)
    return np.where((error_j == 0) & (difference_j == 0), 0.5, special.stdtr(df, t_j))


def _first_at_or_below(step_j: Floats, value_j: Floats, target: float) -> float | None:
    """The first step at which straight lines through the values are at or below the target."""
    below = np.flatnonzero(value_j <= target)
    if not len(below):
        return None
    last = int(below[0])
    if last == 0:
        return float(step_j[0])
    left, right = float(value_j[last - 1]), float(value_j[last])
    share = (left - target) / (left - right)
    return float(step_j[last - 1] + share * (step_j[last] - step_j[last - 1]))


def _plain(value: object) -> Group:
    """A value that JSON has: what is no finite number is text."""
    if value is None or isinstance(value, bool | int) or (isinstance(value, float) and math.isfinite(value)):
        return value
    return str(value)
