"""The command line of the calibration."""

from __future__ import annotations

import json
import multiprocessing
import os
import sys
import time
from collections.abc import Callable, Sequence
from concurrent.futures import Executor, ProcessPoolExecutor
from datetime import UTC, datetime
from functools import partial
from pathlib import Path
from typing import Any, Literal, get_args

import tyro

from calibration import curves, factorials, improvement, isoflop, laws, nulls, optima, outlying, seeds, tuned, unequal
from calibration.measure import Experiment, Rate, generator_of, measure
from calibration.table import rates_as_markdown, recovery_as_markdown
from isoloss.analysis.solve import ObjectiveName

Section = Literal[
    "effects",
    "nulls",
    "seed-nulls",
    "seed-coverage",
    "seed-power",
    "unequal-coverage",
    "unequal-nulls",
    "outlying-alarms",
    "outlying-named",
    "improvement",
    "tuned",
    "optima",
    "optimum-shifts",
    "false-labels",
    "right-labels",
    "isoflop",
    "isoflop-budgets",
    "isoflop-beyond",
    "recovery",
    "fits",
    "replicated",
    "objectives",
    "bootstrap",
]
SECTIONS: tuple[Section, ...] = get_args(Section)
EXPERIMENTS: dict[Section, tuple[str, int, Callable[[int], list[Experiment]]]] = {
    "effects": ("Intervals of effects that hold the truth", 1000, factorials.coverage),
    "nulls": ("Studies without any effect that claim one", 2000, nulls.false_claims),
    "seed-nulls": ("Studies without any effect that claim one, effects differing by seed", 2000, seeds.false_claims),
    "seed-coverage": ("Intervals that hold the truth, effects differing by seed", 2000, seeds.coverage),
    "seed-power": ("Studies that find a stated difference, effects differing by seed", 2000, seeds.power),
    "unequal-coverage": ("Intervals of a rate's effects that hold the truth, noise unequal", 2000, unequal.coverage),
    "unequal-nulls": ("Sweeps without any effect that show one, noise unequal", 2000, unequal.false_claims),
    "outlying-alarms": ("Tables of normal noise in which a run is called outlying", 1000, outlying.false_alarms),
    "outlying-named": ("Tables in which the diverged runs, and no others, are named", 400, outlying.all_named),
    "improvement": ("Intervals of the probability of a lower response", 1000, improvement.coverage),
    "tuned": ("Intervals of a difference between levels, each at its best rate, that hold it", 1000, tuned.coverage),
    "optima": ("Intervals of the best learning rate that hold it", 400, optima.coverage),
    "optimum-shifts": ("Intervals of its shift with the width that hold it", 400, optima.shifts),
    "false-labels": ("Loss curves with a false label", 100, curves.false_labels),
    "right-labels": ("Loss curves with the right label", 100, curves.right_labels),
    "isoflop": ("IsoFLOP profiles whose interval holds the best size", 1000, isoflop.coverage),
    "isoflop-budgets": ("Intervals of several IsoFLOP profiles that hold the truth", 1000, isoflop.budgets_coverage),
    "isoflop-beyond": ("Minima of several IsoFLOP profiles", 1000, isoflop.budgets_beyond),
    "fits": ("Intervals of scaling fits that hold the truth", 400, laws.coverage),
    "replicated": ("The same with two runs a cell", 400, laws.replicated),
    "objectives": ("The same under other objectives", 200, laws.other_objectives),
    "bootstrap": ("The same by the bootstrap", 200, laws.bootstrap),
}
"""What each section measures, and how often it simulates a setting."""
RECOVERED_LAWS = 36


def calibrate(
    sections: tyro.conf.Positional[tuple[Section, ...]] = SECTIONS,
    *,
    quick: int = 1,
    processes: int = 2,
    seed: int = 0,
    out: Path = Path("results/calibration.json"),
) -> None:
    """Simulate known truths, measure what the analyses say about them, and print Markdown tables.

    Args:
        sections: What to measure, by default all.
        quick: Divide all repetitions by this, for a trial.
        processes: Simulate in so many processes.
        seed: Of all generators.
        out: Where the JSON goes; sections that are not measured now are kept in it.
    """
    out.parent.mkdir(parents=True, exist_ok=True)
    os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")  # read by the processes started below, one core each
    with ProcessPoolExecutor(processes, multiprocessing.get_context("spawn")) as executor:
        for section in sections:
            started = time.perf_counter()
            if section == "recovery":
                errors = _recover(max(1, RECOVERED_LAWS // quick), seed, executor)
                measured, markdown = errors, recovery_as_markdown(errors)
            else:
                title, repetitions, experiments = EXPERIMENTS[section]
                rates = _measure_all(experiments(max(2, repetitions // quick)), seed, executor)
                measured, markdown = [rate.as_dict() for rate in rates], rates_as_markdown(title, rates)
            seconds = round(time.perf_counter() - started, 1)
            when = datetime.now(UTC).isoformat(timespec="seconds")
            results: dict[str, Any] = json.loads(out.read_text()) if out.exists() else {}
            results[section] = {"measured": when, "seconds": seconds, "quick": quick, "seed": seed, "results": measured}
            out.write_text(json.dumps(results, indent=1))
            print(f"{markdown}\n\n*{when}, {seconds:.0f} s*\n", flush=True)


def _measure_all(experiments: Sequence[Experiment], seed: int, executor: Executor) -> list[Rate]:
    rates: list[Rate] = []
    for experiment in experiments:
        print(f"… {experiment.case}", file=sys.stderr, flush=True)
        rates += measure(experiment, seed, executor)
    return rates


def _recover(count: int, seed: int, executor: Executor) -> dict[str, list[float]]:
    """The recovery error of so many random laws, by objective; the same laws for each."""
    generators = [generator_of(seed, "recovery", number) for number in range(count)]
    objectives = get_args(ObjectiveName)
    return {name: list(executor.map(partial(laws.recovery_error, name), generators)) for name in objectives}


if __name__ == "__main__":
    tyro.cli(calibrate, prog="python -m calibration")
