"""Local worker processes: one single-threaded process a core, each living as long as the study.

A worker that dies or falls silent takes only its runs with it: they are tried once more, together from their last
checkpoints, then each alone, and then set aside as failed.
"""

from __future__ import annotations

import multiprocessing
import os
import signal
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

from isoloss.errors import StoreError
from isoloss.execution.context import TrainingContext
from isoloss.execution.interrupts import signals_held_back
from isoloss.execution.plan import Stack
from isoloss.execution.recorder import ENDED, Emit, Event
from isoloss.execution.worker import record_state, train_stack
from isoloss.spec.identity import run_id
from isoloss.store.run import read_status
from isoloss.training.backend import keep_freed_memory

THREADS = 1
POLL_S = 0.2
STOP_TIMEOUT_S = 8.0
SAFE_PATH = "PYTHONSAFEPATH"
STOPPED_LATE = "stopped on the way to its next checkpoint; the same command continues from the last"
SILENCE_S = 900.0
"""A worker that says nothing for so long hangs: every two seconds it tells of its steps, or that it evaluates."""
ROUND_S = 5.0
"""A coordinator whose round takes longer was itself stopped, by Ctrl-Z for instance, and could hear nobody."""


@dataclass
class _Worker:
    process: BaseProcess
    pipe: Connection
    stack: Stack | None = None
    heard: float = 0.0
    """When it last said something, by a clock that nobody sets."""


@dataclass(frozen=True)
class Processes:
    """Trains each stack in a worker process of its own, `workers` at a time."""

    workers: int

    @property
    def threads(self) -> int:
        """One, whatever the machine has."""
        return THREADS

    def run(
        self, stacks: Sequence[Stack], context: TrainingContext, emit: Emit, should_stop: Callable[[], bool]
    ) -> None:
        """Hand out the stacks in order, the next one to whoever is free."""
        waiting = deque(stacks)
        deaths: Counter[str] = Counter()
        pool: list[_Worker] = []
        try:
            began = time.monotonic()
            while not should_stop():
                began = _excused(pool, began)
                _kill_silent(pool, began)
                for worker in [worker for worker in pool if not worker.process.is_alive()]:
                    pool.remove(worker)
                    waiting.extend(_bury(worker, context, emit, deaths))
                    worker.pipe.close()
                busy = sum(worker.stack is not None for worker in pool)
                if not waiting and not busy:
                    break
                _fill(pool, min(self.workers, busy + len(waiting)), context)
                for worker in pool:
                    if worker.stack is None and waiting:
                        worker.stack, worker.heard = waiting.popleft(), time.monotonic()
                        _tell(worker.pipe, worker.stack)
                _listen(pool, emit)
            _stop(pool, context, emit)
        finally:
            for worker in pool:
                worker.process.kill()
                worker.process.join()
                worker.pipe.close()


def _fill(pool: list[_Worker], size: int, context: TrainingContext) -> None:
    """Start workers until there are so many or the system gives no more. Raises StoreError where there are none."""
    try:
        while len(pool) < size:
            pool.append(_start(context))
    except OSError as error:
        if not pool:
            reason = error.strerror or error
            raise StoreError(f"cannot start a worker process: {reason}; the same command continues") from error


def _start(context: TrainingContext) -> _Worker:
    spawn = multiprocessing.get_context("spawn")
    ours, theirs = spawn.Pipe()
    process = spawn.Process(target=_work, args=(theirs, context), daemon=True)
    try:
        with _safe_path():
            if hasattr(signal, "pthread_sigmask"):
                resource_tracker.ensure_running()  # else the start would, and let the signals through on the way
            with signals_held_back():  # a Ctrl-C is the coordinator's to hear, from the first moment
                process.start()
    except OSError:
        ours.close()
        raise
    finally:
        theirs.close()
    return _Worker(process, ours)


def _kill_silent(pool: Sequence[_Worker], now: float) -> None:
    """Kill workers that have a stack and have said nothing for too long; a later round finds them dead."""
    for worker in pool:
        if worker.stack is not None and now - worker.heard > SILENCE_S:
            worker.process.kill()


@contextmanager
def _safe_path() -> Iterator[None]:
    """Processes started meanwhile import nothing from the folder they are started in, which may be a stranger's.

    `python -c`, by which multiprocessing starts them, would look there first; then it hands them our own sys.path.
    """
    before = os.environ.get(SAFE_PATH)
    os.environ[SAFE_PATH] = "1"
    try:
        yield
    finally:
        del os.environ[SAFE_PATH]
        if before is not None:
            os.environ[SAFE_PATH] = before


