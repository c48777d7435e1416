"""What is said of optima: where the response is best over a factor, how surely, and where the levels do not tell."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import polars as pl

from isoloss.analysis.estimate import LEVEL
from isoloss.analysis.optimum import Optimum, best_at_edge
from isoloss.analysis.optimum_shift import OptimumShift
from isoloss.report.chapters.claims import estimate_columns
from isoloss.report.response import response_of
from isoloss.report.table import Column, Table
from isoloss.wording import level, listed, number

MAX_SENTENCES = 4


def optima_in_words(optima: Sequence[Optimum]) -> Iterator[str]:
    """A sentence for each factor, over all runs: 'Loss is lowest at a learning_rate of 0.0011 (95% interval …)'."""
    for found in [each for each in optima if not each.at][:MAX_SENTENCES]:
        yield optimum_in_words(found)


def optimum_in_words(found: Optimum) -> str:
    """One optimum; at the edge of the grid that is said in its place."""
    if found.edge:
        return best_at_edge(found).text
    name = response_of(found.response).name
    text = f"{name[:1].upper()}{name[1:]} is {found.sought} at {_a(found.factor)} of {number(found.value, '.3g')}"
    text += f" ({interval_in_words(found)})"
    if found.indistinguishable:
        verb = "is" if len(found.indistinguishable) == 1 else "are"
        text += f"; {listed(map(level, found.indistinguishable))} {verb} not told apart from {level(found.best_level)}"
    return f"{text}."


def interval_in_words(found: Optimum) -> str:
    """'95% interval 0.0009 to 0.0013', '95% interval from 0.0009 on', 'no interval'."""
    low, high = (None if end is None else number(end, ".3g") for end in (found.low, found.high))
    if low is not None and high is not None:
        return f"95% interval {low} to {high}"
    if low is None and high is None:
        return "no interval"
    return f"95% interval from {low} on" if low is not None else f"95% interval up to {high}"


def shift_in_words(found: OptimumShift) -> str:
    """'The best lr moves with width by −0.49 doublings per doubling (95% interval −0.55 to −0.43)'."""
    assert found.estimate is not None
    low, high = found.estimate.low, found.estimate.high
    size = f"{number(found.estimate.value, '.2g')} {found.unit}"
    if low is not None and high is not None:
        size += f" (95% interval {number(low, '.2g')} to {number(high, '.2g')})"
    if found.p is not None and found.p < 1 - LEVEL:
        return f"The best {found.factor} moves with {found.moved_by} by {size}."
    return f"The best {found.factor} was not shown to move with {found.moved_by}: {size}."


def shifts_table(shifts: Sequence[OptimumShift]) -> Table:
    """A row for each pair of a factor with an optimum and one that may move it; what gives none says why."""
    rows = [
        {
            "factor": found.factor,
            "moved_by": found.moved_by,
            **estimate_columns(found.estimate),
            "unit": found.unit,
            "p": found.p,
            "remarks": " ".join(caution.text for caution in found.cautions),
        }
        for found in shifts
    ]
    columns = [
        Column("factor", "best", width=24),
        Column("moved_by", "moves with", width=24),
        Column("value", "by", "number", interval=("low", "high")),
        Column("unit", "unit", width=24),
        Column("n", "runs", "count"),
        Column("p", "p", "probability"),
        Column("remarks", "remarks", width=40),
    ]
    title = "Whether the best value of one factor moves with another; 95% intervals, no p adjusted."
    return Table("optimum_shifts", title, pl.DataFrame(rows, infer_schema_length=None), columns)


def optima_table(optima: Sequence[Optimum]) -> Table:
    """A row an optimum; an interval that is open on one side says so."""
    rows = [
        {
            "factor": found.factor,
            "at": listed(f"{name} {level(value)}" for name, value in found.at.items()) if found.at else "",
            "value": found.value,
            "low": found.low,
            "high": found.high,
            "interval": interval_in_words(found).removeprefix("95% interval "),
            "best_level": level(found.best_level),
            "indistinguishable": ", ".join(map(level, found.indistinguishable)),
            "edge": found.edge,
            "sought": found.sought,
            "method": found.method,
            "n": found.n,
        }
        for found in optima
    ]
    columns = [
        Column("factor", "factor", width=24),
        *([Column("at", "at", width=24)] if any(found.at for found in optima) else []),
        Column("value", "best value", "number"),
        Column("interval", "interval", width=34),
        Column("best_level", "best level"),
        Column("indistinguishable", "not told apart from it", width=24),
        Column("edge", "at the edge"),
        Column("n", "runs", "count"),
    ]
    types = {"low": pl.Float64(), "high": pl.Float64()}
    title = f"Where {response_of(optima[0].response).name} is best; 95% intervals, {optima[0].method}."
    return Table("optima", title, pl.DataFrame(rows, schema_overrides=types, infer_schema_length=None), columns)


def _a(factor: str) -> str:
    name = "learning rate" if factor in ("lr", "learning_rate") else factor
    return f"{'an' if name[:1].lower() in 'aeiou' else 'a'} {name}"
