"""Anyone's table of curves as one row an evaluation: from a column a run, as trackers export it, or of one run.

A run column may be several (`width,seed`): their values together name the run.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass

import polars as pl

from isoloss.analysis.evaluations import telling_columns
from isoloss.analysis.roles import (
    check_columns,
    counts_steps,
    is_measured,
    is_setting,
    names_runs,
    names_seeds,
    plain_name,
)
from isoloss.diagnostic import Diagnostic
from isoloss.errors import ConfigError

_ASIDE = re.compile(r"__(MIN|MAX)$")
"""Ends the columns that hold the range of what a curve's point stands for."""
_JOINT = " - "
"""Between the name of a run and that of what was measured, in the exports of W&B."""
RUN, LOSS, STEP = "run", "loss", "step"


@dataclass(frozen=True)
class CurveTable:
    """A table with one row an evaluation, and its columns of run, step and loss."""

    table: pl.DataFrame
    run: str
    step: str
    loss: str
    cautions: tuple[Diagnostic, ...] = ()


def curve_table(table: pl.DataFrame, run: str = RUN, step: str = STEP, loss: str = LOSS) -> CurveTable:
    """One row an evaluation, with a run column.

    A table without the loss column but with a column a run is turned; `Step` or `_step` serves as `step`, `run_id` as
    `run`, where those are missing; without any, all rows are of one run if no step repeats. Raises ConfigError when a
    column is missing or rows of several runs cannot be told apart.
    """
    if table.is_empty():
        raise ConfigError("the table has no rows")
    step = _found(table, step, STEP, [column for column in table.columns if counts_steps(column)])
    if loss not in table.columns:
        wide = _from_wide(table, step, loss)
        if wide is not None:
            return wide
        loss = _found(table, loss, loss, [])
    check_columns([step, loss], table.columns)
    run = _found(table, run, RUN, [column for column in table.columns if names_runs(column)])
    if run not in table.columns and "," in run:
        parts = [part.strip() for part in run.split(",") if part.strip()]
        check_columns(parts, table.columns)
        named = pl.concat_str([pl.lit(f"{part}=") + pl.col(part).cast(pl.String()) for part in parts], separator=" ")
        return CurveTable(table.with_columns(named.alias(run)), run, step, loss)
    if run not in table.columns and run == RUN:
        _check_one_run(table, step, loss)
        table = table.with_columns(pl.lit(RUN).alias(RUN))
    check_columns([run], table.columns)
    return CurveTable(table, run, step, loss)


def mixed_runs(found: CurveTable) -> list[Diagnostic]:
    """Settings or seeds that go back and forth within a run: its rows are of several runs."""
    table = found.table
    others = [
        column
        for column in table.columns
        if column not in (found.run, found.step, found.loss) and (is_setting(column) or names_seeds(column))
    ]
    ordered = table.sort(found.step, maintain_order=True)
    mixed: list[str] = []
    for column in others:
        runs = ordered.group_by(found.run).agg(
            levels=pl.col(column).n_unique(), changes=pl.col(column).rle_id().max() + 1, rows=pl.len()
        )
        back = runs.filter((pl.col("changes") > pl.col("levels")) & (pl.col("levels") <= pl.col("rows") / 3))
        if len(back):
            mixed.append(column)
    if not mixed:
        return []
    text = f"{' and '.join(mixed)} vary within a run, back and forth: its rows look like those of several runs."
    return [Diagnostic("unlisted_columns", "limits", text, f"Name them: --run {','.join([found.run, *mixed])}.")]


def _found(table: pl.DataFrame, wanted: str, default: str, others: Sequence[str]) -> str:
    """The column wanted, if it is there, but for capital letters; for the default also the only one of its kind."""
    if wanted in table.columns:
        return wanted
    alike = [column for column in table.columns if column.lower() == wanted.lower()]
    if len(alike) == 1:
        return alike[0]
    return others[0] if wanted == default and len(others) == 1 else wanted


def _from_wide(table: pl.DataFrame, step: str, loss: str) -> CurveTable | None:
    """A table with a column a run, turned; None where it is not recognised as one."""
    if step not in table.columns:
        return None
    columns = [
        column for column in table.columns if column != step and not _ASIDE.search(column) and not counts_steps(column)
    ]
    runs = _of_tracker(columns) or _of_names(table, columns)
    if not runs:
        return None
    metrics = list(dict.fromkeys(metric for _, metric in runs.values()))
    called = metrics if len(metrics) == 1 else [metric for metric in metrics if plain_name(metric) == LOSS]
    if loss == LOSS and len(called) == 1:
        loss = called[0]
    if loss not in metrics:
        raise ConfigError(
            f"the table has a column a run, and none of '{loss}': use --loss with one of "
            f"{', '.join(repr(metric) for metric in metrics[:3])}",
            (loss,),
        )
    parts: list[pl.DataFrame] = []
    for name in dict.fromkeys(run for run, _ in runs.values()):
        own = {metric: column for column, (run, metric) in runs.items() if run == name}
        if loss in own:
            values = [pl.col(column).alias(f"\0{metric}") for metric, column in own.items()]
            part = table.select(pl.lit(name).alias("\0run"), pl.col(step).alias("\0step"), *values)
            parts.append(part.filter(pl.col(f"\0{loss}").is_not_null()))  # another run was evaluated at that step
    turned = pl.concat(parts, how="diagonal_relaxed")
    if turned.is_empty():
        raise ConfigError(f"no run of the table has a value of '{loss}'", (loss,))
    return CurveTable(_named_back(turned, metrics), RUN, STEP, loss)


def _named_back(turned: pl.DataFrame, metrics: Sequence[str]) -> pl.DataFrame:
    taken = {"\0run": RUN, "\0step": STEP, **{f"\0{metric}": metric for metric in metrics}}
    return turned.rename({column: taken[column] for column in turned.columns})


def _of_tracker(columns: Sequence[str]) -> dict[str, tuple[str, str]]:
    """Run and metric by column, of columns such as 'run - val/loss'; metrics of the tracker itself (_step) left out."""
    joined = {column: column.rsplit(_JOINT, 1) for column in columns if _JOINT in column}
    return {
        column: (run.strip(), metric.strip())
        for column, (run, metric) in joined.items()
        if not metric.strip().startswith("_") and metric.strip() not in (RUN, STEP)
    }


def _of_names(table: pl.DataFrame, columns: Sequence[str]) -> dict[str, tuple[str, str]]:
    """The same where every column but the step holds numbers, and is called like no measurement or like its neighbours
    but for a number."""
    if len(columns) < 2 or any(not table.schema[column].is_numeric() for column in columns):
        return {}
    alike = len({re.sub(r"\d+", "#", column) for column in columns}) == 1
    other = any(is_measured(column) or is_setting(column) or names_seeds(column) for column in columns)
    if not alike and (other or any(names_runs(column) for column in columns)):
        return {}
    return {column: (column, LOSS) for column in columns}


def _check_one_run(table: pl.DataFrame, step: str, loss: str) -> None:
    """Raises ConfigError where a step comes twice: then rows are of several runs, and no column names them."""
    doubled = table.filter(pl.col(loss).is_not_null() & pl.col(step).is_not_null()).filter(pl.col(step).is_duplicated())
    if doubled.is_empty():
        return
    telling = telling_columns(table, step, [loss])
    how = f"use --run {','.join(telling)}" if telling else "add one, and name it with --run"
    raise ConfigError(
        f"no column '{RUN}' names the runs, and step {doubled[step][0]} comes more than once: {how}", (RUN,)
    )
