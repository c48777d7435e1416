"""Train one stack into the store, from wherever its runs were left."""

from __future__ import annotations

import gc
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import asdict, dataclass, field, replace
from typing import Any, Literal

import torch

from isoloss.data.tokens import Tokens, open_tokens
from isoloss.errors import InUseError, IsolossError, StoreError, UnreadableError
from isoloss.execution.context import TrainingContext
from isoloss.execution.plan import STACKED_WITH, Stack
from isoloss.execution.recorder import Emit, Event, NullObserver, RunRecorder
from isoloss.execution.resuming import Begun, back_at, begun, continued
from isoloss.files import locked, remove_leftovers, writing
from isoloss.spec.config import RunConfig
from isoloss.spec.identity import run_id
from isoloss.store.layout import RunPaths
from isoloss.store.records import CONTINUES, NUMERICS
from isoloss.store.run import create_run, read_status, whole_status, write_status
from isoloss.training import checkpoint
from isoloss.training.device import describe, peak
from isoloss.training.distributed import Ranks
from isoloss.training.loop import train
from isoloss.training.state import MemberState, stack

NOTICE_S = 2.0
LOCK_TIMEOUT_S = 600.0
"""How long a run's previous writer, orphaned by a kill, is given to notice and let go: it may be evaluating."""


@dataclass(frozen=True)
class _Job:
    """One try at a stack: how it is trained, and what becomes of its runs, by their ids."""

    context: TrainingContext
    emit: Emit
    should_stop: Callable[[], bool]
    ranks: Ranks
    recorders: dict[str, RunRecorder] = field(default_factory=dict[str, RunRecorder])
    settled: set[str] = field(default_factory=set[str])
    """Those that failed alone, or had ended."""

    def leaves(self, config: RunConfig) -> bool:
        """Whether a run neither ended nor failed."""
        recorder = self.recorders.get(run_id(config))
        return run_id(config) not in self.settled and (recorder is None or not recorder.ended)


def train_stack(
    context: TrainingContext,
    configs: Stack,
    emit: Emit = lambda event: None,
    should_stop: Callable[[], bool] = lambda: False,
    ranks: Ranks | None = None,
) -> None:
    """Train runs to their ends, or until told to stop; each leaves its files and a status.

    What goes wrong fails these runs with their reason, and is no exception of the caller's; a run that cannot be had
    fails alone. A stack for which the memory is too small is split in two.
    """
    job = _Job(context, emit, should_stop, ranks or Ranks())
    failure = _attempt(job, configs)
    if failure is None:
        return
    if job.ranks.world > 1:
        raise failure
    left = tuple(filter(job.leaves, configs))
    if len(left) > 1 and _out_of_memory(failure):
        gc.collect()
        if context.device.type == "cuda":
            torch.cuda.empty_cache()
        half = (len(left) + 1) // 2
        note = f"not enough memory for {len(configs)} runs in one stack: going on with at most {half}"
        emit(Event(run_id(left[0]), "running", 0, reason=note))
        for part in (left[:half], left[half:]):
            train_stack(context, part, emit, should_stop)
    else:
        for config in left:
            _fail(job, config, failure)


def _attempt(job: _Job, configs: Stack) -> Exception | None:
    """Train under the runs' locks; what went wrong, after letting go of the runs' files."""
    with ExitStack() as held:
        try:
            tokens = open_tokens(job.context.tokens_folder)
            for found in _together(job, _found(job, configs, held)):
                _train_alike(job, found, tokens)
        except Exception as error:
            for recorder in job.recorders.values():
                recorder.abandon()
            return error
    return None


@contextmanager
def _alone(job: _Job, config: RunConfig) -> Iterator[None]:
    """What goes wrong with one run's files fails that run and no other, but where several ranks train it."""
    try:
        yield
    except IsolossError as error:
        if job.ranks.world > 1:
            raise
        _fail(job, config, error)


def _found(job: _Job, configs: Stack, held: ExitStack) -> list[Begun]:
    """The runs as they were left, their locks held; none when told to stop while waiting for a lock.

    One that has ended after all, by its previous writer, or that could not be read when the stack was planned, is left
    as it is.
    """
    found: list[Begun] = []
    for config in configs:
        run = job.context.study.run(run_id(config))
        with _alone(job, config):
            claimed = job.ranks.rank > 0 or _claimed(job, run, held)
            if job.ranks.any(not claimed):
                for waiting in filter(job.leaves, configs):
                    record_state(job.context.study.run(run_id(waiting)), "pending", "stopped before it went on")
                    job.emit(Event(run_id(waiting), "stopped", 0))
                return []
            if job.ranks.world == 1 and (ended := _ended(run)):
                job.settled.add(run_id(config))
                job.emit(Event(run_id(config), ended, config.max_iters, reason="it had ended"))
            else:
                found.append(begun(run, config, job.emit))
    return found


def _ended(run: RunPaths) -> Literal["done", "diverged"] | None:
    """How a run ended, if it did and its files are whole. Raises UnreadableError."""
    try:
        state = whole_status(run).state
    except UnreadableError:
        raise
    except StoreError:
        return None
    return state if state == "done" or state == "diverged" else None


