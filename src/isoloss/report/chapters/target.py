"""When runs reached a target loss: a sentence and a figure, parts of the chapter on convergence."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import replace
from statistics import median_high
from typing import Any

import altair as alt
import polars as pl

from isoloss import wording as say
from isoloss.analysis.convergence import Convergence, RunConvergence
from isoloss.report.chart import ACCENT, GREY, Figure
from isoloss.report.format import spelled
from isoloss.report.run_strip import Names, placed, run_words, strip


def target_sentence(convergence: Convergence, names: Names) -> str:
    """How long it took, in the fastest and the slowest configuration, and how many runs did not get there."""
    target, n = target_words(convergence), len(convergence.runs)
    missed = [run.last_step for run in convergence.runs if not is_reached(run)]
    if len(missed) == n:
        return f"No run reached {target} in {steps_words(missed)} steps."
    unit, times = _times(convergence, names)
    fastest, slowest = min(times.items(), key=lambda item: item[1]), max(times.values())
    if len({name.configuration for name in names.values()}) == 1:
        sentence = f"{'The run' if n == 1 else 'The typical run'} reached {target} after {step_words(fastest[1])} steps"
    else:
        sentence = (
            f"To reach {target} took {step_words(fastest[1])} steps in the fastest {unit} ({say.shortened(fastest[0])})"
        )
        sentence += f" and {step_words(slowest)} in the slowest that did" if slowest > fastest[1] else ""
    if missed:
        sentence += f"; {say.of_runs(len(missed), n)} did not reach it in {steps_words(missed)} steps"
    return f"{sentence}."


def _times(convergence: Convergence, names: Names) -> tuple[str, dict[str, float]]:
    """Steps to the target by configuration, the median over its runs, where half of them or more reached it.

    By run where no configuration has such a median, or none are known.
    """
    steps: dict[str, list[float]] = {}
    for run in convergence.runs:
        steps.setdefault(names[run.run].configuration, []).append(
            run.to_target.step if run.to_target and is_reached(run) else math.inf
        )
    times = {name: median_high(of_one) for name, of_one in steps.items()}
    finite = {name: time for name, time in times.items() if math.isfinite(time)}
    if not finite:
        return _times(
            convergence, {run: replace(name, configuration=name.label, key="") for run, name in names.items()}
        )
    return "configuration" if any(name.key for name in names.values()) else "run", finite


def times_to_target(convergence: Convergence, names: Names) -> Iterator[Figure]:
    """Steps to the target by run; nothing where none reached it."""
    rows: list[dict[str, Any]] = []
    for run, time in ((run.run, run.to_target) for run in convergence.runs):
        if time is not None:
            said = f"{'' if time.reached else 'not '}reached in {step_words(time.step)} steps"
            row = {"value": time.step, "low": time.after if time.reached else None, "high": time.step}
            rows.append({**run_words(run, names, said), "group": "reached" if time.reached else "missed", **row})
    reached = convergence.reached
    if reached is None or not reached.value:
        return
    n, hit = reached.n, round(reached.value * reached.n)
    target = target_words(convergence)
    heads = {
        "reached": f"reached: {say.of_runs(hit, n)}",
        "missed": f"not reached by the last step: {say.of_runs(n - hit, n)}",
    }
    frame, thinned = placed(pl.DataFrame(rows, infer_schema_length=None).sort("value", "run"), heads)
    subtitle = (
        f"Steps to the first evaluation at or below {target}, with a line from the evaluation before it, between which "
        f"the target was reached (no confidence interval); n = {say.counted(n, 'run')}{thinned}. Triangles: the last "
        "step of a run that did not reach it."
    )
    axis = {"title": "optimizer step", "scale": alt.Scale(zero=True)}
    times = steps_words(frame.filter(pl.col("group") == "reached")["value"].to_list())
    title = f"{say.of_runs(hit, n)} reached {target}, after {times} steps"
    colours = {"reached": ACCENT, "missed": GREY}
    yield Figure("time_to_target", title, subtitle, frame, lambda width: strip(frame, heads, colours, axis, width))


def is_reached(run: RunConvergence) -> bool:
    """Whether a run got to the target, where there is one."""
    return run.to_target is not None and run.to_target.reached


def target_words(convergence: Convergence) -> str:
    """The target with its unit."""
    return "" if convergence.target is None else f"{convergence.target:g} nats"


def step_words(step: float) -> str:
    """A step, which is a whole number unless a table counts otherwise."""
    return spelled(step, "count" if float(step).is_integer() else "number")


def steps_words(steps: Sequence[float]) -> str:
    """The first and the last of some steps."""
    return " to ".join(dict.fromkeys((step_words(min(steps)), step_words(max(steps)))))
