"""Local worker processes: one single-threaded process a core, each living as long as the study.

A worker that dies or falls silent takes only its runs with it: each is tried once more, alone and from its last
checkpoint, and then set aside as failed.
"""

from __future__ import annotations

import multiprocessing
import signal
import time
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, replace
from multiprocessing import resource_tracker
from multiprocessing.connection import Connection, wait
from multiprocessing.process import BaseProcess
from typing import cast

import torch

from isoloss.errors import StoreError
from isoloss.execution.plan import Stack
from isoloss.execution.worker import Emit, Event, Workplace, train_stack, write_failed
from isoloss.spec.identity import run_id
from isoloss.store.run import read_status, write_status
from isoloss.training.backend import keep_freed_memory

POLL_S = 0.2
STOP_TIMEOUT_S = 8.0
STOPPED_LATE = "stopped on the way to its next checkpoint; the same command continues from the last"
SILENCE_S = 900.0
"""A worker that says nothing for so long hangs: it tells of its steps every two seconds, between evaluations."""


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

    def run(self, stacks: Sequence[Stack], place: Workplace, emit: Emit, should_stop: Callable[[], bool]) -> None:
        """Hand out the stacks in order, the next one to whoever is free."""
        waiting = deque(stacks)
        tried: set[str] = set()
        pool: list[_Worker] = []
        try:
            pool += [_start(place) for _ in range(min(self.workers, len(stacks)))]
            while not should_stop():
                for index, worker in enumerate(pool):
                    if worker.stack is not None and time.monotonic() - worker.heard > SILENCE_S:
                        worker.process.kill()
                        worker.process.join()
                    if not worker.process.is_alive():
                        waiting.extend(_bury(worker, place, emit, tried))
                        pool[index] = worker = _start(place) if waiting else worker
                    if worker.stack is None and waiting and worker.process.is_alive():
                        worker.stack, worker.heard = waiting.popleft(), time.monotonic()
                        _tell(worker.pipe, worker.stack)
                if not waiting and all(worker.stack is None for worker in pool):
                    break
                _listen(pool, emit)
            _stop(pool, place, emit)
        finally:
            for worker in pool:
                worker.process.kill()
                worker.process.join()
                worker.pipe.close()


def _start(place: Workplace) -> _Worker:
    context = multiprocessing.get_context("spawn")
    ours, theirs = context.Pipe()
    process = context.Process(target=_work, args=(theirs, place), daemon=True)
    with _signals_held_back():
        process.start()
    theirs.close()
    return _Worker(process, ours)


@contextmanager
def _signals_held_back() -> Iterator[None]:
    """Start a process with SIGINT and SIGTERM blocked: a Ctrl-C is the coordinator's to hear, from the first moment."""
    if not hasattr(signal, "pthread_sigmask"):
        yield
        return
    resource_tracker.ensure_running()  # else the first start would start it, and unblock both on the way
    before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT, signal.SIGTERM})
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


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
        if event is None:
            busy[ready].stack = None
        else:
            emit(event)


def _bury(worker: _Worker, place: Workplace, emit: Emit, tried: set[str]) -> list[Stack]:
    """A worker died: what of its runs to try once more, each alone. Those in `tried` have failed."""
    if worker.stack is None:
        return []
    while _pending(worker.pipe):
        try:
            event = cast("Event | None", worker.pipe.recv())
        except (EOFError, ConnectionResetError):
            break
        if event is None:
            worker.stack = None
            return []
        emit(event)
    worker.process.join()
    again: list[Stack] = []
    for config in worker.stack:
        run, paths = run_id(config), place.study.run(run_id(config))
        if read_status(paths).state in ("done", "diverged"):
            continue
        if run not in tried:
            tried.add(run)
            again.append((config,))
            emit(Event(run, "running", 0, reason=f"{_death(worker)}; it is tried once more"))
            continue
        write_failed(paths, _death(worker))
        emit(Event(run, "failed", 0, reason=_death(worker)))
    worker.stack = None
    return again


def _death(worker: _Worker) -> str:
    code = worker.process.exitcode
    if code == -signal.SIGKILL:
        silent = time.monotonic() - worker.heard > SILENCE_S
        return "its worker process hung" if silent else "its worker process was killed (out of memory?)"
    return f"its worker process died with exit code {code}"


def _pending(pipe: Connection) -> bool:
    try:
        return pipe.poll()
    except (BrokenPipeError, OSError):
        return False


def _stop(pool: Sequence[_Worker], place: Workplace, emit: Emit) -> None:
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
        for (config,) in _bury(worker, place, emit, set()):
            paths = place.study.run(run_id(config))
            with suppress(StoreError):
                write_status(paths, replace(read_status(paths), state="pending", reason=STOPPED_LATE))
            emit(Event(run_id(config), "stopped", 0))


def _work(pipe: Connection, place: Workplace) -> None:
    """A worker's life: take a stack, train it, say so; leave when told to or when the coordinator is gone."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    torch.set_num_threads(1)
    keep_freed_memory()
    try:
        while (configs := cast("Stack | None", pipe.recv())) is not None:
            # Whatever arrives while a stack trains, the coordinator's death too, means: save and stop.
            train_stack(place, configs, lambda event: _tell(pipe, event), should_stop=pipe.poll)
            _tell(pipe, None)
    except EOFError:
        return


def _tell(pipe: Connection, message: Event | Stack | None) -> None:
    """Send to the other side. When it is gone there is nobody to tell: each side notices the other's end by itself."""
    with suppress(BrokenPipeError, ConnectionResetError):
        pipe.send(message)
