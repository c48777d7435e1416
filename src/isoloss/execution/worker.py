"""Train one stack into the store, from wherever its runs were left."""

from __future__ import annotations

import gc
import time
from collections.abc import Callable, Mapping
from contextlib import ExitStack, suppress
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from types import MappingProxyType
from typing import Any, Literal

import torch

from isoloss.data.tokens import Tokens, open_tokens
from isoloss.errors import NumericsError, StoreError
from isoloss.execution.plan import Stack
from isoloss.execution.reuse import CONTINUES
from isoloss.files import explained, locked
from isoloss.spec.compute import tokens_per_step
from isoloss.spec.config import RunConfig
from isoloss.spec.identity import run_id
from isoloss.store.layout import RunPaths, StudyPaths
from isoloss.store.run import (
    NOTHING,
    Extent,
    RowWriter,
    RunStatus,
    check_rows,
    create_run,
    extents,
    read_status,
    write_status,
)
from isoloss.training import checkpoint
from isoloss.training.backend import kernels_for
from isoloss.training.device import describe, peak
from isoloss.training.distributed import Ranks
from isoloss.training.loop import EvalRow, StepRow, train
from isoloss.training.state import COMPUTE_DTYPES, MemberState, Progress, fresh, stack

LOCK_TIMEOUT_S = 30.0
"""How long a run's previous writer, orphaned by a kill, is given to notice and let go."""

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


@dataclass(frozen=True)
class Workplace:
    """What every stack of a study shares: where to write, what to read, where and with which kernels to compute."""

    study: StudyPaths
    tokens_folder: Path
    device: torch.device
    compiled: bool = False


class RunRecorder:
    """One run's observer: rows to its files, checkpoints beside them, events to the coordinator."""

    def __init__(
        self,
        paths: RunPaths,
        config: RunConfig,
        provenance: Mapping[str, Any],
        emit: Emit,
        kept: Mapping[str, Extent] = MappingProxyType({}),
    ) -> None:
        self._paths, self._id, self._provenance, self._emit = paths, run_id(config), provenance, emit
        self._metrics = RowWriter(paths.metrics, kept.get("metrics", NOTHING))
        self._evals = RowWriter(paths.evals, kept.get("evals", NOTHING))
        self._rows: dict[str, Extent] = {}
        self._tokens_per_step = tokens_per_step(config)
        self._emitted, self._unreported_steps = time.monotonic(), 0
        self.ended = False

    def step(self, row: StepRow) -> None:
        """Append to metrics.jsonl and now and then tell the coordinator."""
        self._metrics.write(asdict(row))
        self._unreported_steps += 1
        elapsed = time.monotonic() - self._emitted
        if elapsed > EMIT_INTERVAL_S:
            rate = self._unreported_steps * self._tokens_per_step / elapsed
            self._emit(Event(self._id, "running", row.step + 1, row.loss, rate))
            self._emitted, self._unreported_steps = time.monotonic(), 0

    def evaluation(self, row: EvalRow) -> None:
        """Append to evals.jsonl."""
        self._evals.write(asdict(row))

    def checkpoint(self, state: MemberState) -> None:
        """Save the state, once the rows that led to it are on the disk."""
        rows = {name: asdict(extent) for name, extent in self._sync().items()}
        checkpoint.save_last(self._paths.folder, state, {"rows": rows})

    def end(self, progress: Progress, outcome: Literal["done", "diverged"], reason: str) -> None:
        """Close the run."""
        self.close()
        checkpoint.drop_previous(self._paths.folder)
        self.status(outcome, progress, reason)
        self._emit(Event(self._id, outcome, progress.step, progress.best_val_loss, reason=reason))
        self.ended = True

    def status(self, state: Literal["pending", "running", "done", "diverged"], progress: Progress, reason: str) -> None:
        """Replace status.json."""
        times = {"train": progress.train_time_s, "eval": progress.eval_time_s, "checkpoint": progress.checkpoint_time_s}
        write_status(self._paths, RunStatus(state, reason, times, self._provenance, self._rows))

    def abandon(self) -> None:
        """Let go of the row files after a failure, as far as the disk still allows."""
        for writer in (self._metrics, self._evals):
            with suppress(StoreError):
                writer.close()

    def close(self) -> None:
        """Force the rows to the disk and let go of their files."""
        self._rows = self._sync()
        self._metrics.close()
        self._evals.close()

    def _sync(self) -> dict[str, Extent]:
        return {"metrics": self._metrics.sync(), "evals": self._evals.sync()}


class Silent:
    """The observer of ranks that keep no record."""

    def step(self, row: StepRow) -> None: ...  # noqa: D102
    def evaluation(self, row: EvalRow) -> None: ...  # noqa: D102
    def checkpoint(self, state: MemberState) -> None: ...  # noqa: D102
    def end(self, progress: Progress, outcome: Literal["done", "diverged"], reason: str) -> None: ...  # noqa: D102


def train_stack(
    place: Workplace,
    configs: Stack,
    emit: Emit = lambda event: None,
    should_stop: Callable[[], bool] = lambda: False,
    ranks: Ranks | None = None,
) -> None:
    """Train runs to their ends, or until told to stop; each leaves its files and a status.

    What goes wrong fails these runs with their reason, and is no exception of the caller's. A stack for which the
    memory is too small is split in two.
    """
    ranks = ranks or Ranks()
    recorders: dict[str, RunRecorder] = {}
    failure = _attempt(place, configs, recorders, emit, should_stop, ranks)
    if failure is None:
        return
    if ranks.world > 1:
        raise failure
    left = tuple(config for config in configs if not _has_ended(recorders, config))
    if len(configs) > 1 and _out_of_memory(failure):
        gc.collect()
        if place.device.type == "cuda":
            torch.cuda.empty_cache()
        half = (len(left) + 1) // 2
        note = f"not enough memory for {len(configs)} runs in one stack: going on with at most {half}"
        emit(Event(run_id(configs[0]), "running", 0, reason=note))
        for part in filter(None, (left[:half], left[half:])):
            train_stack(place, part, emit, should_stop)
    else:
        _fail(place, left, failure, emit)