def _together(job: _Job, found: Sequence[Begun]) -> list[list[Begun]]:
    """The runs of a stack grouped by their steps: one group, but for damaged checkpoints.

    Those ahead of others, because a kill came between their checkpoints, go back to where all of them were.
    """
    earliest = min((one.step for one in found), default=0)
    alike: dict[int, list[Begun]] = {}
    for one in found:
        with _alone(job, one.state.config):
            kept = back_at(job.context.study.run(run_id(one.state.config)), one, earliest)
            alike.setdefault(kept.step, []).append(kept)
    return list(alike.values())


def _claimed(job: _Job, run: RunPaths, held: ExitStack) -> bool:
    """Hold a run's lock; who has to wait for it says so. False when told to stop meanwhile. Raises InUseError."""
    in_use, until = f"{run.folder} is being written by another process", time.monotonic() + LOCK_TIMEOUT_S
    told = False
    while True:
        try:
            held.enter_context(locked(run.lock, NOTICE_S, lambda: in_use))
            return True
        except InUseError:
            if job.should_stop():
                return False
            if time.monotonic() > until:
                raise
        if not told:
            job.emit(Event(run.folder.name, "running", 0, reason=f"{in_use}: waiting for it to let go"))
            told = True


def _out_of_memory(failure: BaseException | None) -> bool:
    """Whether a failure is, or came of, a lack of memory; lets go of the tensors that its frames hold."""
    found = False
    while failure is not None:
        failure.__traceback__ = None
        found = found or isinstance(failure, torch.OutOfMemoryError)
        failure = failure.__cause__ or failure.__context__
    return found


def _train_alike(job: _Job, found: Sequence[Begun], tokens: Tokens) -> None:
    context, ranks = job.context, job.ranks
    precision = found[0].state.config.precision
    ranks.barrier()
    kernels = context.kernels(precision)
    if ranks.rank:
        stacked = stack([one.state for one in found], context.device, kernels)
        train(stacked, tokens, lambda config: NullObserver(), ranks=ranks, should_stop=job.should_stop)
        return
    now = context.numerics(precision)
    layout = {"stack_width": len(found), "ranks": ranks.world, "kernels": kernels.name}
    measured = {"peak": asdict(peak(context.device, precision, context.threads))}
    provenance = {**describe(context.device).as_dict(), **layout, **measured}
    stacked_with = [run_id(one.state.config) for one in found]
    states: list[MemberState] = []
    for run, one in zip(stacked_with, found, strict=True):
        kept = {NUMERICS: continued(one.numerics, one.step, now)}
        kept |= {CONTINUES: one.continues} if one.continues else {}
        with _alone(job, one.state.config):
            job.recorders[run] = _open_recorder(job, one, {**provenance, **kept}, {**kept, STACKED_WITH: stacked_with})
            states.append(one.state)
    if not states:
        return
    stopped = train(
        stack(states, context.device, kernels),  # no name here, so that what leaves the stack leaves the memory
        tokens,
        lambda config: job.recorders[run_id(config)],
        ranks=ranks,
        should_stop=job.should_stop,
        heartbeat=lambda config, step: job.recorders[run_id(config)].heartbeat(step),
    )
    if stopped is not None:
        for config, progress in zip(stopped.members, stopped.progress, strict=True):
            recorder = job.recorders[run_id(config)]
            recorder.close()
            recorder.status("pending", progress, f"stopped at step {progress.step}; the same command continues")
            job.emit(Event(run_id(config), "stopped", progress.step))


def _open_recorder(job: _Job, found: Begun, provenance: Mapping[str, Any], metadata: Mapping[str, Any]) -> RunRecorder:
    """Bring a run's rows back to where its state is, and open it for writing."""
    state, progress = found.state, found.state.progress
    paths = job.context.study.run(run_id(state.config))
    create_run(paths, state.config)
    remove_leftovers(paths.folder)
    with writing(paths.samples):
        paths.samples.unlink(missing_ok=True)  # of what the run was before
    if progress.step:
        checkpoint.promote_best(paths.folder, state)
    recorder = RunRecorder(paths, state.config, provenance, metadata, job.emit, found.rows)
    recorder.status("running", progress, "")
    job.emit(Event(run_id(state.config), "running", progress.step))
    return recorder


def _fail(job: _Job, config: RunConfig, error: BaseException) -> None:
    reason = f"{type(error).__name__}: {str(error).splitlines()[0] if str(error) else 'no message'}"
    job.settled.add(run_id(config))
    record_state(job.context.study.run(run_id(config)), "failed", reason)
    job.emit(Event(run_id(config), "failed", 0, reason=reason))


def record_state(paths: RunPaths, state: Literal["failed", "pending"], reason: str) -> None:
    """Say how a run was left, as far as the disk allows.

    Not of one that ended, that another process writes, or whose status cannot be read.
    """
    with suppress(StoreError), locked(paths.lock, 0, lambda: ""):
        before = read_status(paths)
        if before.state in ("pending", "running", "failed"):
            write_status(paths, replace(before, state=state, reason=reason))
