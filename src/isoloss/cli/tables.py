"""What the analysing verbs read: a study directory, or anyone's table as CSV or Parquet."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import polars as pl

from isoloss.analysis.convergence import Rates, analyse_convergence
from isoloss.errors import ConfigError
from isoloss.spec.compute import flops_per_token, tokens_per_step
from isoloss.spec.identity import run_id
from isoloss.store.tables import StudyResults, load_study

NO_VALUE = ["", "NA", "N/A", "null", "None"]
STUDY_FILE = "study.yaml"
TO_TARGET = "steps_to_target"


def read_runs(path: Path, say: Callable[[str], None]) -> pl.DataFrame:
    """One row a run. Of a study directory: its runs that are done, with their horizons beside the summary's columns.

    Says how many runs are left out. Raises ConfigError when there is nothing to read, StoreError on a damaged study.
    """
    if not path.is_dir():
        return _read_file(path)
    results = _study(path)
    table = results.summary()
    horizons = {name: [getattr(config, name) for config in results.configs] for name in ("max_iters", "lr_decay_iters")}
    missing = [pl.Series(name, values) for name, values in horizons.items() if name not in table.columns]
    done = table.with_columns(missing).filter(pl.col("status") == "done")
    if len(done) < len(table):
        say(f"{len(table) - len(done)} of {len(table)} runs are not done and left out")
    return done


def read_curves(path: Path, say: Callable[[str], None]) -> pl.DataFrame:
    """One row an evaluation; of a study directory: run, step, train_loss, loss (of validation) of runs that are done.

    Raises ConfigError when there is nothing to read, StoreError on a damaged study.
    """
    if not path.is_dir():
        return _read_file(path)
    results = _study(path)
    frames = [
        results.evals(run).select(pl.lit(run).alias("run"), "step", "train_loss", loss="val_loss")
        for run in read_runs(path, say)["run_id"]
    ]
    if not frames:
        raise ConfigError(f"no run of {path} is done yet")
    return pl.concat(frames)


def read_rates(path: Path) -> dict[str, Rates] | None:
    """What a step of each run costs, of a study directory; None of a file."""
    if not path.is_dir():
        return None
    results = _study(path)
    times = dict(results.summary().select("run_id", "median_step_time_s").iter_rows())
    return {
        run: Rates(tokens_per_step(c), tokens_per_step(c) * flops_per_token(c), times[run])
        for run, c in ((run_id(config), config) for config in results.configs)
    }


def with_time_to_target(runs: pl.DataFrame, path: Path, target: float | None) -> pl.DataFrame:
    """Runs of a study with the column TO_TARGET: the first evaluated step at or below a loss, null where none is.

    Without a target the table is returned as it is. Raises ConfigError for a table that is no study directory.
    """
    if target is None:
        return runs
    if not is_study(path):
        raise ConfigError(f"--target needs a study directory with its evaluations, and {path} is a table")
    judged = analyse_convergence(read_curves(path, lambda line: None), target=target).runs
    reached = {run.run: run.to_target.step for run in judged if run.to_target and run.to_target.reached}
    return runs.with_columns(pl.Series(TO_TARGET, [reached.get(run) for run in runs["run_id"]], dtype=pl.Float64()))


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