def _excused(pool: Sequence[_Worker], began: float) -> float:
    """End a round and return when the next one begins. What it took beyond ROUND_S is not held against any worker.

    Those that a Ctrl-Z stopped together with the coordinator had nothing to say meanwhile.
    """
    now = time.monotonic()
    for worker in pool:
        worker.heard = min(now, worker.heard + max(0.0, now - began - ROUND_S))
    return now


def _listen(pool: Sequence[_Worker], emit: Emit) -> None:
    """Pass on what workers say; None from a worker means that its stack has ended."""
    busy = {worker.pipe: worker for worker in pool if worker.stack is not None and worker.process.is_alive()}
    for ready in wait([*busy, *(worker.process.sentinel for worker in busy.values())], timeout=POLL_S):
        if not isinstance(ready, Connection):
            continue
        try:
            event = cast("Event | None", ready.recv())
        except (EOFError, ConnectionResetError):
            continue  # its process has died: the next round buries it
        busy[ready].heard = time.monotonic()
        _hear(busy[ready], event, emit)


def _hear(worker: _Worker, event: Event | None, emit: Emit) -> None:
    """Pass on an event; a run that has ended is no longer of the worker's stack."""
    if event is None:
        worker.stack = None
        return
    if event.kind in ENDED and worker.stack is not None:
        worker.stack = tuple(config for config in worker.stack if run_id(config) != event.run_id)
    emit(event)


def _last_words(worker: _Worker, context: TrainingContext, emit: Emit) -> Stack:
    """Pass on what a dead worker still said, and what it leaves undone."""
    while worker.stack and _pending(worker.pipe):
        try:
            _hear(worker, cast("Event | None", worker.pipe.recv()), emit)
        except (EOFError, ConnectionResetError):
            break
    worker.process.join()
    left, worker.stack = worker.stack or (), None
    return tuple(c for c in left if read_status(context.study.run(run_id(c))).state not in ("done", "diverged"))


def _bury(worker: _Worker, context: TrainingContext, emit: Emit, deaths: Counter[str]) -> list[Stack]:
    """A worker died: what of its runs to try once more, together, then each alone. A lone run's second death is it."""
    left = _last_words(worker, context, emit)
    deaths.update(map(run_id, left))
    again: list[Stack] = []
    if any(deaths[run_id(config)] == 1 for config in left):
        again = [left]  # together, so that the roundings are those of a worker that lived
    elif len(left) > 1:
        again = [(config,) for config in left]
    for config in left:
        if again:
            emit(Event(run_id(config), "running", 0, reason=f"{_death(worker)}; it is tried once more"))
        else:
            record_state(context.study.run(run_id(config)), "failed", _death(worker))
            emit(Event(run_id(config), "failed", 0, reason=_death(worker)))
    return again


def _death(worker: _Worker) -> str:
    code = worker.process.exitcode
    if code == -signal.SIGKILL:
        silent = time.monotonic() - worker.heard > SILENCE_S
        return "its worker process hung" if silent else "its worker process was killed (out of memory?)"
    if code is not None and code < 0:
        return f"its worker process crashed: {signal.strsignal(-code)}"
    return f"its worker process died with exit code {code}"


def _pending(pipe: Connection) -> bool:
    try:
        return pipe.poll()
    except (BrokenPipeError, OSError):
        return False


def _stop(pool: Sequence[_Worker], context: TrainingContext, emit: Emit) -> None:
    """Ask every worker to save and leave, and hear its last words; who takes too long goes on from its checkpoint."""
    deadline = time.monotonic() + STOP_TIMEOUT_S
    for worker in pool:
        if worker.process.is_alive():
            _tell(worker.pipe, None)
    while time.monotonic() < deadline and any(w.stack is not None and w.process.is_alive() for w in pool):
        _listen(pool, emit)
    for worker in pool:
        worker.process.join(max(0.0, deadline - time.monotonic()))
        worker.process.kill()
        for config in _last_words(worker, context, emit):
            record_state(context.study.run(run_id(config)), "pending", STOPPED_LATE)
            emit(Event(run_id(config), "stopped", 0))


def _work(pipe: Connection, context: TrainingContext) -> None:
    """A worker's life: take a stack, train it, say so; leave when told to or when the coordinator is gone."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    torch.set_num_threads(THREADS)
    keep_freed_memory()
    try:
        while (configs := cast("Stack | None", pipe.recv())) is not None:
            # Whatever arrives while a stack trains, the coordinator's death too, means: save and stop.
            train_stack(context, configs, lambda event: _tell(pipe, event), should_stop=pipe.poll)
            _tell(pipe, None)
    except (EOFError, ConnectionResetError):  # the latter where it died with our words unread
        return


def _tell(pipe: Connection, message: Event | Stack | None) -> None:
    """Send to the other side. When it is gone there is nobody to tell: each side notices the other's end by itself."""
    with suppress(BrokenPipeError, ConnectionResetError):
        pipe.send(message)
