"""Local worker processes: a pool of single-threaded processes, one a core, that live as long as the study.

The runs of a worker that exits or hangs are retried: once together from their last checkpoints, then each alone, and
then recorded as failed.
"""

from __future__ import annotations

import multiprocessing
import os
import signal
import sys
import time
from collections import Counter, deque
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from multiprocessing import resource_tracker
from multiprocessing.connection import Connection, wait
from multiprocessing.process import BaseProcess
from typing import cast

import torch

from isoloss.errors import DeviceLostError, StoreError
from isoloss.execution.context import TrainingContext
from isoloss.execution.interrupts import block_signals
from isoloss.execution.plan import Stack
from isoloss.execution.recorder import ENDED, Emit, Event
from isoloss.execution.worker import record_state, train_stack
from isoloss.store.run import FINISHED, read_status
from isoloss.study.identity import run_id
from isoloss.study.plugins import use_plugin
from isoloss.training.backend import keep_freed_memory

THREADS_PER_WORKER = 1
POLL_INTERVAL_S = 0.2
STOP_TIMEOUT_S = 8.0
SAFE_PATH_VARIABLE = "PYTHONSAFEPATH"
STOPPED_AFTER_CHECKPOINT = "stopped after its last checkpoint, from which the same command continues"
SILENCE_TIMEOUT_S = 900.0
"""A worker that sends nothing for so long hangs: steps and evaluations send an event or a heartbeat every 2 s."""
MAX_ROUND_S = 5.0
"""A coordinator whose round takes longer was itself suspended, by Ctrl-Z for instance, and received nothing."""


@dataclass
class _Worker:
    process: BaseProcess
    pipe: Connection
    stack: Stack | None = None
    last_message_s: float = 0.0
    """When it last sent something, by the monotonic clock."""


@dataclass(frozen=True)
class Processes:
    """Trains each stack in a worker process of its own, `workers` at a time."""

    workers: int

    @property
    def threads(self) -> int:
        """One a worker."""
        return THREADS_PER_WORKER

    def run(
        self, stacks: Sequence[Stack], context: TrainingContext, emit: Emit, should_stop: Callable[[], bool]
    ) -> None:
        """Give the stacks in order to workers that are idle."""
        waiting = deque(stacks)
        exits: Counter[str] = Counter()
        pool: list[_Worker] = []
        try:
            began = time.monotonic()
            while not should_stop():
                began = _discount_suspension(pool, began)
                _kill_silent(pool, began)
                for worker in [worker for worker in pool if not worker.process.is_alive()]:
                    pool.remove(worker)
                    waiting.extend(_handle_worker_exit(worker, context, emit, exits))
                    worker.pipe.close()
                busy = sum(worker.stack is not None for worker in pool)
                if not waiting and not busy:
                    break
                _start_workers(pool, min(self.workers, busy + len(waiting)), context)
                for worker in pool:
                    if worker.stack is None and waiting:
                        worker.stack, worker.last_message_s = waiting.popleft(), time.monotonic()
                        _send(worker.pipe, worker.stack)
                _receive_events(pool, emit)
            _stop_workers(pool, context, emit)
        finally:
            for worker in pool:
                worker.process.kill()
                worker.process.join()
                worker.pipe.close()


def _start_workers(pool: list[_Worker], size: int, context: TrainingContext) -> None:
    """Start workers up to `size`, or as many as the system allows. Raises StoreError when it allows none."""
    try:
        while len(pool) < size:
            pool.append(_start_worker(context))
    except OSError as error:
        if not pool:
            reason = error.strerror or error
            raise StoreError(f"cannot start a worker process: {reason}; the same command continues") from error


def _start_worker(context: TrainingContext) -> _Worker:
    spawn = multiprocessing.get_context("spawn")
    ours, theirs = spawn.Pipe()
    process = spawn.Process(target=_worker_main, args=(theirs, context), daemon=True)
    try:
        with _safe_path(), _without_main_module():
            if hasattr(signal, "pthread_sigmask"):
                resource_tracker.ensure_running()  # else process.start() would, and unblock the signals
            with block_signals():  # a Ctrl-C is for the coordinator alone
                process.start()
    except OSError:
        ours.close()
        raise
    finally:
        theirs.close()
    return _Worker(process, ours)


def _kill_silent(pool: Sequence[_Worker], now: float) -> None:
    """Kill workers that have a stack and hang; a later round handles their exit."""
    for worker in pool:
        if worker.stack is not None and now - worker.last_message_s > SILENCE_TIMEOUT_S:
            worker.process.kill()


@contextmanager
def _safe_path() -> Iterator[None]:
    """Processes started meanwhile import nothing from the working directory, whose files may be untrusted.

    `python -c`, by which multiprocessing starts them, would look there first; then they get this process's sys.path.
    """
    before = os.environ.get(SAFE_PATH_VARIABLE)
    os.environ[SAFE_PATH_VARIABLE] = "1"
    try:
        yield
    finally:
        del os.environ[SAFE_PATH_VARIABLE]
        if before is not None:
            os.environ[SAFE_PATH_VARIABLE] = before


@contextmanager
def _without_main_module() -> Iterator[None]:
    """Processes started meanwhile do not run the caller's main module, as multiprocessing would have them do.

    A script without `if __name__ == "__main__":` would start its study again in every worker; one that is read from
    standard input, as in `python - <<EOF`, has no file that a worker could run.
    """
    main = sys.modules["__main__"].__dict__
    hidden = {name: main.pop(name) for name in ("__file__", "__spec__") if name in main}
    main["__spec__"] = None
    try:
        yield
    finally:
        main.pop("__spec__")
        main.update(hidden)


