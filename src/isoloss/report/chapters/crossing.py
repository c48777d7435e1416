"""When the mean of replicates got to the target: a sentence and a table, parts of the chapter on convergence."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import asdict

import polars as pl

from isoloss import wording as say
from isoloss.analysis.crossing import Crossing
from isoloss.analysis.estimate import p_in_words
from isoloss.report.format import Kind, spelled
from isoloss.report.references import cited
from isoloss.report.table import Column, Table

MOST_NAMED = 3
"""Groups up to which a sentence names each."""


def crossing_sentences(crossing: Sequence[Crossing], target: str) -> Iterator[str]:
    """When a t test showed each mean at or below the target; nothing where no group has two runs."""
    tested = [each for each in crossing if each.n > 1]
    if not tested:
        return
    reached = sorted((each for each in tested if each.step is not None), key=lambda each: each.step or 0.0)
    if len(crossing) == 1:
        [one] = tested
        who = f"The mean of {say.counted(one.n, 'run')}"
        if one.step is None:
            yield f"{who} was at no step below {target} by more than their spread explains."
            return
        between = f" [{_step(one.low)}, {_step(one.high)}]" if one.low is not None and one.high is not None else ""
        crosses = f"; it crosses at step {_step(one.mean_step)}{between}" if one.low is not None else ""
        yield f"{who} was below {target} by step {_step(one.step)} (one-sided t test, p {p_in_words(one.p)}){crosses}."
        return
    missed = len(tested) - len(reached)
    if not reached:
        groups = say.counted(len(tested), "group")
        yield f"In none of {groups} was the mean below {target} by more than its runs' spread explains."
        return
    named = reached if len(reached) <= MOST_NAMED else [reached[0], reached[-1]]
    times = ", ".join(f"{_step(each.step)} for {say.shortened(_name(each), 30)}" for each in named)
    of_how_many = "" if named is reached else f" (first and last of {len(reached)} groups)"
    rest = f"; in {say.counted(missed, 'group')} it was not" if missed else ""
    yield f"By a one-sided t test the mean over replicates was below {target} by step {times}{of_how_many}{rest}."


def crossing_details(crossing: Sequence[Crossing]) -> Iterator[str]:
    """How means were tested, and what that does not allow for."""
    if crossing:
        yield (
            f"A mean over replicates is held against the target by a one-sided t test {cited('student1908')} at every "
            "evaluated step, each by itself: no allowance is made for their number. Where the mean itself crosses, its "
            "interval is where the 95% t interval of the mean crosses, on straight lines between evaluations "
            f"{cited('fieller1954')}; it takes replicates to be independent."
        )


def crossing_table(crossing: Sequence[Crossing], target: str, steps: Kind) -> Iterator[Table]:
    """A row a group."""
    if not crossing:
        return
    rows = [asdict(each) | {"group": _name(each)} for each in crossing]
    frame = pl.DataFrame(rows, infer_schema_length=None)
    columns = (
        Column("group", "group", width=40),
        Column("n", "runs", "count"),
        Column("step", "below by step", steps),
        Column("p", "p", "probability"),
        Column("mean_step", "mean crosses at step [95%]", steps, interval=("low", "high")),
    )
    title = f"When the mean of replicates reached {target}: first step with a small p of a one-sided t test"
    yield Table("crossing", title, frame, columns)


def _name(crossing: Crossing) -> str:
    return "all runs" if crossing.group is None else say.level(crossing.group)


def _step(step: float | None) -> str:
    return spelled(step, "count" if step is None or step >= 10 else "number")
