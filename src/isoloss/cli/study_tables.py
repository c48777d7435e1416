"""What the analysing verbs read of a study directory; the store is not loaded for anyone's table."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

import polars as pl

from isoloss.analysis.convergence import Rates
from isoloss.analysis.roles import names_seeds
from isoloss.analysis.tuned import CHOSEN_BY, best_rows
from isoloss.cli.tables import STUDY_FILE, is_study
from isoloss.diagnostic import Diagnostic
from isoloss.errors import ConfigError
from isoloss.report import evidence
from isoloss.report.snapshot import Snapshot, take_snapshot
from isoloss.store.outcome import steps_to
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
    """Where the loss of each run first gets to a target, as of a study that states it; None where it never does."""
    results = _study(path)
    return [steps_to(target, results.evals(run).select("step", "val_loss").iter_rows()) for run in runs["run_id"]]


def best_runs(
    path: Path, runs: pl.DataFrame, factors: Sequence[str]
) -> tuple[pl.DataFrame, list[str], tuple[Diagnostic, ...]]:
    """The runs of a study at the best values of what it tunes, but `factors`, in each cell; as `cli.tables.at_best`."""
    study = _study(path).study
    names = [name for name in study.tuned if name not in factors]
    if not names:
        return runs, [], ()
    compared = {name: levels for name, levels in study.varied.items() if name not in names and len(levels) > 1}
    best, cautions = best_rows(runs, compared, names, CHOSEN_BY, equally_many=True)
    return best, names, cautions


def varied_in_study(path: Path, runs: pl.DataFrame) -> list[str]:
    """The factors of a study, but seeds, with several levels among its runs."""
    names = [name for name in _study(path).study.varied if not names_seeds(name)]
    return [name for name in names if runs[name].n_unique() > 1]


def compared_in_study(path: Path, runs: pl.DataFrame) -> list[str]:
    """Those of them that are no settings which the study tunes."""
    tuned = _study(path).study.tuned
    return [name for name in varied_in_study(path, runs) if name not in tuned]


def _study(path: Path) -> StudyResults:
    if not is_study(path):
        raise ConfigError(f"{path} is a folder without {STUDY_FILE}; give a study directory or a table")
    return load_study(path)
