"""Ray: stacks as tasks of actors, each with a core or a GPU somewhere in a cluster, whose events are its answers."""

from __future__ import annotations

import signal
import socket
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from queue import SimpleQueue
from typing import Any

import torch

from isoloss.errors import ConfigError
from isoloss.execution.context import TrainingContext
from isoloss.execution.plan import Stack
from isoloss.execution.policy import Transport, Worker, train_stacks
from isoloss.execution.recorder import Emit, Event
from isoloss.execution.scratch import train_placed
from isoloss.execution.worker import THREADS_PER_WORKER, prepare_process

REACH_TIMEOUT_S = 5.0


class Trainer:
    """What an actor is: it trains a stack at a time in a thread, and hears a stop meanwhile."""

    def __init__(self, context: TrainingContext) -> None:
        self._context, self._stopping = context, threading.Event()

    def train(self, stack: Stack) -> Iterator[Event]:
        """Train a stack; what is yielded are its events."""
        events = SimpleQueue[Event | BaseException | None]()

        def work() -> None:
            try:
                prepare_process(self._context)
                train_placed(self._context, stack, events.put, self._stopping.is_set)
                events.put(None)
            except BaseException as error:
                events.put(error)

        threading.Thread(target=work, daemon=True).start()
        while (event := events.get()) is not None:
            if isinstance(event, BaseException):
                raise event
            yield event

    def stop(self) -> None:
        """Ask the thread to save and end."""
        self._stopping.set()


class Actor(Worker):
    """An actor, which may still wait for a place in the cluster."""

    noun = "Ray actor"

    def __init__(self, ray: Any, handle: Any) -> None:
        super().__init__()
        self._ray, self.handle, self.answers, self._ended, self._spoke = ray, handle, None, "", False

    def begin(self, stack: Stack) -> None:
        """Call it."""
        self.answers = self.handle.train.options(num_returns="streaming").remote(stack)

    def ask_to_stop(self) -> None:
        """Call it beside what it trains."""
        self.handle.stop.remote()

    def kill(self) -> None:
        """End its process."""
        self._ray.kill(self.handle)
        self._ended = self._ended or "was killed"

    def is_alive(self) -> bool:
        """Whether it has not been found dead; as long as it has not begun, its silence is that of a queue."""
        if not self._spoke:
            self.heard()
        return not self._ended

    def received(self) -> Iterator[Event | None]:
        """What is there of its answers."""
        while self.answers is not None and self._ray.wait([self.answers], timeout=0)[0]:
            try:
                event = self._ray.get(next(self.answers))
            except StopIteration:
                self.answers = None
                yield None
            except self._ray.exceptions.RayError as error:
                self.answers, self._ended = None, self._ended or f"died: {_reason(error)}"
            else:
                self._spoke = True
                yield event

    def end(self) -> str:
        """By what Ray said."""
        return self._ended

    def finish(self, timeout_s: float = 0.0) -> None:
        """End its process; what ends by itself has been waited for by then."""
        self._ray.kill(self.handle)


class Ray(Transport):
    """Trains each stack in an actor of its own, as many as the cluster has room for, or `at_once`."""

    name, threads = "ray", THREADS_PER_WORKER

    def __init__(self, address: str, at_once: int | None, device: torch.device) -> None:
        """Raises ConfigError where Ray is not installed, not reachable, or has no such device."""
        self._ray = ray_library()
        self._connect(address)
        self._resources = {"num_cpus": 1, "num_gpus": 1 if device.type == "cuda" else 0}
        kind = "GPU" if device.type == "cuda" else "CPU"
        there = int(self._ray.cluster_resources().get(kind, 0))
        if not there:
            raise ConfigError(f"--device {device.type}: this Ray cluster has no {kind}", ("device",))
        self.workers = at_once or there

    def run(
        self, stacks: Sequence[Stack], context: TrainingContext, emit: Emit, should_stop: Callable[[], bool]
    ) -> None:
        """Train the stacks by the policy."""
        train_stacks(self, stacks, context, emit, should_stop)

    def start(self, context: TrainingContext, pool: Sequence[Worker]) -> Worker:
        """An actor, which Ray starts where there is room."""
        mine = replace(context, device=torch.device("cuda:0")) if context.device.type == "cuda" else context
        options = {**self._resources, "max_concurrency": 2, "max_restarts": 0, "max_task_retries": 0}
        return Actor(self._ray, self._ray.remote(Trainer).options(**options).remote(mine))

    def wait(self, pool: Sequence[Worker], timeout_s: float) -> None:
        """Wait for an answer."""
        answers = [worker.answers for worker in pool if isinstance(worker, Actor) and worker.answers is not None]
        if answers:
            self._ray.wait(answers, timeout=timeout_s)

    def _connect(self, address: str) -> None:
        if self._ray.is_initialized():
            return
        host, _, port = address.rpartition(":")
        how: dict[str, Any] = {"log_to_driver": False, "logging_level": "ERROR"}
        how |= {"address": address} if address else {"include_dashboard": False}
        try:
            if host and port.isdecimal() and "/" not in host:
                socket.create_connection((host, int(port)), REACH_TIMEOUT_S).close()  # Ray itself would try for minutes
            with _own_signals():
                self._ray.init(**how, runtime_env={"env_vars": {"PYTHONSAFEPATH": "1"}})
        except (OSError, RuntimeError, ValueError) as error:
            raise ConfigError(
                f"--on ray{':' * bool(address)}{address}: not reachable ({_reason(error)}); `ray start --head` on a "
                "machine starts a cluster and says its address, --on ray alone has one on this machine",
                ("on",),
            ) from error


def ray_library() -> Any:
    """The library, imported. Raises ConfigError without it."""
    try:
        import ray  # pyright: ignore[reportMissingImports]  (an extra)
    except ImportError as error:
        raise ConfigError("--on ray needs Ray: pip install 'isoloss[ray]'", ("on",)) from error
    return ray


@contextmanager
def _own_signals() -> Iterator[None]:
    """Signals are handled afterwards as before: Ray would have a SIGTERM end this process at once."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def _reason(error: BaseException) -> str:
    """The first line of an error."""
    return next((line.strip() for line in str(error).splitlines() if line.strip()), type(error).__name__)
