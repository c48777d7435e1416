"""Runs that ended without a result, such as those that diverged, as an outcome of the levels they were trained at."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from importlib import import_module
from typing import Any, cast

import numpy as np
import polars as pl

from isoloss.analysis.columns import number_column
from isoloss.analysis.curves import proportion
from isoloss.analysis.estimate import LEVEL, Estimate, p_in_words
from isoloss.diagnostic import Diagnostic
from isoloss.wording import counted, level, listed

LOST, RUNS = "a run without a result", "\0runs"
MAX_NAMED = 3
"""Cells that a caution names; more are counted."""


@dataclass(frozen=True)
class LostRuns:
    """The share of runs without a result at each level of a factor, in ascending order, with exact intervals.

    `p` is of the hypothesis that the share is the same at all levels: Fisher's exact test (1935) of each level against
    the others, the smallest times the number of tests.
    """

    factor: str
    levels: tuple[float | str | bool, ...]
    shares: tuple[Estimate, ...]
    p: float

    @property
    def depends(self) -> bool:
        """Whether levels differ in what they lose: by the test, or because one level has lost all that was lost."""
        return self.p < 1 - LEVEL or sum(share.value > 0 for share in self.shares) == 1


@dataclass(frozen=True)
class LostCell:
    """A combination of levels of which `lost` of `n` runs, half or more, have no result."""

    levels: dict[str, float | str | bool]
    lost: int
    n: int


def lost_runs(table: pl.DataFrame, response: str, factors: Sequence[str]) -> tuple[LostRuns, ...]:
    """What each factor's levels lost, of the rows (one a run) that have all levels; empty where nothing is lost.

    A run is lost whose response is missing or not finite.
    """
    rows = _marked(table, response, factors)
    if not rows[LOST].any():
        return ()
    return tuple(_of_factor(rows, factor) for factor in factors if rows[factor].n_unique() > 1)


def lost_cells(table: pl.DataFrame, response: str, factors: Sequence[str]) -> tuple[LostCell, ...]:
    """The cells that lost half of their runs or more, the largest share first; none where no cell has all its runs."""
    rows = _marked(table, response, factors)
    if not rows[LOST].any():
        return ()
    cells = rows.group_by(factors).agg(pl.col(LOST).sum().cast(pl.Int64()), pl.len().cast(pl.Int64()).alias(RUNS))
    if cells[LOST].min():
        return ()
    few = cells.filter(2 * pl.col(LOST) >= pl.col(RUNS)).sort(
        pl.col(LOST) / pl.col(RUNS), *factors, descending=[True, *[False] * len(factors)]
    )
    return tuple(
        LostCell({factor: row[factor] for factor in factors}, row[LOST], row[RUNS]) for row in few.iter_rows(named=True)
    )


def cells_in_words(found: Sequence[LostCell]) -> list[Diagnostic]:
    """What has to be said of cells whose means, if any, are those of the few runs that are left."""
    if not found:
        return []
    named = [
        f"{', '.join(f'{factor} {level(at)}' for factor, at in cell.levels.items())} ({cell.lost:,} of {cell.n:,})"
        for cell in found[:MAX_NAMED]
    ]
    if len(found) > MAX_NAMED:
        named.append(counted(len(found) - MAX_NAMED, "further combination"))
    text = f"Half of the runs or more have no result at {'; '.join(named)}. "
    if any(cell.lost < cell.n for cell in found):
        text += "What is said of these levels rests on the runs that are left there, which may be the lucky ones."
    else:
        text += "Nothing is known of what runs there would give."
    remedy = "Find out why they have none; compare levels where all runs ended, or count the loss as an outcome."
    return [Diagnostic("cells_lost", "limits", text, remedy)]


def _marked(table: pl.DataFrame, response: str, factors: Sequence[str]) -> pl.DataFrame:
    """The factors of the rows that have all levels, and whether each row's run is lost."""
    ended = table.drop_nulls(factors)
    lost = ~number_column(ended[response]).is_finite().fill_null(False)
    return ended.select(factors).with_columns(lost.alias(LOST))


def lost_in_words(found: Sequence[LostRuns]) -> list[Diagnostic]:
    """What has to be said of means over the runs that are left, of each factor whose levels lost unlike many."""
    return [Diagnostic("runs_lost", "limits", _sentence(lost)) for lost in found if lost.depends]


def _of_factor(rows: pl.DataFrame, factor: str) -> LostRuns:
    counts = rows.group_by(factor).agg(pl.col(LOST).sum().cast(pl.Int64()), runs=pl.len().cast(pl.Int64())).sort(factor)
    lost, runs = counts[LOST].sum(), counts["runs"].sum()
    pairs = list(counts.select(LOST, "runs").iter_rows())
    tables = (np.array([[own, n - own], [lost - own, runs - n - lost + own]]) for own, n in pairs)
    # Imported here: scipy.stats takes a second to load, and most tables have lost no run.
    exact = cast("Any", import_module("scipy.stats")).fisher_exact
    each = [float(exact(table).pvalue) for table in tables]
    tests = 1 if len(each) == 2 else len(each)  # of two levels, both tests are one
    shares = tuple(proportion(own, n) for own, n in pairs)
    return LostRuns(factor, tuple(counts[factor].to_list()), shares, min(1.0, tests * min(each)))


def _sentence(lost: LostRuns) -> str:
    levels = [
        f"{round(share.value * share.n):,} of {share.n:,} at {level(at)} ({share.value:.0%}, 95% interval "
        f"{share.low or 0:.0%} to {share.high or 1:.0%})"
        for at, share in zip(lost.levels, lost.shares, strict=True)
        if share.value
    ]
    n = sum(share.n for share in lost.shares)
    others = " and none at the other levels" if len(levels) < len(lost.levels) else ""
    return (
        f"Of {n:,} runs those without a result go with {lost.factor}: {listed(levels)}{others} (Fisher's exact test: p "
        f"{p_in_words(lost.p)}). Means are those of the runs that are left, which flatters levels that lose runs."
    )
