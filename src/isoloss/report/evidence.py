"""What claims and the page's analyses rest on: the runs that are done, and what their curves say, each read once."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping
from dataclasses import replace
from functools import cache

import numpy as np
import polars as pl

from isoloss.analysis.claim import Evidence
from isoloss.analysis.convergence import Convergence, Rates, analyse_convergence
from isoloss.analysis.curves import Floats, Spikes, pooled, spike_report
from isoloss.analysis.learning_rate import TAIL
from isoloss.analysis.programs import PROGRAM, SHUFFLED
from isoloss.diagnostic import Diagnostic
from isoloss.errors import ConfigError
from isoloss.report.snapshot import Snapshot
from isoloss.store import records
from isoloss.store.outcome import MAX_POINTS
from isoloss.store.tables import StudyResults
from isoloss.study.compute import evaluations as evaluations_of
from isoloss.study.compute import tokens_per_step, train_flops
from isoloss.study.config import RunConfig
from isoloss.study.schedules import decays

REACHED_BY = 0.75
"""The loss that times are measured to is one this share of the runs reaches."""
CHOSEN_TARGET = Diagnostic(
    "chosen_target",
    "note",
    f"The target is the loss that {REACHED_BY:.0%} of the done runs reach, rounded up to two decimals: it is chosen "
    "from these runs, so the share that reaches it is no finding.",
)
LOST_STATES = ("failed", "diverged")
"""Of runs that ended without a result."""
TELLING_STEPS = 8
"""Runs whose first steps took the same time to the bit were trained together, as one stack."""


def evidence(snapshot: Snapshot) -> Evidence:
    """The done runs of a study. Its curves are read when first asked for, and once."""
    done = snapshot.summary.filter(pl.col("status") == "done")
    recorded = [snapshot.statuses[run].provenance for run in done["run_id"]]
    done = done.with_columns(
        pl.Series(
            PROGRAM, [str(of.get(records.PROGRAM, run)) for run, of in zip(done["run_id"], recorded, strict=True)]
        ),
        pl.Series(SHUFFLED, [of.get(records.SHUFFLED) is True for of in recorded]),
    )
    factors = {factor: snapshot.study.varied[factor] for factor in snapshot.factors}
    lost = snapshot.summary.filter(pl.col("status").is_in(LOST_STATES)).select("run_id", "seed", *factors)
    tuned = tuple(snapshot.study.tuned)
    return Evidence(done, factors, _convergence(snapshot), _spikes(snapshot), lost, tuned)


def rates(results: StudyResults, summary: pl.DataFrame) -> dict[str, Rates]:
    """What a step of each run of a summary costs; seconds are its median over the run's steps."""
    configs = results.configs_by_id
    return {
        run: Rates(tokens_per_step(configs[run]), train_flops(configs[run]) / configs[run].max_iters, seconds)
        for run, seconds in summary.select("run_id", "median_step_time_s").iter_rows()
    }


def rates_falling(configs: Mapping[str, RunConfig]) -> dict[str, bool]:
    """By run, whether its schedule lowers the learning rate over the end of its steps (TAIL of them)."""
    return {
        run: decays(config)
        and config.min_lr < config.learning_rate
        and config.warmup_iters < config.max_iters
        and config.decay_horizon > (1 - TAIL) * config.max_iters
        for run, config in configs.items()
    }


def target_loss(snapshot: Snapshot) -> float | None:
    """The study's target, or the loss, rounded up to two decimals, that REACHED_BY of the done runs reach.

    None while none is done, and where tokenizers differ, whose losses per token do not compare.
    """
    if snapshot.compared_loss != "val_loss":
        return None
    if snapshot.study.target is not None:
        return snapshot.study.target
    best = sorted(snapshot.done["best_val_loss"].drop_nulls())
    if not best:
        return None
    return math.ceil(100 * best[math.ceil(REACHED_BY * len(best)) - 1]) / 100


def _convergence(snapshot: Snapshot) -> Callable[[float], Convergence]:
    """Convergence of the done runs by tolerance. Raises ConfigError when no run is done."""

    @cache
    def evaluations() -> pl.DataFrame:
        if snapshot.done.is_empty():
            raise ConfigError("no run is done")
        done = snapshot.done["run_id"].to_list()
        short = [run for run in done if evaluations_of(snapshot.configs[run]) <= MAX_POINTS]  # kept whole
        long = snapshot.results.curves(sorted({*done}.difference(short)))
        rows = pl.concat([snapshot.curves.evals.filter(pl.col("run_id").is_in(short)), long])
        return pl.DataFrame({"run_id": done}).join(rows, on="run_id", maintain_order="left_right")

    @cache
    def convergence(tolerance: float) -> Convergence:
        found = analyse_convergence(
            evaluations(),
            "run_id",
            "step",
            "val_loss",
            target=target_loss(snapshot),
            tolerance=tolerance,
            train_loss="train_loss",
            rates=rates(snapshot.results, snapshot.done),
            rate_falling=rates_falling(snapshot.configs),
        )
        if found.target is None or snapshot.study.target is not None:
            return found
        # No mean is tested against a target that was chosen from the same runs.
        return replace(found, cautions=(*found.cautions, CHOSEN_TARGET), crossing=())

    return convergence


def timed_programs(snapshot: Snapshot, runs: Iterable[str]) -> dict[str, tuple[Floats, list[int]]]:
    """Seconds of each step, NaN where unknown, and steps of the evaluations, of every program that trained these runs.

    Members of a stack share their steps: the one that went on longest, whose id is the key, stands for all. Without
    runs that have a timed step after their first, and those on CUDA, where a time is the mean of a block of steps.
    """
    timed: dict[bytes, tuple[str, Floats]] = {}
    for run in runs:
        if snapshot.statuses[run].provenance.get("device") == "cuda":
            continue
        seconds = snapshot.results.metrics(run).sort("step")["step_time_s"].fill_null(math.nan).to_numpy()
        program = seconds[:TELLING_STEPS].tobytes()
        if np.isfinite(seconds[1:]).any() and (program not in timed or len(seconds) > len(timed[program][1])):
            timed[program] = run, seconds
    return {run: (seconds, snapshot.results.evals(run)["step"].to_list()) for run, seconds in timed.values()}


def _spikes(snapshot: Snapshot) -> Callable[[float], Spikes]:
    """Slow steps of the done runs by threshold. Raises ConfigError when no run has a timed step after its first."""

    @cache
    def step_times() -> list[tuple[Floats, list[int]]]:
        return list(timed_programs(snapshot, snapshot.done["run_id"]).values())

    @cache
    def spikes(times: float) -> Spikes:
        if not step_times():
            raise ConfigError(
                "no run that is done has a timed step after its first (on CUDA blocks of steps are timed, whose mean "
                "hides a slow step)"
            )
        return pooled([spike_report(seconds, steps, times) for seconds, steps in step_times()])

    return spikes
