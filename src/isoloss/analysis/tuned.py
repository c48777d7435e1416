"""Comparing levels each at its best: of the values that a setting is tried at in a cell, the runs at the best one.

The best value of a cell is that with the lowest mean over its runs, which are also those that are compared. This
flatters a level at which many values are equally good, by at most the noise of a mean where a handful is tried;
docs/statistics.md says how often intervals hold the truth. Choosing each run's value by the other seeds alone avoids
that, but makes differences of seeds depend on each other, and its intervals are too short.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace
from typing import Any

import polars as pl

from isoloss.analysis.claim import Evidence
from isoloss.diagnostic import Diagnostic
from isoloss.study.config import SEED_SETTINGS
from isoloss.wording import counted, level, listed

CHOSEN_BY = "best_val_loss"
"""The response that decides which value is best, in nats per token."""
MAX_CELLS_NAMED = 8
"""Cells whose best values a note lists."""


def at_best_values(evidence: Evidence) -> Evidence:
    """That of the runs at the best value of each tuned setting in each cell; these settings are no factors then."""
    tuned = [name for name in evidence.tuned if name in evidence.factors]
    if not tuned:
        return evidence
    compared = [name for name in evidence.factors if name not in tuned]
    cell = [name for name in compared if name not in SEED_SETTINGS]
    loss = pl.col(CHOSEN_BY)
    tried = evidence.ended.group_by(*cell, *tuned, maintain_order=True).agg(
        mean=loss.mean(), lost=loss.null_count(), runs=pl.len()
    )
    # A value of which a run was lost is worse than any of which none was.
    ranked = tried.sort("lost", "mean", nulls_last=True, maintain_order=True)
    best = ranked.unique(cell, keep="first", maintain_order=True) if cell else ranked.head(1)
    best = best.sort(_place(name, evidence.factors[name]) for name in cell) if cell else best
    table, lost = (
        rows.join(best, on=[*cell, *tuned], how="semi", nulls_equal=True) if len(rows) else rows
        for rows in (evidence.table, evidence.lost)
    )
    return replace(
        evidence,
        table=table,
        lost=lost,
        factors={name: evidence.factors[name] for name in compared},
        tuned=(),
        at_best=tuple(tuned),
        cautions=(*evidence.cautions, *_edges(tried, best, cell, tuned), *_chosen(tried, best, cell, tuned)),
    )


def _chosen(tried: pl.DataFrame, best: pl.DataFrame, cell: list[str], tuned: list[str]) -> Iterator[Diagnostic]:
    """Which values the comparison rests on."""
    values = [f"{_values(row, tuned)}{_at(row, cell)}" for row in best.head(MAX_CELLS_NAMED).to_dicts()]
    more = f" and so on for {counted(len(best), 'cell')}" if len(best) > MAX_CELLS_NAMED else ""
    text = f"The best values, by the mean {CHOSEN_BY}, are {'; '.join(values)}{more}."
    yield Diagnostic("tuned_values", "note", text)
    if tried["runs"].max() == 1:
        text = f"Each value of {listed(tuned)} was trained once, so that the best one is in part the luckiest."
        yield Diagnostic("tuned_once", "limits", text, "Train more seeds.")


def _edges(tried: pl.DataFrame, best: pl.DataFrame, cell: list[str], tuned: list[str]) -> Iterator[Diagnostic]:
    """Cells whose best value is the lowest or the highest of three or more."""
    for name in (name for name in tuned if tried[name].dtype.is_numeric()):
        edge: list[str] = []
        for row in best.to_dicts():
            of_cell = (
                tried.join(best.filter(_same(row, cell)), on=cell, how="semi", nulls_equal=True) if cell else tried
            )
            values = sorted(of_cell[name].drop_nulls().unique())
            if len(values) > 2 and row[name] in (values[0], values[-1]):
                which = "lowest" if row[name] == values[0] else "highest"
                edge.append(f"{level(row[name])}, the {which}{_at(row, cell)}")
        if edge:
            yield Diagnostic(
                "tuned_at_edge",
                "limits",
                f"The best {name} lies at the edge of what was tried: {listed(edge[:MAX_CELLS_NAMED])}.",
                "Add values beyond it, which may be better.",
            )


def _place(name: str, levels: Sequence[Any]) -> pl.Expr:
    """That of a factor's level among its levels."""
    found = pl.lit(len(levels))
    for place, each in enumerate(levels):
        found = pl.when(pl.col(name).eq_missing(pl.lit(each))).then(place).otherwise(found)
    return found


def _same(row: dict[str, Any], cell: list[str]) -> pl.Expr:
    return pl.all_horizontal(pl.col(name).eq_missing(pl.lit(row[name])) for name in cell)


def _values(row: dict[str, Any], tuned: list[str]) -> str:
    return " and ".join(f"{name} {level(row[name])}" for name in tuned if row[name] is not None)


def _at(row: dict[str, Any], cell: list[str]) -> str:
    return f" at {' · '.join(f'{name} {level(row[name])}' for name in cell)}" if cell else ""
