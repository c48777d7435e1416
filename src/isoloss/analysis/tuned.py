"""Comparing levels each at its best: of the values that a setting is tried at in a cell, the runs at the best one.

The best value of a cell is that with the lowest mean over its runs, which are also those that are compared. This
flatters a level at which many values are equally good, and one at which more are tried, by up to the noise of a mean:
docs/statistics.md says how often intervals hold the truth. Choosing each run's value by the other seeds alone avoids
that, but makes differences of seeds depend on each other, and its intervals are too short.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import replace
from typing import Any

import polars as pl

from isoloss.analysis.claim import Evidence
from isoloss.analysis.optimum import sought
from isoloss.analysis.roles import names_seeds
from isoloss.diagnostic import Diagnostic
from isoloss.wording import counted, level, listed

CHOSEN_BY = "best_val_loss"
"""The response that decides in a study which value is best, in nats per token."""
ENDS = ("min", "max", "n_unique")
"""What is kept of the values that each setting was tried at in a cell."""
MAX_CELLS_NAMED = 8
"""Cells whose best values a note lists."""


def at_best_values(evidence: Evidence, about: Collection[str | None] = ()) -> Evidence:
    """That of the runs at the best value of each tuned setting in each cell; these settings are no factors then.

    Tuned settings that a hypothesis is `about` stay factors.
    """
    tuned = [name for name in evidence.tuned if name in evidence.factors and name not in about]
    if not tuned:
        return evidence
    compared = {name: levels for name, levels in evidence.factors.items() if name not in tuned}
    best, cautions = best_rows(evidence.ended, compared, tuned, CHOSEN_BY, equally_many=True)
    kept = pl.col("run_id").is_in(best["run_id"].to_list())
    table, lost = (rows.filter(kept) if len(rows) else rows for rows in (evidence.table, evidence.lost))
    cautions = (*evidence.cautions, *cautions)
    return replace(
        evidence, table=table, lost=lost, factors=compared, tuned=(), at_best=tuple(tuned), cautions=cautions
    )


def best_rows(
    rows: pl.DataFrame,
    compared: Mapping[str, Sequence[Any]],
    tuned: Sequence[str],
    chosen_by: str,
    *,
    equally_many: bool = False,
) -> tuple[pl.DataFrame, tuple[Diagnostic, ...]]:
    """The rows at the best values of tuned settings in each cell of the factors compared, and what to know of them.

    Seeds part no cells. `chosen_by` is the response that decides, null in rows of runs that were lost; where values
    have `equally_many` runs, those that are missing were lost too.
    """
    cell = [name for name in compared if not names_seeds(name)]
    response = pl.col(chosen_by)
    tried = rows.group_by(*cell, *tuned, maintain_order=True).agg(
        mean=response.mean(), lost=response.null_count(), runs=response.count()
    )
    if equally_many:
        tried = tried.with_columns(lost=pl.col("runs").max() - pl.col("runs"))
    of_cell = {"values": pl.len(), **{f"{name} {end}": getattr(pl.col(name), end)() for name in tuned for end in ENDS}}
    tried = tried.with_columns(
        *((each.over(cell) if cell else each).alias(name) for name, each in of_cell.items()),
    )
    # A value of which a run was lost is worse than any of which none was.
    order = [False, sought(chosen_by) == "highest"]
    ranked = tried.sort("lost", "mean", descending=order, nulls_last=True, maintain_order=True)
    best = ranked.unique(cell, keep="first", maintain_order=True) if cell else ranked.head(1)
    best = best[_order(best.select(cell).rows(), [compared[name] for name in cell])] if cell else best
    kept = rows.join(best, on=[*cell, *tuned], how="semi", nulls_equal=True, maintain_order="left")
    told = (*_edges(best, cell, tuned), *_luck(best, cell, tuned), _chosen(best, cell, tuned, chosen_by))
    return kept, told


def _chosen(best: pl.DataFrame, cell: Sequence[str], tuned: Sequence[str], chosen_by: str) -> Diagnostic:
    """Which values the comparison rests on."""
    values = [f"{_values(row, tuned)}{_at(row, cell)}" for row in best.head(MAX_CELLS_NAMED).to_dicts()]
    more = f" and so on for {counted(len(best), 'cell')}" if len(best) > MAX_CELLS_NAMED else ""
    text = f"The best values, by the mean {chosen_by}, are {'; '.join(values)}{more}."
    return Diagnostic("tuned_values", "note", text)


def _luck(best: pl.DataFrame, cell: Sequence[str], tuned: Sequence[str]) -> Iterator[Diagnostic]:
    """Cells whose best value may owe its place to chance more than others."""
    if len(once := best.filter(pl.col("runs") < 2)):
        text = f"{listed(tuned)}: the best value {_where(once, cell)}rests on one run, and is in part the luckiest."
        yield Diagnostic("tuned_once", "limits", text, "Train more seeds.")
    if best["values"].min() == 1 != best["values"].max():
        alone = best.filter(pl.col("values") == 1)
        text = (
            f"One value was tried {_where(alone, cell)}and up to {best['values'].max()} elsewhere: the best of several "
        )
        text += "is in part the luckiest, which flatters them by up to the noise of a mean."
        yield Diagnostic("tuned_unequally", "limits", text, "Try about as many values everywhere.")


def _edges(best: pl.DataFrame, cell: Sequence[str], tuned: Sequence[str]) -> Iterator[Diagnostic]:
    """Cells whose best value is the lowest or the highest of three or more; nothing lies below zero."""
    for name in (name for name in tuned if best[name].dtype.is_numeric()):
        edge: list[str] = []
        for row in best.filter(pl.col(f"{name} n_unique") > 2).to_dicts():
            if row[name] == row[f"{name} max"] or (row[name] == row[f"{name} min"] and row[name] != 0):
                which = "highest" if row[name] == row[f"{name} max"] else "lowest"
                edge.append(f"{level(row[name])}, the {which}{_at(row, cell)}")
        if edge:
            yield Diagnostic(
                "tuned_at_edge",
                "limits",
                f"The best {name} lies at the edge of what was tried: {listed(edge[:MAX_CELLS_NAMED])}.",
                "Add values beyond it, which may be better.",
            )


def _where(rows: pl.DataFrame, cell: Sequence[str]) -> str:
    named = [_at(row, cell).removeprefix(" at ") for row in rows.head(MAX_CELLS_NAMED).to_dicts()]
    more = " and others" if len(rows) > MAX_CELLS_NAMED else ""
    return f"at {listed(named)}{more} " if cell else ""


def _order(cells: Sequence[tuple[Any, ...]], levels: Sequence[Sequence[Any]]) -> list[int]:
    """The places of cells in the order of their factors' levels, the last factor varying fastest."""
    places = [{level: place for place, level in enumerate(of_one)} for of_one in levels]

    def key(cell: int) -> list[int]:
        return [known.get(value, len(known)) for known, value in zip(places, cells[cell], strict=True)]

    return sorted(range(len(cells)), key=key)


def _values(row: dict[str, Any], tuned: Sequence[str]) -> str:
    return " and ".join(f"{name} {level(row[name])}" for name in tuned if row[name] is not None)


def _at(row: dict[str, Any], cell: Sequence[str]) -> str:
    return f" at {' · '.join(f'{name} {level(row[name])}' for name in cell)}" if cell else ""