def _attempt(
    place: Workplace,
    configs: Stack,
    recorders: dict[str, RunRecorder],
    emit: Emit,
    should_stop: Callable[[], bool],
    ranks: Ranks,
) -> Exception | None:
    """Train under the runs' locks; what went wrong, after letting go of the runs' files."""
    with ExitStack() as held:
        try:
            tokens = open_tokens(place.tokens_folder)
            if ranks.rank == 0:
                for config in configs:
                    run = place.study.run(run_id(config))
                    held.enter_context(locked(run.lock, LOCK_TIMEOUT_S, partial(_written_by_another, run)))
            _train_locked(place, configs, tokens, recorders, emit, should_stop, ranks)
        except Exception as error:
            for recorder in recorders.values():
                recorder.abandon()
            return error
    return None


def _written_by_another(run: RunPaths) -> str:
    return f"{run.folder} is being written by another process"


def _out_of_memory(failure: BaseException | None) -> bool:
    """Whether a failure is, or came of, a lack of memory; lets go of the tensors that its frames hold."""
    found = False
    while failure is not None:
        failure.__traceback__ = None
        found = found or isinstance(failure, torch.OutOfMemoryError)
        failure = failure.__cause__ or failure.__context__
    return found


def _train_locked(
    place: Workplace,
    configs: Stack,
    tokens: Tokens,
    recorders: dict[str, RunRecorder],
    emit: Emit,
    should_stop: Callable[[], bool],
    ranks: Ranks,
) -> None:
    found = [_resume(place.study.run(run_id(config)), config, emit) for config in configs]
    states = [state for state, _ in found]
    ranks.barrier()
    kernels = kernels_for(COMPUTE_DTYPES[configs[0].precision], place.device, compiled=place.compiled)
    if ranks.rank:
        stacked = stack(states, place.device, kernels)
        train(stacked, tokens, lambda config: Silent(), ranks=ranks, should_stop=should_stop)
        return
    layout = {"stack_width": len(configs), "ranks": ranks.world, "kernels": kernels.name}
    provenance = {**describe(place.device).as_dict(), **layout}
    for state, rows in found:
        measured = peak(place.device, state.config.precision, torch.get_num_threads())
        recorder = _open_recorder(place, state, rows, {**provenance, "peak": asdict(measured)}, emit)
        recorders[run_id(state.config)] = recorder
    stopped = train(
        stack(states, place.device, kernels),  # no name here, so that what leaves the stack leaves the memory
        tokens,
        lambda config: recorders[run_id(config)],
        ranks=ranks,
        should_stop=should_stop,
    )
    if stopped is not None:
        for config, progress in zip(stopped.members, stopped.progress, strict=True):
            recorder = recorders[run_id(config)]
            recorder.close()
            recorder.status("pending", progress, f"stopped at step {progress.step}; the same command continues")
            emit(Event(run_id(config), "stopped", progress.step))


def _resume(paths: RunPaths, config: RunConfig, emit: Emit) -> tuple[MemberState, Mapping[str, Extent]]:
    """The state a run continues from, and how far its rows go there."""

    def check(beside: checkpoint.Beside) -> None:
        for name, extent in extents(beside.get("rows", {})).items():
            check_rows(paths.rows(name), extent)

    found = checkpoint.resume(paths.folder, check)
    if found.problem:
        emit(Event(run_id(config), "running", 0, reason=found.problem))
    if found.state is None:
        return fresh(config), {}
    if run_id(found.state.config) != run_id(config):
        raise NumericsError(f"{paths.folder}: its checkpoint belongs to run {run_id(found.state.config)}")
    return found.state, extents(found.beside.get("rows", {}))


def _open_recorder(
    place: Workplace, state: MemberState, rows: Mapping[str, Extent], provenance: Mapping[str, Any], emit: Emit
) -> RunRecorder:
    """Bring a run's rows back to where its state is, and open it for writing."""
    paths, progress = place.study.run(run_id(state.config)), state.progress
    before = read_status(paths).provenance.get(CONTINUES)
    provenance = provenance if before is None else {**provenance, CONTINUES: before}
    create_run(paths, state.config)
    with explained(paths.samples):
        paths.samples.unlink(missing_ok=True)  # of what the run was before
    if progress.step:
        checkpoint.promote_best(paths.folder, state)
    recorder = RunRecorder(paths, state.config, provenance, emit, rows)
    recorder.status("running", progress, "")
    emit(Event(run_id(state.config), "running", progress.step))
    return recorder


def _has_ended(recorders: Mapping[str, RunRecorder], config: RunConfig) -> bool:
    recorder = recorders.get(run_id(config))
    return recorder is not None and recorder.ended


def _fail(place: Workplace, configs: Stack, error: BaseException, emit: Emit) -> None:
    reason = f"{type(error).__name__}: {str(error).splitlines()[0] if str(error) else 'no message'}"
    for config in configs:
        write_failed(place.study.run(run_id(config)), reason)
        emit(Event(run_id(config), "failed", 0, reason=reason))


def write_failed(paths: RunPaths, reason: str) -> None:
    """Mark a run failed, as far as the disk still allows."""
    with suppress(StoreError):
        write_status(paths, RunStatus("failed", reason))
