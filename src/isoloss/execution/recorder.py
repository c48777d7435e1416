"""Writes one run's files while it trains: rows, checkpoints, status; and sends events to the coordinator."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import asdict, dataclass, replace
from types import MappingProxyType
from typing import Any, Literal

from isoloss.errors import StoreError
from isoloss.store.layout import RunPaths
from isoloss.store.outcome import keep_outcome
from isoloss.store.records import MeasuredRecord
from isoloss.store.run import NOTHING, Extent, RowWriter, RunStatus, write_status
from isoloss.study.compute import tokens_per_step
from isoloss.study.config import RunConfig
from isoloss.study.identity import run_id
from isoloss.training import checkpoint
from isoloss.training.kept_states import keep_state
from isoloss.training.loop import EvalRow, StepRow, after_evaluation
from isoloss.training.saving import Save, Saved
from isoloss.training.state import MemberState, Progress

EMIT_INTERVAL_S = 2.0


@dataclass(frozen=True)
class Event:
    """What a worker tells of one run: it started, is on its way, or ended in a state, and why where that is news.

    tokens_per_s is the rate since the last event, evaluation and checkpoints included.
    """

    run_id: str
    kind: Literal["running", "done", "failed", "diverged", "stopped"]
    step: int
    loss: float | None = None
    tokens_per_s: float | None = None
    reason: str = ""


Emit = Callable[[Event], None]
_SAVES = {"checkpoint": checkpoint.save_last, "best": checkpoint.save_best, "kept": keep_state}
ENDED = ("done", "failed", "diverged")
"""Kinds of events after which a run does not go on."""


class RunRecorder:
    """One run's observer: rows to its files, checkpoints, events to the coordinator."""

    def __init__(
        self,
        paths: RunPaths,
        config: RunConfig,
        provenance: Mapping[str, Any],
        metadata: checkpoint.Metadata,
        emit: Emit,
        kept: Mapping[str, Extent] = MappingProxyType({}),
    ) -> None:
        self._paths, self._id, self._emit = paths, run_id(config), emit
        self._provenance, self._metadata = provenance, metadata
        self._metrics = RowWriter(paths.metrics, kept.get("metrics", NOTHING))
        self._evals = RowWriter(paths.evals, kept.get("evals", NOTHING))
        self._writers = {"metrics": self._metrics, "evals": self._evals}
        self._rows: dict[str, Extent] = {}
        self._averages = bool(config.ema)
        self._tokens_per_step = tokens_per_step(config)
        self._emitted, self._unreported_steps = time.monotonic(), 0
        self._told, self._repeated = Event(self._id, "running", 0), time.monotonic()
        self.ended = False

    def step(self, row: StepRow) -> None:
        """Append to metrics.jsonl and now and then tell the coordinator."""
        self._metrics.write(asdict(row))
        self._unreported_steps += 1
        elapsed = time.monotonic() - self._emitted
        if elapsed > EMIT_INTERVAL_S:
            rate = self._unreported_steps * self._tokens_per_step / elapsed
            self._told = Event(self._id, "running", row.step + 1, row.loss, rate)
            self._emit(self._told)
            self._emitted, self._unreported_steps = time.monotonic(), 0

    def first_evaluation(self, state: MemberState, row: EvalRow) -> MemberState:
        """Record what another run was evaluated at with these weights, and return the state after it."""
        state = replace(state, progress=after_evaluation(state.progress, row))
        self.evaluation(row)
        self.saving("checkpoint")(state)
        return state

    def heartbeat(self, step: int) -> None:
        """Repeat now and then what was told last: an evaluation at this step is on its way."""
        self._metrics.flush()
        if time.monotonic() - self._repeated > EMIT_INTERVAL_S:
            self._emit(replace(self._told, step=step))
            self._repeated = time.monotonic()

    def evaluation(self, row: EvalRow) -> None:
        """Append to evals.jsonl, without losses of an average where the run has none, or by position before its end."""
        values = asdict(row)
        absent = [] if self._averages else ["ema_train_loss", "ema_val_loss", "ema_val_bpb"]
        absent += ["val_loss_by_position"] if row.val_loss_by_position is None else []
        self._evals.write({name: value for name, value in values.items() if name not in absent})

    def saving(self, what: Saved) -> Save:
        """How a state as of now is saved, with the extents of the rows that led to it, once these are on the disk."""
        rows = {name: asdict(writer.extent) for name, writer in self._writers.items()}
        metadata, save = {**self._metadata, "rows": rows}, _SAVES[what]

        def saved(state: MemberState) -> None:
            self._sync()
            save(self._paths.folder, state, metadata)

        return saved

    def end(self, progress: Progress, outcome: Literal["done", "diverged"], reason: str) -> None:
        """Close the run."""
        self.close()
        checkpoint.drop_previous(self._paths.folder)
        self.status(outcome, progress, reason, keep_outcome(self._paths, self._rows))
        self._emit(Event(self._id, outcome, progress.step, progress.best_val_loss, reason=reason))
        self.ended = True

    def status(
        self,
        state: Literal["pending", "running", "done", "diverged"],
        progress: Progress,
        reason: str,
        measured: MeasuredRecord | None = None,
    ) -> None:
        """Replace status.json."""
        times = {"train": progress.train_time_s, "eval": progress.eval_time_s, "checkpoint": progress.checkpoint_time_s}
        write_status(self._paths, RunStatus(state, reason, times, self._provenance, self._rows, measured))

    def abandon(self) -> None:
        """Let go of the row files after a failure, as far as the disk still allows."""
        for writer in self._writers.values():
            with suppress(StoreError):
                writer.close()

    def close(self) -> None:
        """Force the rows to the disk and let go of their files."""
        self._rows = self._sync()
        for writer in self._writers.values():
            writer.close()

    def _sync(self) -> dict[str, Extent]:
        return {name: writer.sync() for name, writer in self._writers.items()}


class NullObserver:
    """The observer of ranks that keep no record."""

    def step(self, row: StepRow) -> None: ...  # noqa: D102
    def evaluation(self, row: EvalRow) -> None: ...  # noqa: D102
    def saving(self, what: Saved) -> Save:  # noqa: D102
        return lambda state: None

    def end(self, progress: Progress, outcome: Literal["done", "diverged"], reason: str) -> None: ...  # noqa: D102
