"""What the analysing verbs read: a study directory, or anyone's table as CSV or Parquet."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import polars as pl

from isoloss.analysis.convergence import Rates, analyse_convergence
from isoloss.errors import ConfigError
from isoloss.report.evidence import rates
from isoloss.store.tables import StudyResults, load_study

NO_VALUE = ["", "NA", "N/A", "null", "None"]
STUDY_FILE = "study.yaml"
STEPS_TO_TARGET = "steps_to_target"


def read_runs(path: Path, say: Callable[[str], None]) -> pl.DataFrame:
    """One row a run. Of a study directory: its runs that are done.

    Says how many runs are left out. Raises ConfigError when there is nothing to read, StoreError on a damaged study.
    """
    if not path.is_dir():
        return _read_file(path)
    results = _study(path)
    table = results.summary()
    done = table.filter(pl.col("status") == "done")
    if len(done) < len(table):
        say(f"{len(table) - len(done)} of {len(table)} runs are not done and left out")
    return done


def read_curves(path: Path, say: Callable[[str], None]) -> pl.DataFrame:
    """One row an evaluation; of a study directory: run, step, train_loss, loss (of validation) of runs that are done.

    Raises ConfigError when there is nothing to read, StoreError on a damaged study.
    """
    if not path.is_dir():
        return _read_file(path)
    runs = read_runs(path, say)["run_id"]
    if runs.is_empty():
        raise ConfigError(f"no run of {path} is done yet")
    return _study(path).curves(runs).rename({"run_id": "run", "val_loss": "loss"})


def read_rates(path: Path) -> dict[str, Rates] | None:
    """What a step of each run costs, of a study directory; None of a file."""
    if not path.is_dir():
        return None
    results = _study(path)
    return rates(results, results.summary())


def with_steps_to_target(runs: pl.DataFrame, path: Path, target: float | None) -> pl.DataFrame:
    """Runs of a study with the column STEPS_TO_TARGET: the first evaluated step at or below a loss, null where none is.

    Without a target the table is returned as it is. Raises ConfigError for a table that is no study directory.
    """
    if target is None:
        return runs
    if not is_study(path):
        raise ConfigError(f"--target needs a study directory with its evaluations, and {path} is a table")
    analysed = analyse_convergence(read_curves(path, lambda line: None), target=target).runs
    reached = {run.run: run.to_target.step for run in analysed if run.to_target and run.to_target.reached}
    return runs.with_columns(
        pl.Series(STEPS_TO_TARGET, [reached.get(run) for run in runs["run_id"]], dtype=pl.Float64())
    )


def varied_factors(path: Path, runs: pl.DataFrame) -> list[str]:
    """The factors of a study with several levels among its runs; of a file none are known."""
    return [name for name in _study(path).study.factors if runs[name].n_unique() > 1] if is_study(path) else []


def is_study(path: Path) -> bool:
    """Whether a path is a study directory."""
    return (path / STUDY_FILE).is_file()


def _study(path: Path) -> StudyResults:
    if not is_study(path):
        raise ConfigError(f"{path} is a folder without {STUDY_FILE}; give a study directory, a CSV or a Parquet file")
    return load_study(path)


def _read_file(path: Path) -> pl.DataFrame:
    if not path.is_file():
        raise ConfigError(f"{path}: no such file; give a CSV or Parquet file, or a study directory")
    try:
        if path.suffix == ".parquet":
            return pl.read_parquet(path)
        return pl.read_csv(path, infer_schema_length=None, null_values=NO_VALUE)
    except (pl.exceptions.PolarsError, OSError, UnicodeDecodeError) as error:
        raise ConfigError(f"{path}: cannot be read as a table: {str(error).splitlines()[0]}") from error
