"""Study directories as data frames. Everything here is rebuilt from the runs' own files at any time."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass
from functools import cached_property
from io import BytesIO
from pathlib import Path
from typing import Any

import polars as pl

from isoloss.errors import ConfigError, StoreError
from isoloss.files import path_exists, read_checksummed, read_record, reading, write_bytes
from isoloss.store.curve_tables import (
    EVALS_SCHEMA,
    METRICS_SCHEMA,
    THINNED_EVALS_SCHEMA,
    THINNED_STEPS_SCHEMA,
    ThinnedCurves,
    curve_frame,
    positions_frame,
)
from isoloss.store.layout import RunPaths, StudyPaths
from isoloss.store.opening import facts_in, open_study, recorded_tokenizers, records_of
from isoloss.store.outcome import MAX_POINTS, Curves, curves, eval_columns, measure, measured, steps_to
from isoloss.store.records import START, checked
from isoloss.store.run import RunStatus, eval_rows, step_rows, verified_status
from isoloss.store.spreadsheet import csv_text
from isoloss.store.text_records import OneSourceRecord
from isoloss.store.true_losses import read_true_losses, windows_scored
from isoloss.study import compute
from isoloss.study.config import SETTINGS, RunConfig, recorded_config
from isoloss.study.datasets import Dataset, compared_loss, dataset_of, datasets_in
from isoloss.study.identity import by_run_id, run_id
from isoloss.study.repeats import epochs, unique_tokens
from isoloss.study.study import Study
from isoloss.study.texts import DataFacts

NOTHING_MEASURED = measure([], [])
"""What a damaged run contributes to the summary."""


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

    @cached_property
    def configs_by_id(self) -> dict[str, RunConfig]:
        """The same by run id, which takes a hash each."""
        return by_run_id(self.configs)

    @cached_property
    def set_aside(self) -> list[RunConfig]:
        """Runs on disk that have begun and that the study, having changed, no longer asks for.

        Raises UnreadableError.
        """
        found: list[RunConfig] = []
        with reading(self.paths.runs):
            folders = sorted(self.paths.runs.glob("*"))
        for folder in folders:
            paths = RunPaths(folder)
            if folder.name not in self.configs_by_id and path_exists(paths.metrics):
                with suppress(StoreError, ConfigError):  # what is damaged is no run that could be taken back
                    config = recorded_config(read_record(paths.config))
                    found += [config] if run_id(config) == folder.name else []
        return found

    def statuses(self) -> dict[str, RunStatus]:
        """By run id, where every run stands, in the study's order, its files verified."""
        return {run: self.status(run) for run in self.configs_by_id}

    def summary(self, statuses: Mapping[str, RunStatus] | None = None) -> pl.DataFrame:
        """One row a run, in the study's order; what a run has not measured is null.

        `statuses` are what `statuses()` gave, where it was asked already: they are not verified again.
        """
        statuses = self.statuses() if statuses is None else statuses
        return self._table(self.configs_by_id, statuses)

    def summary_of_set_aside(self) -> pl.DataFrame:
        """The same of the runs that the study no longer asks for."""
        configs = by_run_id(self.set_aside)
        return self._table(configs, {run: self.status(run) for run in configs})

    def _table(self, configs: Mapping[str, RunConfig], statuses: Mapping[str, RunStatus]) -> pl.DataFrame:
        rows = [self._summary_row(run, config, statuses[run]) for run, config in configs.items()]
        table = pl.DataFrame(rows, infer_schema_length=None)
        return table.cast({pl.Null: pl.Float64})  # a column that no run has measured yet can be sorted and averaged

    def metrics(self, run: str) -> pl.DataFrame:
        """The per-step record of one run."""
        return pl.DataFrame(step_rows(self.paths.run(run)), schema=METRICS_SCHEMA)

    def evals(self, run: str) -> pl.DataFrame:
        """The evaluations of one run."""
        return pl.DataFrame(eval_rows(self.paths.run(run)), schema=EVALS_SCHEMA)

    def curves(self, runs: Iterable[str]) -> pl.DataFrame:
        """The losses of several runs: run_id, step, train_loss, val_loss, ema_val_loss, one row an evaluation."""
        return curve_frame(THINNED_EVALS_SCHEMA, ((run, eval_columns(eval_rows(self.paths.run(run)))) for run in runs))

    def thinned_curves(self, statuses: Mapping[str, RunStatus] | None = None) -> ThinnedCurves:
        """The curves of all runs for charts. Runs without rows, or damaged, have none. `statuses` as for `summary`.

        results.thinned_curves().steps.join(results.summary().select("run_id", "n_embd"), on="run_id")
        """
        found = list(self._thinned(statuses))
        return ThinnedCurves(
            curve_frame(THINNED_STEPS_SCHEMA, ((run, of.steps) for run, of in found)),
            curve_frame(THINNED_EVALS_SCHEMA, ((run, of.evals) for run, of in found)),
            positions_frame((run, of.val_loss_by_position) for run, of in found),
        )

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

    def tokenizer(self, dataset: Dataset | None = None) -> dict[str, Any]:
        """A vocabulary of the study, by default its first, as written by the tokenizer, with the corpus's sizes.

        A text that has another name than the records' is known by its tokenizer. Raises StoreError.
        """
        wanted, recorded = dataset or next(iter(self.study.datasets)), recorded_tokenizers(self.paths)
        known = {**recorded, **records_of(self.study, recorded)}
        named = [each for each in recorded.values() if each["tokenizer"] == wanted.tokenizer]
        if wanted not in known and not named:
            raise StoreError(f"{self.paths.tokenizer} has no tokenizer {wanted.tokenizer}")
        return {**(known.get(wanted) or named[0])}

    def _facts_of(self, config: RunConfig) -> DataFacts:
        """What is known of the text of a run, also of one that was set aside with its text or tokenizer."""
        dataset = dataset_of(config)
        if dataset in self.study.datasets or not (record := recorded_tokenizers(self.paths).get(dataset)):
            return self.facts
        return facts_in(record)

    @cached_property
    def true_losses(self) -> dict[str, OneSourceRecord]:
        """What is known of the sources of synthetic texts, by the text's SHA-256, or "" where there is one text."""
        return read_true_losses(self.paths)

    def _true_loss(self, config: RunConfig) -> dict[str, float | None]:
        """The columns that only synthetic texts have; none of random windows."""
        if not self.true_losses:
            return {}
        known = self.true_losses.get(config.corpus_sha256 if self.study.varied_texts else "")
        scored = known["true_val_loss"] if known and config.eval != "sampled" else {}
        rate = known and known["entropy_rate"]
        return {"entropy_rate": rate, "true_val_loss": scored.get(windows_scored(config))}

    def _thinned(self, statuses: Mapping[str, RunStatus] | None) -> Iterator[tuple[str, Curves]]:
        for run, status in (self.statuses() if statuses is None else statuses).items():
            if status.state != "damaged":
                with suppress(StoreError):
                    yield run, curves(self.paths.run(run), status)

    def _val_curve(self, run: str, config: RunConfig, status: RunStatus) -> Iterator[tuple[int, float | None]]:
        """Step and validation loss of every evaluation, from the curves that a run keeps where these are whole."""
        paths = self.paths.run(run)
        if compute.evaluations(config) <= MAX_POINTS:
            evals = curves(paths, status).evals
            yield from zip(evals["step"], evals["val_loss"], strict=True)
        else:
            yield from ((row["step"], row["val_loss"]) for row in eval_rows(paths))

    def _summary_row(self, run: str, config: RunConfig, status: RunStatus) -> dict[str, Any]:
        state, times = status.state, status.times_s
        columns: Mapping[str, Any] = NOTHING_MEASURED
        target: dict[str, Any] = {} if self.study.target is None else {"steps_to_target": None}
        try:
            if state != "damaged":
                columns = NOTHING_MEASURED | measured(self.paths.run(run), status)
                if self.study.target is not None:
                    target = {"steps_to_target": steps_to(self.study.target, self._val_curve(run, config, status))}
        except StoreError:
            state = "damaged"
        return {
            "run_id": run,
            "seed": config.seed,
            **{factor: getattr(config, factor) for factor in (*self.study.varied, *self.study.varied_texts)},
            **{name: value for name, value in _settings(config).items() if name not in self.study.varied},
            "params_total": compute.params_total(config),
            "params_without_position": compute.params_without_position(config),
            "params_non_embedding": compute.params_non_embedding(config),
            "params_approx": compute.params_approx(config),
            "train_tokens": compute.train_tokens(config),
            "unique_tokens": unique_tokens(config, self._facts_of(config)),
            "epochs": epochs(config, self._facts_of(config)),
            "train_flops": compute.train_flops(config),
            **columns,
            **target,
            **self._true_loss(config),
            "train_time_s": times.get("train"),
            "eval_time_s": times.get("eval"),
            "checkpoint_time_s": times.get("checkpoint"),
            "wall_time_s": sum(times.values()) if times else None,
            "device": status.provenance.get("device"),
            "status": state,
        }


