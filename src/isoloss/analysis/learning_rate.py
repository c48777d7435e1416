"""Whether a run's learning rate was still falling at its end, from a column of rates."""

from __future__ import annotations

import polars as pl

COLUMNS = ("lr", "learning_rate")
"""Names by which a column of rates is found where none is named."""
TAIL = 0.05
"""The end of a run: this share of its steps, or the last two rows with a rate where those lie further apart."""
FALLEN = 1e-3
"""A rate that is lower by this share or more has fallen; less may be rounding."""


def rates_falling(table: pl.DataFrame, run: str, step: str, rate: str) -> dict[str, bool]:
    """By run, whether the rate fell over the end of its steps; without runs that have fewer than two rates.

    `table` may have rows without a loss: a rate that was logged between evaluations counts.
    """
    numbers = pl.col(step, rate).cast(pl.Float64(), strict=False)
    rows = table.select(pl.col(run).cast(pl.String()), numbers).drop_nulls().filter(pl.col(rate).is_finite())
    found: dict[str, bool] = {}
    for (name,), part in rows.sort(step).group_by(run, maintain_order=True):
        steps, values = part[step].to_numpy(), part[rate].to_numpy()
        before = steps <= steps[-1] * (1 - TAIL)
        if before.any():
            found[str(name)] = bool(values[-1] < values[before][-1] * (1 - FALLEN))
    return found


def column_of_rates(table: pl.DataFrame, run: str) -> str | None:
    """The column of a table that holds the rate of each step, by its name.

    A column that is the same throughout each run but differs between runs is a setting, the peak of a schedule say.
    """
    for name in COLUMNS:
        if name not in table.columns or name == run:
            continue
        values = table.select(pl.col(run), pl.col(name).cast(pl.Float64(), strict=False)).drop_nulls()
        within = values.group_by(run).agg(pl.col(name).n_unique())[name].max()
        if isinstance(within, int) and (within > 1 or (name == "lr" and values[name].n_unique() == 1)):
            return name
    return None
