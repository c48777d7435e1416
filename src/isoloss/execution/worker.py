"""Train one stack into the study directory, from the checkpoints of its runs."""

from __future__ import annotations

import gc
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import asdict, dataclass, field, replace
from platform import node
from typing import Any, Literal

import torch

from isoloss.data.token_files import Tokens, open_tokens
from isoloss.errors import DeviceLostError, InUseError, IsolossError, StoreError, UnreadableError
from isoloss.execution.context import TrainingContext
from isoloss.execution.first_evaluation import taking_over
from isoloss.execution.plan import STACKED_WITH, Stack
from isoloss.execution.recorder import Emit, Event, NullObserver, RunRecorder
from isoloss.execution.resuming import (
    StartingPoint,
    extend_numerics,
    refuse_changed_numerics,
    starting_point,
    step_back_to,
)
from isoloss.files import path_exists, remove_temporary_files, writing
from isoloss.locks import locked
from isoloss.store.layout import RunPaths
from isoloss.store.moving import finish_moving
from isoloss.store.records import EXECUTOR, NODE, NUMERICS, PROGRAM, SHUFFLED
from isoloss.store.run import create_run, read_status, whole_status, write_status
from isoloss.study.config import RunConfig
from isoloss.study.datasets import dataset_of
from isoloss.study.identity import run_id
from isoloss.study.plugins import use_plugin
from isoloss.training import checkpoint
from isoloss.training.backend import keep_freed_memory
from isoloss.training.device import describe, is_lost, is_out_of_memory, peak
from isoloss.training.distributed import Ranks
from isoloss.training.loop import train
from isoloss.training.state import MemberState, stack
from isoloss.wording import counted

THREADS_PER_WORKER = 1
LOCK_POLL_INTERVAL_S = 2.0
"""Between two looks at should_stop() while a lock is awaited."""
LOCK_TIMEOUT_S = 600.0
"""How long to wait for a run's previous writer, orphaned by a kill, to release its lock: it may be evaluating."""


@dataclass(frozen=True)
class _Attempt:
    """One attempt at a stack: where and how it is trained, its recorders by run id."""

    context: TrainingContext
    emit: Emit
    should_stop: Callable[[], bool]
    ranks: Ranks
    recorders: dict[str, RunRecorder] = field(default_factory=dict[str, RunRecorder])
    closed: set[str] = field(default_factory=set[str])
    """Ids of runs that failed alone, or had already ended."""

    def is_unfinished(self, config: RunConfig) -> bool:
        """Whether a run has neither ended nor failed."""
        recorder = self.recorders.get(run_id(config))
        return run_id(config) not in self.closed and (recorder is None or not recorder.ended)


def prepare_process(context: TrainingContext) -> None:
    """Make this process one that trains: on one thread of a CPU, or on its GPU, with the study's own parts."""
    torch.set_num_threads(THREADS_PER_WORKER)
    if context.device.type == "cuda":
        torch.cuda.set_device(context.device)
    keep_freed_memory()
    for plugin in context.plugins:
        use_plugin(plugin)


def train_stack(
    context: TrainingContext,
    configs: Stack,
    emit: Emit = lambda event: None,
    should_stop: Callable[[], bool] = lambda: False,
    ranks: Ranks | None = None,
) -> None:
    """Train runs to their ends, or until should_stop(); the results are their files and statuses.

    An error is recorded as the reason why these runs failed, and not raised; a run whose files cannot be read or locked
    fails alone. A stack that needs more memory than there is is split in two. Raises DeviceLostError, once that is
    recorded, where no other stack can be trained in this process.
    """
    attempt = _Attempt(context, emit, should_stop, ranks or Ranks())
    failure = _train_under_locks(attempt, configs)
    if failure is None:
        return
    if attempt.ranks.world > 1:
        raise failure
    unfinished, lost = tuple(filter(attempt.is_unfinished, configs)), is_lost(context.device)
    if len(unfinished) > 1 and not lost and _out_of_memory(failure):
        gc.collect()
        if context.device.type == "cuda":
            torch.cuda.empty_cache()
        half = (len(unfinished) + 1) // 2
        note = f"not enough memory for {len(configs)} runs in one stack: going on with at most {half}"
        emit(Event(run_id(unfinished[0]), "running", 0, reason=note))
        for part in (unfinished[:half], unfinished[half:]):
            train_stack(context, part, emit, should_stop)
    else:
        for config in unfinished:
            _fail(attempt, config, failure)
    if lost:
        raise DeviceLostError(
            f"{context.device} does no more work for this process: {_first_line(failure)}; "
            f"{counted(len(unfinished), 'run')} failed by it, and the same command trains what is left"
        ) from failure