def load_study(folder: str | Path) -> StudyResults:
    """Read a study directory. Raises StoreError when it is none, is damaged, or leads out of its folder."""
    return StudyResults(*open_study(folder))


def write_summary(results: StudyResults, table: pl.DataFrame) -> None:
    """Write a study's summary as summary.csv and summary.parquet, and that of runs set aside. Raises StoreError."""
    paths = results.paths
    aside = results.summary_of_set_aside() if results.set_aside else table.clear()
    if len(aside) or path_exists(paths.set_aside):
        write_bytes(paths.set_aside, csv_text(aside).encode())
    parquet = BytesIO()  # bytes first: polars' own writing hides what the file system answered
    table.write_parquet(parquet)
    write_bytes(paths.summary("csv"), csv_text(table).encode())
    write_bytes(paths.summary("parquet"), parquet.getvalue())


def ranked_runs(table: pl.DataFrame) -> pl.DataFrame:
    """Rows of a summary by best validation loss; of done runs alone, where any are done."""
    by = f"best_{compared_loss(datasets_in(table))}"
    ranked = table.drop_nulls(by).sort(by, "run_id")
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
        asked = f"{'matches' if not found else 'match'} '{reference}'"
        raise StoreError(f"{which} of {results.paths.folder} {asked}; see summary.csv")
    return results.paths.run(found[0])


def _settings(config: RunConfig) -> dict[str, Any]:
    """Every setting, so that tables of several studies can be joined; lr_decay_iters is the horizon it stands for."""
    return {name: getattr(config, name) for name in SETTINGS} | {"lr_decay_iters": config.decay_horizon}
