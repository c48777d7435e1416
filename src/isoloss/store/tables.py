"""Study directories as data frames. Everything here is rebuilt from the runs' own files at any time."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import cached_property
from io import BytesIO
from itertools import pairwise
from math import isfinite, sqrt
from pathlib import Path
from statistics import median, stdev
from typing import Any, cast

import polars as pl

from isoloss.errors import StoreError
from isoloss.files import path_exists, read_checksummed, read_record, write_bytes
from isoloss.spec import compute
from isoloss.spec.config import RunConfig
from isoloss.spec.identity import run_id
from isoloss.spec.study import DataFacts, Study
from isoloss.spec.studyfile import parse_study
from isoloss.store.enclosed import check_enclosed
from isoloss.store.layout import RunPaths, StudyPaths
from isoloss.store.records import EVALS, START, STEPS, TOKENIZER, checked
from isoloss.store.run import RunStatus, read_rows, verified_status
from isoloss.store.spreadsheet import csv_text

METRICS_SCHEMA: dict[str, pl.DataType] = {
    "step": pl.Int64(),
    "loss": pl.Float64(),
    "lr": pl.Float64(),
    "grad_norm": pl.Float64(),
    "step_time_s": pl.Float64(),
    "tokens_per_s": pl.Float64(),
    "mfu": pl.Float64(),
    "mfu_a100": pl.Float64(),
}
EVALS_SCHEMA: dict[str, pl.DataType] = {
    "step": pl.Int64(),
    "train_loss": pl.Float64(),
    "val_loss": pl.Float64(),
    "eval_time_s": pl.Float64(),
}


@dataclass(frozen=True)
class StudyResults:
    """A study directory, read."""

    paths: StudyPaths
    study: Study
    facts: DataFacts

    @cached_property
    def configs(self) -> list[RunConfig]:
        """Every run the study consists of, trained or not."""
        return self.study.expand(self.facts)

    def summary(self) -> pl.DataFrame:
        """One row a run, in the study's order; what a run has not measured is null."""
        return pl.DataFrame([self._summary_row(config) for config in self.configs], infer_schema_length=None)

    def metrics(self, run: str) -> pl.DataFrame:
        """The per-step record of one run."""
        return pl.DataFrame(_steps(self.paths.run(run)), schema=METRICS_SCHEMA)

    def evals(self, run: str) -> pl.DataFrame:
        """The evaluations of one run."""
        return pl.DataFrame(_evals(self.paths.run(run)), schema=EVALS_SCHEMA)

    def curves(self, runs: Iterable[str]) -> pl.DataFrame:
        """The losses of several runs: run_id, step, train_loss, val_loss, one row an evaluation."""
        schema = {"run_id": pl.String(), **{name: EVALS_SCHEMA[name] for name in ("step", "train_loss", "val_loss")}}
        frames = [self.evals(run).select(pl.lit(run).alias("run_id"), *list(schema)[1:]) for run in runs]
        return pl.concat([pl.DataFrame(schema=schema), *frames])

    def status(self, run: str) -> RunStatus:
        """Where one run stands."""
        return verified_status(self.paths.run(run))

    def samples(self, run: str) -> str | None:
        """Text one run wrote, if it was asked to and it is whole."""
        try:
            return read_checksummed(self.paths.run(run).samples)
        except StoreError:
            return None

    def provenance(self) -> dict[str, Any]:
        """Versions and machine of the study's last start."""
        return {**checked(START, read_record(self.paths.provenance), self.paths.provenance)}

    def tokenizer(self) -> dict[str, Any]:
        """The vocabulary as written by the tokenizer, with the corpus's sizes."""
        return {**checked(TOKENIZER, read_record(self.paths.tokenizer), self.paths.tokenizer)}

    def _summary_row(self, config: RunConfig) -> dict[str, Any]:
        paths = self.paths.run(run_id(config))
        status, evals, steps = verified_status(paths), list[dict[str, Any]](), list[dict[str, Any]]()
        state, times = status.state, status.times_s
        try:
            if state != "damaged":
                evals, steps = _evals(paths), _steps(paths)
        except StoreError:
            state = "damaged"
        return {
            "run_id": run_id(config),
            "seed": config.seed,
            **{factor: getattr(config, factor) for factor in self.study.factors},
            **{name: value for name, value in _schedule(config).items() if name not in self.study.factors},
            "params_total": compute.params_total(config),
            "params_without_position": compute.params_without_position(config),
            "params_non_embedding": compute.params_non_embedding(config),
            "params_approx": compute.params_approx(config),
            "train_tokens": compute.train_tokens(config),
            "train_flops": compute.train_flops(config),
            **_eval_columns(evals),
            **_step_columns(steps),
            "train_time_s": times.get("train"),
            "eval_time_s": times.get("eval"),
            "checkpoint_time_s": times.get("checkpoint"),
            "wall_time_s": sum(times.values()) if times else None,
            "device": status.provenance.get("device"),
            "status": state,
        }


