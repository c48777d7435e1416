"""Times: runs that one program trained together share them, so that a program is one observation."""

from __future__ import annotations

from collections.abc import Sequence

import polars as pl

PROGRAM, SHUFFLED = "program", "shuffled"
"""Columns: which program trained a run, and whether the programs of its study ran in shuffled order."""


def one_row_a_program(runs: pl.DataFrame, factors: Sequence[str]) -> tuple[pl.DataFrame, list[str]]:
    """A row for each program, with means over its runs, and the factors in which programs differ.

    Factors whose levels were trained together are left out: of their effect on a time nothing is known. The seed is
    kept where no program trained several.
    """
    levels = runs.group_by(PROGRAM).agg(pl.col(*factors, "seed").n_unique())
    between = [factor for factor in factors if levels[factor].max() == 1]
    numeric = [name for name, kind in runs.schema.items() if kind.is_float() and name not in factors]
    rows = runs.group_by(PROGRAM, maintain_order=True).agg(
        *(pl.col(name).first() for name in ("run_id", "seed", "device", SHUFFLED, *between)),
        *(pl.col(name).mean() for name in numeric),
    )
    return (rows if levels["seed"].max() == 1 else rows.with_columns(seed=pl.lit(0))), between
