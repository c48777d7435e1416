"""What the model leaves of each run, as a table: the runs that fit worst first."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import polars as pl

from isoloss.analysis.outlying_runs import OutlyingRun
from isoloss.analysis.run_residuals import RunResiduals
from isoloss.report.response import Response
from isoloss.report.table import Column, Table

MEASURED = ("response", "fitted", "residual", "studentized", "outlying")


def residuals_frame(left: RunResiduals, outlying: Sequence[OutlyingRun], *, levels: bool = True) -> pl.DataFrame:
    """A row a run: its name or row, its `levels`, response, fitted value, residual, studentized residual, outlying.

    Sorted by the size of the studentized residual, those that the fit passes through last.
    """
    runs, studentized_n = left.runs, left.studentized_n
    values: dict[str, list[float | str | bool]] = {
        factor.name: [factor.levels[int(code)] for code in runs.cells_cxf[runs.cell_n, place]]
        for place, factor in enumerate(runs.factors)
    }
    if runs.block is not None:
        values[runs.block] = [runs.blocks[int(place)] for place in runs.block_n]
    outside_n = np.zeros(runs.n, dtype=np.bool_)
    outside_n[[run.place for run in outlying]] = True
    columns = (runs.response_n, left.fitted_n, left.residual_n, studentized_n, outside_n)
    taken = (runs.run_n.name, *MEASURED)
    frame = pl.DataFrame(
        [
            runs.run_n,
            *(pl.Series(level_column(name, taken), each) for name, each in values.items() if levels),
            *(pl.Series(name, each) for name, each in zip(MEASURED, columns, strict=True)),
        ]
    ).with_columns(pl.col("studentized").fill_nan(None))
    return frame.sort(pl.col("studentized").abs(), descending=True, nulls_last=True, maintain_order=True)


def level_column(factor: str, taken: Sequence[str]) -> str:
    """The name of a factor's column: its own, but where that is another column's."""
    return f"{factor} (level)" if factor in taken else factor


def residuals_table(left: RunResiduals, outlying: Sequence[OutlyingRun], response: Response) -> Table:
    """The rows of `residuals_frame` under their heads."""
    frame = residuals_frame(left, outlying)
    kind = "loss" if response.unit == "nats" else "number"
    numbers = {"response": response.column, "fitted": "fitted", "residual": "residual"}
    columns = [
        *(Column(name, name.removesuffix(" (level)"), width=24) for name in frame.columns[: -len(MEASURED)]),
        *(Column(name, title, kind, response.unit) for name, title in numbers.items()),
        Column("studentized", "studentized", "ratio"),
        Column("outlying", "outlying"),
    ]
    model = f"{left.model} and additive blocks" if left.runs.block else left.model
    title = f"Residuals of each run from {model}; studentized: over their standard error by all other runs."
    return Table("residuals", title, frame, columns, folded=True)