def load_study(folder: str | Path) -> StudyResults:
    """Read a study directory. Raises StoreError when it is none, is damaged, or leads out of its folder."""
    paths = StudyPaths(Path(folder))
    check_enclosed(paths.folder)
    if not path_exists(paths.study):
        raise StoreError(f"{paths.folder} is no study directory: it has no study.yaml")
    study = parse_study(read_checksummed(paths.study), str(paths.study))
    tokenizer = checked(TOKENIZER, read_record(paths.tokenizer), paths.tokenizer)
    facts = DataFacts(tokenizer["corpus_sha256"], tokenizer["vocab_size"])
    return StudyResults(paths, study, facts)


def write_summary(results: StudyResults) -> pl.DataFrame:
    """Write summary.csv and summary.parquet and return the table. Raises StoreError."""
    table = results.summary()
    parquet = BytesIO()  # bytes first: polars' own writing hides what the file system answered
    table.write_parquet(parquet)
    write_bytes(results.paths.summary("csv"), csv_text(table).encode())
    write_bytes(results.paths.summary("parquet"), parquet.getvalue())
    return table


def ranked_runs(table: pl.DataFrame) -> pl.DataFrame:
    """Rows of a summary by best validation loss; of done runs alone, where any are done."""
    ranked = table.drop_nulls("best_val_loss").sort("best_val_loss", "run_id")
    done = ranked.filter(pl.col("status") == "done")
    return done if len(done) else ranked


def find_run(results: StudyResults, reference: str | None) -> RunPaths:
    """A run by id or unambiguous prefix; None means the best by validation loss. Raises StoreError."""
    table = results.summary()
    if reference is None:
        ranked = ranked_runs(table)
        if ranked.is_empty():
            raise StoreError(f"no run of {results.paths.folder} has been evaluated yet")
        return results.paths.run(ranked["run_id"][0])
    found = [run for run in table["run_id"] if run.startswith(reference)]
    if len(found) != 1:
        which = "no run" if not found else f"{len(found)} runs"
        raise StoreError(f"{which} of {results.paths.folder} match '{reference}'; see summary.csv")
    return results.paths.run(found[0])


def _steps(paths: RunPaths) -> list[dict[str, Any]]:
    return cast("list[dict[str, Any]]", checked(STEPS, list(read_rows(paths.metrics)), paths.metrics))


def _evals(paths: RunPaths) -> list[dict[str, Any]]:
    return cast("list[dict[str, Any]]", checked(EVALS, list(read_rows(paths.evals)), paths.evals))


def _schedule(config: RunConfig) -> dict[str, Any]:
    """Whether a run's learning rate ends with it: a loss on the way is not what a schedule of that length gives."""
    return {"max_iters": config.max_iters, "decay_lr": config.decay_lr, "lr_decay_iters": config.decay_horizon}


def _eval_columns(rows: list[dict[str, Any]]) -> dict[str, Any]:
    """Losses of one run; best is the lowest validation loss, final the last evaluation."""
    finite = [row for row in rows if row["val_loss"] is not None]
    best: dict[str, Any] = min(finite, key=lambda row: (row["val_loss"], row["step"])) if finite else {}
    final: dict[str, Any] = rows[-1] if rows else {}
    return {
        "best_val_loss": best.get("val_loss"),
        "best_step": best.get("step"),
        "final_val_loss": final.get("val_loss"),
        "final_train_loss": final.get("train_loss"),
        "train_val_gap": _difference(final.get("val_loss"), final.get("train_loss")),
    }


def _difference(first: float | None, second: float | None) -> float | None:
    return None if first is None or second is None else first - second


def _step_columns(rows: list[dict[str, Any]]) -> dict[str, Any]:
    """Roughness of the loss, and median speeds, so that a slow first step or a busy moment does not count."""
    columns = {
        "median_step_time_s": "step_time_s",
        "tokens_per_s": "tokens_per_s",
        "mfu": "mfu",
        "mfu_a100": "mfu_a100",
    }
    speeds = {name: median(row[column] for row in rows) if rows else None for name, column in columns.items()}
    return {"loss_roughness": loss_roughness([row["loss"] for row in rows]), **speeds}


def loss_roughness(losses: Sequence[float | None]) -> float | None:
    """Short-term noise of a per-step training loss in nats/token: sd of its differences / √2, second half of the steps.

    Differences remove a slow trend (von Neumann 1941). None below three steps there, or where a loss is missing.
    """
    late = [loss for loss in losses[len(losses) // 2 :] if loss is not None and isfinite(loss)]
    if len(late) < 3 or len(late) < len(losses) - len(losses) // 2:
        return None
    return stdev(after - before for before, after in pairwise(late)) / sqrt(2)
