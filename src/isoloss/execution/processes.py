"""Local worker processes: a pool of single-threaded processes, one a core or a GPU, that live as long as the study."""

from __future__ import annotations

import signal
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from multiprocessing.connection import Connection, wait
from multiprocessing.process import BaseProcess
from typing import cast

import torch

from isoloss.errors import DeviceLostError
from isoloss.execution.context import TrainingContext
from isoloss.execution.plan import Stack
from isoloss.execution.policy import Transport, Worker, train_stacks
from isoloss.execution.recorder import Emit, Event
from isoloss.execution.scratch import train_placed
from isoloss.execution.worker import THREADS_PER_WORKER, prepare_process
from isoloss.spawning import SPAWN, spawning


class LocalWorker(Worker):
    """A process of this machine, at the other end of a pipe."""

    def __init__(self, process: BaseProcess, pipe: Connection, device: torch.device) -> None:
        super().__init__()
        self.process, self.pipe, self.device = process, pipe, device

    def begin(self, stack: Stack) -> None:
        """Send the stack."""
        _send(self.pipe, stack)

    def ask_to_stop(self) -> None:
        """Any message while a stack trains asks for that."""
        _send(self.pipe, None)

    def kill(self) -> None:
        """SIGKILL, or what Windows has in its place."""
        self.process.kill()

    def is_alive(self) -> bool:
        """Whether the process has not exited."""
        return self.process.is_alive()

    def received(self) -> Iterator[Event | None]:
        """What is in the pipe."""
        with suppress(EOFError, OSError):  # its process has exited
            while self.pipe.poll():
                yield cast("Event | None", self.pipe.recv())

    def end(self) -> str:
        """By the process's exit code."""
        code = self.process.exitcode
        if code == -getattr(signal, "SIGKILL", 9):  # which Windows lacks
            return "was killed (out of memory?)"
        if code is not None and code < 0:
            return f"crashed: {signal.strsignal(-code)}"
        return f"exited with code {code}"

    def finish(self, timeout_s: float = 0.0) -> None:
        """Kill what has not exited by then; the pipe is closed with this object."""
        self.process.join(timeout_s)
        self.process.kill()
        self.process.join()


@dataclass(frozen=True)
class Processes(Transport):
    """Trains each stack in a worker process of its own, `workers` at a time.

    Each worker has one of the `devices` to itself, where there are some.
    """

    workers: int
    devices: Sequence[torch.device] = ()
    name = "processes"

    @property
    def threads(self) -> int:
        """One a worker."""
        return THREADS_PER_WORKER

    def run(
        self, stacks: Sequence[Stack], context: TrainingContext, emit: Emit, should_stop: Callable[[], bool]
    ) -> None:
        """Train the stacks by the policy."""
        train_stacks(self, stacks, context, emit, should_stop)

    def start(self, context: TrainingContext, pool: Sequence[Worker]) -> Worker:
        """Start a process, on a device that no other has. Raises OSError."""
        taken = {worker.device for worker in pool if isinstance(worker, LocalWorker)}
        device = next((device for device in self.devices if device not in taken), context.device)
        return _start_worker(replace(context, device=device))

    def wait(self, pool: Sequence[Worker], timeout_s: float) -> None:
        """Wait for a message or an exit."""
        local = [worker for worker in pool if isinstance(worker, LocalWorker)]
        wait([*(w.pipe for w in local), *(w.process.sentinel for w in local)], timeout=timeout_s)


def _start_worker(context: TrainingContext) -> LocalWorker:
    ours, theirs = SPAWN.Pipe()
    process = SPAWN.Process(target=_worker_main, args=(theirs, context), daemon=True)
    try:
        with spawning():
            process.start()
    except OSError:
        ours.close()
        raise
    finally:
        theirs.close()
    return LocalWorker(process, ours, context.device)


def _worker_main(pipe: Connection, context: TrainingContext) -> None:
    """Train stacks as they come; return on None, when the coordinator is gone, or for a new process to go on."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    prepare_process(context)
    try:
        while (configs := cast("Stack | None", pipe.recv())) is not None:
            # A message while a stack trains, or the end of the coordinator, means: save and stop.
            train_placed(context, configs, lambda event: _send(pipe, event), should_stop=pipe.poll)
            _send(pipe, None)
    except (EOFError, ConnectionResetError, DeviceLostError):  # the second when it exits with unread events
        return


def _send(pipe: Connection, message: Event | Stack | None) -> None:
    """Send to the other side, if it still exists: each side notices the other's end by itself."""
    with suppress(BrokenPipeError, ConnectionResetError):
        pipe.send(message)
