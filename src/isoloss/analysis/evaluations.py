"""Tables whose rows are evaluations of runs: recognised, refused as independent runs, or reduced to one row a run."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

import polars as pl

from isoloss.analysis.columns import number_column
from isoloss.analysis.roles import check_columns, counts_steps, few_levels, is_measured, names_runs, names_seeds
from isoloss.errors import ConfigError

Reduction = Literal["last", "min", "max"]
_PLACE, _ORDER = "\0place", "\0order"
"""Names no column of a table has."""


def telling_columns(table: pl.DataFrame, step: str, others: Sequence[str]) -> list[str]:
    """The settings that tell runs apart, if with the step they name every row of a table; else none."""
    candidates = [
        column
        for column in table.columns
        if column not in (step, *others)
        and not is_measured(column)
        and not counts_steps(column)
        and 1 < table[column].n_unique() < len(table)
        and (few_levels(table[column]) or names_runs(column) or names_seeds(column))
    ]
    named = next((column for column in candidates if names_runs(column) and _tell(table, [column, step])), None)
    if named is not None:
        return [named]
    if not candidates or not _tell(table, [*candidates, step]):
        return []
    for column in [*candidates]:  # without those that add nothing
        fewer = [other for other in candidates if other != column]
        if fewer and table.select(fewer).n_unique() == table.select(candidates).n_unique():
            candidates = fewer
    return candidates


def check_one_row_a_run(table: pl.DataFrame, response: str, factors: Sequence[str], block: str | None) -> None:
    """Raises ConfigError, with what to do, where several rows are of one run: they are no independent runs.

    A run's name repeats with other responses and always with the same levels, or a column of steps is no factor and
    varies among rows that agree in all settings. A column of names that are all different settles that rows are runs.
    """
    listed = [*factors] if block is None else [*factors, block]
    free = [column for column in table.columns if column not in (*listed, response)]
    names = [column for column in free if names_runs(column)]
    if any(table[column].n_unique() == len(table) and not _numbers_rows(table[column]) for column in names):
        return
    for column in names:
        if identifies_runs(table, column, listed):
            runs = table.filter(pl.col(column).is_not_null(), pl.col(response).is_not_null())
            if runs.select(column, response).n_unique() > runs[column].n_unique():
                raise _refused(f"{column} {_most(runs, column)!r} has several rows", [column], response)
    steps = [column for column in free if counts_steps(column) and table[column].n_unique() > 1]
    for step in steps:
        runs = telling_columns(table, step, [response, *(other for other in steps if other != step)])
        certain = any(names_runs(column) or names_seeds(column) for column in runs)
        most = _steps_a_run(table, [*dict.fromkeys([*listed, *runs])], step, certain=certain)
        if most > 1:
            where = f"up to {most:,} values of {step} at equal {', '.join(runs or listed)}"
            telling = runs if certain else ["COLUMN"]
            raise _refused(where, telling, response, f", or list {step} among --factors where it is a setting")


def identifies_runs(table: pl.DataFrame, column: str, listed: Sequence[str]) -> bool:
    """Whether a column names single runs: by what it is called, and as its values never go with two sets of levels.

    A number of the run within its cell comes in every cell, and a name that several seeds share is that of a cell.
    """
    if not names_runs(column, surely=True):
        return False
    settings = [*listed, *(other for other in table.columns if names_seeds(other) and other not in listed)]
    named = table.filter(pl.col(column).is_not_null())
    return named.select(column, *settings).n_unique() == named[column].n_unique() > 1


def reduced(
    table: pl.DataFrame, response: str, runs: Sequence[str], reduction: Reduction, step: str | None = None
) -> pl.DataFrame:
    """One row a run: its last evaluation by `step` (else in the table's order), or that with the extreme response.

    Evaluations without a response count for none. Columns of steps are left out of the result. Raises ConfigError
    when a column is missing or not numeric.
    """
    check_columns([response, *runs, *([] if step is None else [step])], table.columns)
    steps = [column for column in table.columns if counts_steps(column) and column not in (*runs, response)]
    step = step or (steps[0] if steps else None)
    table = table.with_columns(number_column(table[response])).with_row_index(_PLACE)
    if reduction == "last":
        order = table[_PLACE] if step is None else number_column(table[step])
    else:
        order = table[response].fill_nan(None) * (1 if reduction == "max" else -1)
    ordered = table.with_columns(order.alias(_ORDER)).filter(pl.col(response).is_not_null())
    kept = ordered.sort(_ORDER, _PLACE, nulls_last=False).group_by(runs, maintain_order=True).last().sort(_PLACE)
    return kept.select(column for column in table.columns if column not in (_PLACE, *steps, step))


def _steps_a_run(table: pl.DataFrame, runs: Sequence[str], step: str, *, certain: bool) -> int:
    """How many steps the rows of a run have, at most; 1 where these columns may not be all that tells runs apart.

    Then rows are evaluations only if, among rows that agree in `runs`, each step comes equally often and most steps
    come elsewhere too: runs that ended at different steps look otherwise.
    """
    counts = table.group_by([*runs, step]).len()
    groups = counts.group_by(runs).agg(
        steps=pl.len(), even=pl.col("len").min() == pl.col("len").max(), shared=pl.col(step).unique()
    )
    if certain:
        return max(groups["steps"].to_list(), default=1)
    elsewhere = groups.explode("shared")["shared"].is_duplicated().mean()
    uneven = not groups.filter(pl.col("steps") > 1)["even"].all()
    if uneven or (len(groups) > 1 and (not isinstance(elsewhere, float) or elsewhere < 0.5)):
        return 1
    return max(groups["steps"].to_list(), default=1)


def _numbers_rows(column: pl.Series) -> bool:
    """Whether a column is the number of each row, as tables are written out with."""
    return column.dtype.is_integer() and bool((column.diff().drop_nulls() == 1).all())


def _tell(table: pl.DataFrame, columns: Sequence[str]) -> bool:
    """Whether the values of these columns together are different in all rows, copies aside."""
    return table.unique().select(columns).is_unique().all()


def _most(runs: pl.DataFrame, column: str) -> object:
    """The value that most rows have."""
    return runs[column].value_counts(sort=True)[column][0]


def _refused(where: str, runs: Sequence[str], response: str, otherwise: str = "") -> ConfigError:
    names = ",".join(runs)
    return ConfigError(
        f"rows are evaluations of runs, not runs ({where}): they share a run's luck, and counting each as a run "
        f"makes differences of '{response}' look certain. Use --run {names} --reduce last (or min, max) for one row a "
        f"run{otherwise}",
        (runs[0],),
    )