def _train_under_locks(attempt: _Attempt, configs: Stack) -> Exception | None:
    """Train while holding the runs' locks; return the error, if any, after closing the runs' files."""
    with ExitStack() as held:
        try:
            tokens = _tokens(attempt.context, configs[0])
            if attempt.context.elsewhere and not attempt.context.accept_other_numerics:
                refuse_changed_numerics(attempt.context, configs)
            for starts in _group_by_step(attempt, _starting_points(attempt, configs, held)):
                _train_group(attempt, starts, tokens)
        except Exception as error:
            for recorder in attempt.recorders.values():
                recorder.abandon()
            return error
    return None


def _tokens(context: TrainingContext, config: RunConfig) -> Tokens:
    """The tokens that a run trains on. Raises StoreError where they are not whole, or not on this node of a cluster."""
    folder = context.tokens_folders[dataset_of(config)]
    if context.elsewhere and not path_exists(folder):
        raise StoreError(f"{folder} is not on node {node()}: set ISOLOSS_CACHE to a folder that every node sees")
    return open_tokens(folder)


@contextmanager
def _fail_alone(attempt: _Attempt, config: RunConfig) -> Iterator[None]:
    """An error about one run's files fails that run alone; with several ranks it is raised."""
    try:
        yield
    except IsolossError as error:
        if attempt.ranks.world > 1:
            raise
        _fail(attempt, config, error)


def _starting_points(attempt: _Attempt, configs: Stack, held: ExitStack) -> list[StartingPoint]:
    """What each run starts from, with its lock held; empty when should_stop() turns true while waiting for a lock.

    A run that has ended meanwhile, by its previous writer, or that could not be read when the stack was planned, is
    skipped.
    """
    starts: list[StartingPoint] = []
    for config in configs:
        run = attempt.context.study.run(run_id(config))
        with _fail_alone(attempt, config):
            acquired = attempt.ranks.rank > 0 or acquire_lock(run, held, attempt.emit, attempt.should_stop)
            if attempt.ranks.any(not acquired):
                for waiting in filter(attempt.is_unfinished, configs):
                    record_state(attempt.context.study.run(run_id(waiting)), "pending", "stopped before it continued")
                    attempt.emit(Event(run_id(waiting), "stopped", 0))
                return []
            if attempt.ranks.rank == 0:
                finish_moving(run)
            if attempt.ranks.world == 1 and (ended := _end_state(run)):
                attempt.closed.add(run_id(config))
                attempt.emit(Event(run_id(config), ended, config.max_iters, reason="it had already ended"))
            else:
                now = attempt.context.numerics(config.precision)
                starts.append(taking_over(attempt.context, starting_point(run, config, now, attempt.emit)))
    return starts


def _end_state(run: RunPaths) -> Literal["done", "diverged"] | None:
    """How a run ended, if it did and its files are intact. Raises UnreadableError."""
    try:
        state = whole_status(run).state
    except UnreadableError:
        raise
    except StoreError:
        return None
    return state if state == "done" or state == "diverged" else None


def _group_by_step(attempt: _Attempt, starts: Sequence[StartingPoint]) -> list[list[StartingPoint]]:
    """The runs of a stack grouped by their steps: one group, unless checkpoints are damaged.

    After a kill between their checkpoints some runs are a checkpoint ahead; they go back to the step of the others.
    """
    earliest = min((start.step for start in starts), default=0)
    groups: dict[int, list[StartingPoint]] = {}
    for start in starts:
        with _fail_alone(attempt, start.state.config):
            kept = step_back_to(attempt.context.study.run(run_id(start.state.config)), start, earliest)
            groups.setdefault(kept.step, []).append(kept)
    return list(groups.values())


def acquire_lock(run: RunPaths, held: ExitStack, emit: Emit, should_stop: Callable[[], bool]) -> bool:
    """Acquire a run's lock, with an event when it has to wait; False once should_stop(). Raises InUseError."""
    in_use, until = f"{run.folder} is being written by another process", time.monotonic() + LOCK_TIMEOUT_S
    announced = False
    while True:
        try:
            held.enter_context(locked(run.lock, LOCK_POLL_INTERVAL_S, lambda: in_use, should_stop))
            return True
        except InUseError:
            if should_stop():
                return False
            if time.monotonic() > until:
                raise
        if not announced:
            emit(Event(run.folder.name, "running", 0, reason=f"{in_use}: waiting for its lock"))
            announced = True


