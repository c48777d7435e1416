"""What the analysing verbs read of a study directory; the store is not loaded for anyone's table."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import polars as pl

from isoloss.analysis.convergence import Rates, analyse_convergence
from isoloss.analysis.roles import names_seeds
from isoloss.cli.tables import STUDY_FILE, is_study
from isoloss.errors import ConfigError
from isoloss.report import evidence
from isoloss.report.snapshot import Snapshot, take_snapshot
from isoloss.store.tables import StudyResults, load_study
from isoloss.study.hypotheses import RESPONSES


def read_study_runs(path: Path, say: Callable[[str], None]) -> pl.DataFrame:
    """One row a run that has ended, without responses where it failed or diverged. Says how many are left out.

    Raises ConfigError for another folder, as all here do, and StoreError on a damaged study.
    """
    table = _study(path).summary()
    done = pl.col("status") == "done"
    if lost := len(table) - len(table.filter(done)):
        say(f"{lost} of {len(table)} runs are not done and left out")
    measured = [name for name in RESPONSES if name in table.columns]
    ended = table.filter(done | pl.col("status").is_in(evidence.LOST_STATES))
    return ended.with_columns(pl.when(done).then(pl.col(*measured)))


def read_study_curves(path: Path, say: Callable[[str], None]) -> pl.DataFrame:
    """One row an evaluation of a run that is done: run, step, train_loss, loss (of validation)."""
    runs = read_study_runs(path, say).filter(pl.col("status") == "done")["run_id"]
    if runs.is_empty():
        raise ConfigError(f"no run of {path} is done yet")
    return _study(path).curves(runs).rename({"run_id": "run", "val_loss": "loss"})


def read_rates(path: Path) -> dict[str, Rates]:
    """What a step of each run costs."""
    results = _study(path)
    return evidence.rates(results, results.summary())


def read_snapshot(path: Path) -> Snapshot:
    """What a study directory holds, with the labels of its runs."""
    return take_snapshot(_study(path))


def steps_to_target(path: Path, runs: pl.DataFrame, target: float) -> list[float | None]:
    """The first evaluated step at or below a loss, of each run that is done; None where none is."""
    analysed = analyse_convergence(read_study_curves(path, lambda line: None), target=target).runs
    reached = {run.run: run.to_target.step for run in analysed if run.to_target and run.to_target.reached}
    return [reached.get(run) for run in runs["run_id"]]


def varied_in_study(path: Path, runs: pl.DataFrame) -> list[str]:
    """The factors of a study, but seeds, with several levels among its runs."""
    names = [name for name in _study(path).study.varied if not names_seeds(name)]
    return [name for name in names if runs[name].n_unique() > 1]


def _study(path: Path) -> StudyResults:
    if not is_study(path):
        raise ConfigError(f"{path} is a folder without {STUDY_FILE}; give a study directory or a table")
    return load_study(path)
