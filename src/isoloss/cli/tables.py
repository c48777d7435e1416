"""What the analysing verbs read: a study directory, or anyone's table."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path

import polars as pl

from isoloss.analysis.curve_tables import CurveTable, curve_table, mixed_runs
from isoloss.analysis.evaluations import Reduction, reduced
from isoloss.analysis.reading import read_table
from isoloss.analysis.roles import check_columns, names_runs
from isoloss.analysis.tuned import best_rows
from isoloss.diagnostic import Diagnostic
from isoloss.errors import ConfigError

STUDY_FILE = "study.yaml"
STEPS_TO_TARGET = "steps_to_target"


def read_runs(path: Path, say: Callable[[str], None]) -> pl.DataFrame:
    """One row a run. Of a study directory: its runs that have ended, without responses where they failed or diverged.

    Says how many runs are left out. Raises ConfigError when there is nothing to read, StoreError on a damaged study.
    """
    if not path.is_dir():
        return read_table(path)
    from isoloss.cli.study_tables import read_study_runs

    return read_study_runs(path, say)


def read_curves(
    path: Path, say: Callable[[str], None], run: str = "run", step: str = "step", loss: str = "loss"
) -> CurveTable:
    """One row an evaluation; of a study directory: run, step, train_loss, loss (of validation) of runs that are done.

    Raises ConfigError when there is nothing to read, StoreError on a damaged study.
    """
    if not path.is_dir():
        found = curve_table(read_table(path), run, step, loss)
        return replace(found, cautions=(*found.cautions, *mixed_runs(found)))
    from isoloss.cli.study_tables import read_study_curves

    return CurveTable(read_study_curves(path, say), run, step, loss)


def one_row_a_run(
    runs: pl.DataFrame, response: str, run: str | None, reduce: Reduction | None, step: str | None
) -> pl.DataFrame:
    """A table of evaluations reduced to one row a run, where `reduce` says how; else the table as it is.

    `run` names the columns that tell runs apart, separated by commas. Raises ConfigError when one is missing, and when
    one of the two is given without the other.
    """
    if reduce is None:
        if run is not None or step is not None:
            raise ConfigError("--run and --step need --reduce last, min or max: which evaluation stands for a run")
        return runs
    named = [column for column in runs.columns if names_runs(column, surely=True)]
    if run is None and len(named) != 1:
        raise ConfigError(f"--reduce {reduce} needs --run COLUMN,...: the columns that tell runs apart")
    columns = named if run is None else [run] if run in runs.columns else [part.strip() for part in run.split(",")]
    check_columns(columns, runs.columns)
    return reduced(runs, response, columns, reduce, step)


def with_steps_to_target(runs: pl.DataFrame, path: Path, target: float | None) -> pl.DataFrame:
    """Runs of a study with the column STEPS_TO_TARGET: where a run first gets to a loss, null where none does.

    Without a target the table is returned as it is. Raises ConfigError for a table that is no study directory.
    """
    if target is None:
        return runs
    if not is_study(path):
        raise ConfigError(f"--target needs a study directory with its evaluations, and {path} is a table")
    from isoloss.cli.study_tables import steps_to_target

    runs = runs.filter(pl.col("status") == "done")  # how far the others would have come is not known
    return runs.with_columns(pl.Series(STEPS_TO_TARGET, steps_to_target(path, runs, target), dtype=pl.Float64()))


def at_best(
    path: Path, runs: pl.DataFrame, factors: Sequence[str], tuned: str | None, response: str
) -> tuple[pl.DataFrame, list[str], tuple[Diagnostic, ...]]:
    """The runs at the best values of tuned settings, which settings these are, and what to know of them.

    `tuned` names columns, separated by commas. Without it they are those that a study tunes and that are no factors,
    whose best values its report takes, in each of its cells. Raises ConfigError for a column that is missing.
    """
    if tuned is None:
        if not is_study(path):
            return runs, [], ()
        from isoloss.cli.study_tables import best_runs

        return best_runs(path, runs, factors)
    names = [name for name in map(str.strip, tuned.split(",")) if name and name not in factors]
    check_columns([*names, *factors, response], runs.columns)
    compared = {name: runs[name].unique().sort().to_list() for name in factors}
    best, cautions = best_rows(runs, compared, names, response)
    return best, names, cautions


def roles(
    path: Path, runs: pl.DataFrame, response: str | None, factors: str | None, block: str | None
) -> tuple[str, list[str], str | None]:
    """Response, factors and block as given, `factors` separated by commas; what a study is not told are its own.

    Raises ConfigError for a table without a response or factors.
    """
    if is_study(path):
        from isoloss.cli.study_tables import compared_in_study
        from isoloss.study.datasets import compared_loss, datasets_in

        own = [] if factors else compared_in_study(path, runs)
        response = response or f"best_{compared_loss(datasets_in(runs))}"
        block = block or ("seed" if own and runs["seed"].n_unique() > 1 else None)
    elif response is None or factors is None:
        raise ConfigError(f"{path} is a table: name what was measured by --response, what was varied by --factors")
    else:
        own = []
    return response, [name for name in map(str.strip, factors.split(",")) if name] if factors else own, block


def varied_factors(path: Path, runs: pl.DataFrame) -> list[str]:
    """The factors of a study, but seeds, with several levels among its runs; of a file none are known."""
    if not is_study(path):
        return []
    from isoloss.cli.study_tables import varied_in_study

    return varied_in_study(path, runs)


def is_study(path: Path) -> bool:
    """Whether a path is a study directory."""
    return (path / STUDY_FILE).is_file()