def _out_of_memory(failure: BaseException | None) -> bool:
    """Whether an error is, or was caused by, a lack of memory; frees the tensors that its frames hold."""
    found = False
    while failure is not None:
        failure.__traceback__ = None
        found = found or is_out_of_memory(failure)
        failure = failure.__cause__ or failure.__context__
    return found


def _train_group(attempt: _Attempt, starts: Sequence[StartingPoint], tokens: Tokens) -> None:
    context, ranks = attempt.context, attempt.ranks
    precision = starts[0].state.config.precision
    ranks.barrier()
    kernels = context.kernels(precision)
    if ranks.rank:
        stacked = stack([start.state for start in starts], context.device, kernels)
        train(
            stacked,
            tokens,
            lambda config: NullObserver(),
            ranks=ranks,
            should_stop=attempt.should_stop,
            kept_steps=context.kept_at,
        )
        return
    now = context.numerics(precision)
    layout = {"stack_width": len(starts), "ranks": ranks.world, "kernels": kernels.name}
    layout |= {PROGRAM: run_id(starts[0].state.config), SHUFFLED: context.shuffled}
    measured = {"peak": asdict(peak(context.device, precision, context.threads))}
    where = {EXECUTOR: context.executor, NODE: node()}
    provenance = {**describe(context.device).as_dict(), **where, **layout, **measured}
    stacked_with = [run_id(start.state.config) for start in starts]
    states: list[MemberState] = []
    for run, start in zip(stacked_with, starts, strict=True):
        kept = {NUMERICS: extend_numerics(start.numerics, start.step, now)}
        kept |= start.taken_over
        with _fail_alone(attempt, start.state.config):
            recorder = attempt.recorders[run] = _open_recorder(
                attempt, start, {**provenance, **kept}, {**kept, STACKED_WITH: stacked_with}
            )
            row = start.first_evaluation
            states.append(recorder.first_evaluation(start.state, row) if row else start.state)
    if not states:
        return
    stopped = train(
        stack(states, context.device, kernels),  # not bound to a name, so that members that end are freed
        tokens,
        lambda config: attempt.recorders[run_id(config)],
        ranks=ranks,
        should_stop=attempt.should_stop,
        heartbeat=lambda config, step: attempt.recorders[run_id(config)].heartbeat(step),
        kept_steps=context.kept_at,
    )
    if stopped is not None:
        for config, progress in zip(stopped.members, stopped.progress, strict=True):
            recorder = attempt.recorders[run_id(config)]
            recorder.close()
            recorder.status("pending", progress, f"stopped at step {progress.step}; the same command continues")
            attempt.emit(Event(run_id(config), "stopped", progress.step))


def _open_recorder(
    attempt: _Attempt, start: StartingPoint, provenance: Mapping[str, Any], metadata: Mapping[str, Any]
) -> RunRecorder:
    """Cut a run's rows to the step of its state, and open them for writing."""
    state, progress = start.state, start.state.progress
    paths = attempt.context.study.run(run_id(state.config))
    create_run(paths, state.config)
    remove_temporary_files(paths.folder)
    with writing(paths.samples):
        paths.samples.unlink(missing_ok=True)  # they are of the earlier training
    checkpoint.finish_best(paths.folder)
    if progress.step:
        checkpoint.promote_best(paths.folder, state)
    recorder = RunRecorder(paths, state.config, provenance, metadata, attempt.emit, start.rows)
    recorder.status("running", progress, "")
    attempt.emit(Event(run_id(state.config), "running", progress.step))
    return recorder


def _fail(attempt: _Attempt, config: RunConfig, error: BaseException) -> None:
    reason = f"{type(error).__name__}: {_first_line(error)}"
    attempt.closed.add(run_id(config))
    record_state(attempt.context.study.run(run_id(config)), "failed", reason)
    attempt.emit(Event(run_id(config), "failed", 0, reason=reason))


def _first_line(error: BaseException) -> str:
    return str(error).splitlines()[0] if str(error) else "no message"


def record_state(paths: RunPaths, state: Literal["failed", "pending"], reason: str) -> None:
    """Record a run's state in status.json, as far as the disk allows.

    Does nothing for a run that ended, that another process writes, or whose status cannot be read.
    """
    with suppress(StoreError), locked(paths.lock, 0, lambda: ""):
        before = read_status(paths)
        if before.state in ("pending", "running", "failed"):
            write_status(paths, replace(before, state=state, reason=reason))