def _discount_suspension(pool: Sequence[_Worker], began: float) -> float:
    """Return the start of the next round; a round's time beyond MAX_ROUND_S does not count as silence of a worker.

    A Ctrl-Z suspends the workers together with the coordinator.
    """
    now = time.monotonic()
    for worker in pool:
        worker.last_message_s = min(now, worker.last_message_s + max(0.0, now - began - MAX_ROUND_S))
    return now


def _receive_events(pool: Sequence[_Worker], emit: Emit) -> None:
    """Pass on the events that workers send; None means that a worker's stack has ended."""
    busy = {worker.pipe: worker for worker in pool if worker.stack is not None and worker.process.is_alive()}
    for ready in wait([*busy, *(worker.process.sentinel for worker in busy.values())], timeout=POLL_INTERVAL_S):
        if not isinstance(ready, Connection):
            continue
        try:
            event = cast("Event | None", ready.recv())
        except (EOFError, ConnectionResetError):
            continue  # its process has exited: the next round handles it
        busy[ready].last_message_s = time.monotonic()
        _handle_event(busy[ready], event, emit)


def _handle_event(worker: _Worker, event: Event | None, emit: Emit) -> None:
    """Pass on an event; a run that has ended leaves the worker's stack."""
    if event is None:
        worker.stack = None
        return
    if event.kind in ENDED and worker.stack is not None:
        worker.stack = tuple(config for config in worker.stack if run_id(config) != event.run_id)
    emit(event)


def _drain_events(worker: _Worker, context: TrainingContext, emit: Emit) -> Stack:
    """Pass on the events still in the pipe of a worker that exited; return its unfinished runs."""
    while worker.stack and _has_message(worker.pipe):
        try:
            _handle_event(worker, cast("Event | None", worker.pipe.recv()), emit)
        except (EOFError, ConnectionResetError):
            break
    worker.process.join()
    unfinished, worker.stack = worker.stack or (), None
    return tuple(c for c in unfinished if read_status(context.study.run(run_id(c))).state not in FINISHED)


def _handle_worker_exit(worker: _Worker, context: TrainingContext, emit: Emit, exits: Counter[str]) -> list[Stack]:
    """The stacks to retry after a worker's exit: its runs together, next time each alone; a lone run then fails."""
    unfinished = _drain_events(worker, context, emit)
    exits.update(map(run_id, unfinished))
    retries: list[Stack] = []
    if any(exits[run_id(config)] == 1 for config in unfinished):
        retries = [unfinished]  # together: roundings depend on the stack
    elif len(unfinished) > 1:
        retries = [(config,) for config in unfinished]
    for config in unfinished:
        if retries:
            emit(Event(run_id(config), "running", 0, reason=f"{_exit_reason(worker)}; it is retried"))
        else:
            record_state(context.study.run(run_id(config)), "failed", _exit_reason(worker))
            emit(Event(run_id(config), "failed", 0, reason=_exit_reason(worker)))
    return retries


def _exit_reason(worker: _Worker) -> str:
    code = worker.process.exitcode
    if code == -getattr(signal, "SIGKILL", 9):  # which Windows lacks
        silent = time.monotonic() - worker.last_message_s > SILENCE_TIMEOUT_S
        return "its worker process hung" if silent else "its worker process was killed (out of memory?)"
    if code is not None and code < 0:
        return f"its worker process crashed: {signal.strsignal(-code)}"
    return f"its worker process exited with code {code}"


def _has_message(pipe: Connection) -> bool:
    try:
        return pipe.poll()
    except (BrokenPipeError, OSError):
        return False


def _stop_workers(pool: Sequence[_Worker], context: TrainingContext, emit: Emit) -> None:
    """Ask every worker to save and exit; one that takes longer than STOP_TIMEOUT_S is killed, its checkpoint stays."""
    deadline = time.monotonic() + STOP_TIMEOUT_S
    for worker in pool:
        if worker.process.is_alive():
            _send(worker.pipe, None)
    while time.monotonic() < deadline and any(w.stack is not None and w.process.is_alive() for w in pool):
        _receive_events(pool, emit)
    for worker in pool:
        worker.process.join(max(0.0, deadline - time.monotonic()))
        worker.process.kill()
        for config in _drain_events(worker, context, emit):
            record_state(context.study.run(run_id(config)), "pending", STOPPED_AFTER_CHECKPOINT)
            emit(Event(run_id(config), "stopped", 0))


def _worker_main(pipe: Connection, context: TrainingContext) -> None:
    """Train stacks as they come; return on None, when the coordinator is gone, or for a new process to go on."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    torch.set_num_threads(THREADS_PER_WORKER)
    keep_freed_memory()
    for plugin in context.plugins:
        use_plugin(plugin)
    try:
        while (configs := cast("Stack | None", pipe.recv())) is not None:
            # A message while a stack trains, or the end of the coordinator, means: save and stop.
            train_stack(context, configs, lambda event: _send(pipe, event), should_stop=pipe.poll)
            _send(pipe, None)
    except (EOFError, ConnectionResetError, DeviceLostError):  # the second when it exits with unread events
        return


def _send(pipe: Connection, message: Event | Stack | None) -> None:
    """Send to the other side, if it still exists: each side notices the other's end by itself."""
    with suppress(BrokenPipeError, ConnectionResetError):
        pipe.send(message)
