"""Study directories as the store writes them, with losses made up by the test."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

from isoloss.files import write_checksummed, write_record
from isoloss.store.layout import StudyPaths
from isoloss.store.outcome import keep_outcome
from isoloss.store.run import Extent, RowWriter, RunStatus, State, create_run, write_status
from isoloss.store.tables import StudyResults, load_study
from isoloss.study import compute
from isoloss.study.config import RunConfig
from isoloss.study.identity import run_id
from isoloss.study.study import Study
from isoloss.study.studyfile import dump_study
from isoloss.study.texts import DataFacts

FACTS = DataFacts(sha256="ab" * 32, vocab_size=65, val_tokens=111_540)
Curve = Callable[[RunConfig, int, int], float]
"""Validation loss of a run, given its number in the study, at a step."""


def falling(config: RunConfig, number: int, step: int) -> float:
    """Wider is better, dropout is worse, and every run a little worse than the one before it."""
    return 3.0 - config.n_embd / 100 + config.dropout + number / 1000 + 1.5 / (1 + step)


def fake_study(
    folder: Path, study: Study, states: dict[int, tuple[State, str]], curve: Curve = falling
) -> StudyResults:
    """A study directory as the store writes it; runs are done unless `states` says otherwise."""
    paths = StudyPaths(folder)
    write_checksummed(paths.study, dump_study(study))
    write_record(
        paths.provenance, {"started_at": "2026-01-01T00:00:00+00:00", "versions": {"isoloss": "0.1.0"}, "machine": {}}
    )
    write_tokenizer(paths, study, FACTS)
    for i, config in enumerate(study.expand(FACTS)):
        state, reason = states.get(i, ("done", ""))
        if state != "pending":
            _fake_run(paths, config, RunStatus(state, reason), lambda step, c=config, i=i: curve(c, i, step))
    return load_study(folder)


def write_tokenizer(paths: StudyPaths, study: Study, facts: DataFacts) -> None:
    characters = "".join(map(chr, range(ord("0"), ord("0") + facts.vocab_size)))
    sizes = {"vocab_size": facts.vocab_size, "train_tokens": 900_000, "val_tokens": 100_000}
    text = {"corpus": study.corpus, "corpus_sha256": facts.sha256}
    write_record(paths.tokenizer, {"tokenizer": study.tokenizer, "characters": characters, **text, **sizes})


def _fake_run(paths: StudyPaths, config: RunConfig, status: RunStatus, val_loss: Callable[[int], float]) -> None:
    run = paths.run(run_id(config))
    create_run(run, config)
    last = config.max_iters if status.state == "done" else 7
    own = 1e-9 * int(run.folder.name[:4], 16)  # no two programs take the same time
    metrics = write_rows(run.metrics, [step_row(step, 0.01 + own) for step in range(last)])
    steps = [step for step in compute.evaluation_steps(config) if step <= last]
    losses = [(step, val_loss(step)) for step in steps]
    rows = [{"step": s, "train_loss": v - 0.5 / (1 + s), "val_loss": v, "eval_time_s": 1.0} for s, v in losses]
    written = {"metrics": metrics, "evals": write_rows(run.evals, rows)}
    if status.state == "done":
        status = replace(status, rows=written, measured=keep_outcome(run, written))
    times = {"train": 4.0, "eval": 2.0, "checkpoint": 0.5}
    peak = {"flops": 2e11, "source": "measured GEMM"}
    write_status(run, replace(status, times_s=times, provenance={"device_name": "a processor", "peak": peak}))


def step_row(step: int, seconds: float = 0.01) -> dict[str, Any]:
    seconds = 0.5 if step == 5 else seconds
    return {
        "step": step,
        "loss": 3.0,
        "lr": 1e-3,
        "grad_norm": 1.0,
        "step_time_s": seconds,
        "tokens_per_s": 768 / seconds,
        "mfu": 0.25,
        "mfu_a100": 0.001,
    }


def write_rows(path: Path, rows: list[dict[str, Any]]) -> Extent:
    writer = RowWriter(path)
    for row in rows:
        writer.write(row)
    extent = writer.sync()
    writer.close()
    return extent
