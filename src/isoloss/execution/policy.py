"""How workers, wherever they are, train stacks: who gets which, and what becomes of one whose worker ends.

The runs of a worker that exits or hangs are retried: once together from their last checkpoints, then each alone, and
then recorded as failed. Transports (processes.py and others) start workers and carry what is said; they decide nothing.
"""

from __future__ import annotations

import time
from abc import ABC, abstractmethod
from collections import Counter, deque
from collections.abc import Callable, Iterable, Sequence

from isoloss.errors import StoreError
from isoloss.execution.context import TrainingContext
from isoloss.execution.plan import Stack
from isoloss.execution.recorder import ENDED, Emit, Event
from isoloss.execution.run_locks import record_state
from isoloss.store.run import FINISHED, read_status
from isoloss.study.identity import run_id

POLL_INTERVAL_S = 0.2
STOP_TIMEOUT_S = 8.0
STOPPED_AFTER_CHECKPOINT = "stopped after its last checkpoint, from which the same command continues"
SILENCE_TIMEOUT_S = 900.0
"""A worker that sends nothing for so long hangs: steps and evaluations send an event or a heartbeat every 2 s."""
MAX_ROUND_S = 5.0
"""A coordinator whose round takes longer was itself suspended, by Ctrl-Z for instance, and received nothing."""


class Worker(ABC):
    """A process, somewhere, that trains one stack at a time; of its files only the runs' own are known."""

    noun = "worker process"
    """What it is called in the reason why a run failed."""

    def __init__(self) -> None:
        self.stack: Stack | None = None
        self.last_message_s = time.monotonic()
        """When it was last heard of, by the monotonic clock."""
        self.hung = False

    def heard(self) -> None:
        """It gave a sign of life."""
        self.last_message_s = time.monotonic()

    @abstractmethod
    def begin(self, stack: Stack) -> None:
        """Hand it a stack."""

    @abstractmethod
    def ask_to_stop(self) -> None:
        """Ask it to save and exit."""

    @abstractmethod
    def kill(self) -> None:
        """End it at once."""

    @abstractmethod
    def is_alive(self) -> bool:
        """Whether it has not ended."""

    @abstractmethod
    def received(self) -> Iterable[Event | None]:
        """What it has sent since last asked; None means that its stack has ended."""

    @abstractmethod
    def end(self) -> str:
        """How it ended, as in "its worker process ...": "was killed"."""

    def cancelled(self) -> bool:
        """Whether it ended because a person wanted it to."""
        return False

    @abstractmethod
    def finish(self, timeout_s: float = 0.0) -> None:
        """Wait so long for its end, then end it; what it sent stays to be received."""


class Transport(ABC):
    """Starts workers, and waits for what they say."""

    workers: int
    """How many there may be at once."""

    @abstractmethod
    def start(self, context: TrainingContext, pool: Sequence[Worker]) -> Worker:
        """A worker beside those there are. Raises OSError where the system allows none."""

    @abstractmethod
    def wait(self, pool: Sequence[Worker], timeout_s: float) -> None:
        """Wait until one of them has something to say, or has ended."""

    def attached(self, stacks: Sequence[Stack]) -> list[Worker]:
        """Workers that an earlier command left at some of these runs; none where workers end with their command."""
        return []

    def left(self, pool: Sequence[Worker]) -> str:
        """Leave workers to go on without this command, and say so; empty where they must stop with it."""
        return ""


def train_stacks(
    transport: Transport,
    stacks: Sequence[Stack],
    context: TrainingContext,
    emit: Emit,
    should_stop: Callable[[], bool],
) -> None:
    """Give the stacks in order to workers that are idle; return early, all state saved, once should_stop() is true."""
    pool = transport.attached(stacks)
    begun = {run_id(config) for worker in pool for config in worker.stack or ()}
    unbegun = (tuple(config for config in stack if run_id(config) not in begun) for stack in stacks)
    waiting = deque(filter(None, unbegun))
    exits: Counter[str] = Counter()
    try:
        began = time.monotonic()
        while not should_stop():
            began = _discount_suspension(pool, began)
            _kill_silent(pool, began)
            for worker in [worker for worker in pool if not worker.is_alive()]:
                pool.remove(worker)
                waiting.extend(_handle_exit(worker, context, emit, exits))
            busy = sum(worker.stack is not None for worker in pool)
            if not waiting and not busy:
                break
            _start_workers(transport, pool, min(transport.workers, busy + len(waiting)), context)
            for worker in pool:
                if worker.stack is None and waiting:
                    worker.stack = waiting.popleft()
                    worker.heard()
                    worker.begin(worker.stack)
            _receive_events(transport, pool, emit)
        _stop_workers(transport, pool, context, emit)
    finally:
        for worker in pool:
            worker.finish()


def _start_workers(transport: Transport, pool: list[Worker], size: int, context: TrainingContext) -> None:
    """Start workers up to `size`, or as many as the system allows. Raises StoreError when it allows none."""
    try:
        while len(pool) < size:
            pool.append(transport.start(context, pool))
    except OSError as error:
        if not pool:
            reason = error.strerror or error
            raise StoreError(f"cannot start a worker process: {reason}; the same command continues") from error


def _kill_silent(pool: Sequence[Worker], now: float) -> None:
    """Kill workers that have a stack and hang; a later round handles their exit."""
    for worker in pool:
        if worker.stack is not None and now - worker.last_message_s > SILENCE_TIMEOUT_S:
            worker.hung = True
            worker.kill()


def _discount_suspension(pool: Sequence[Worker], began: float) -> float:
    """Return the start of the next round; a round's time beyond MAX_ROUND_S does not count as silence of a worker.

    A Ctrl-Z suspends the workers together with the coordinator.
    """
    now = time.monotonic()
    for worker in pool:
        worker.last_message_s = min(now, worker.last_message_s + max(0.0, now - began - MAX_ROUND_S))
    return now


def _receive_events(transport: Transport, pool: Sequence[Worker], emit: Emit) -> None:
    """Pass on the events of workers that train."""
    busy = [worker for worker in pool if worker.stack is not None and worker.is_alive()]
    transport.wait(busy, POLL_INTERVAL_S)
    for worker in busy:
        for event in worker.received():
            worker.heard()
            _handle_event(worker, event, emit)


def _handle_event(worker: Worker, event: Event | None, emit: Emit) -> None:
    """Pass on an event; a run that has ended leaves the worker's stack."""
    if event is None:
        worker.stack = None
        return
    if event.kind in ENDED and worker.stack is not None:
        worker.stack = tuple(config for config in worker.stack if run_id(config) != event.run_id)
    emit(event)


def _unfinished(worker: Worker, context: TrainingContext, emit: Emit) -> Stack:
    """Pass on what a worker that ended still had to say; return its runs that have not ended, by their files."""
    for event in worker.received() if worker.stack else ():
        _handle_event(worker, event, emit)
    unfinished, worker.stack = worker.stack or (), None
    return tuple(c for c in unfinished if read_status(context.study.run(run_id(c))).state not in FINISHED)


def _handle_exit(worker: Worker, context: TrainingContext, emit: Emit, exits: Counter[str]) -> list[Stack]:
    """The stacks to retry after a worker's exit: its runs together, next time each alone; a lone run then fails."""
    unfinished = _unfinished(worker, context, emit)
    worker.finish()
    if worker.cancelled():
        _record_stopped(unfinished, f"its {worker.noun} {worker.end()}; the same command goes on", context, emit)
        return []
    if not unfinished:
        return []
    exits.update(map(run_id, unfinished))
    retries: list[Stack] = []
    if any(exits[run_id(config)] == 1 for config in unfinished):
        retries = [unfinished]  # together: roundings depend on the stack
    elif len(unfinished) > 1:
        retries = [(config,) for config in unfinished]
    reason = f"its {worker.noun} {'hung' if worker.hung else worker.end()}"
    for config in unfinished:
        if retries:
            emit(Event(run_id(config), "running", 0, reason=f"{reason}; it is retried"))
        else:
            record_state(context.study.run(run_id(config)), "failed", reason)
            emit(Event(run_id(config), "failed", 0, reason=reason))
    return retries


def _stop_workers(transport: Transport, pool: Sequence[Worker], context: TrainingContext, emit: Emit) -> None:
    """Ask every worker to save and exit; one that takes longer than STOP_TIMEOUT_S is killed, its checkpoint stays."""
    runs = [run_id(config) for worker in pool for config in worker.stack or ()]
    if runs and (note := transport.left(pool)):
        emit(Event(runs[0], "running", 0, reason=note))
        return
    deadline = time.monotonic() + STOP_TIMEOUT_S
    for worker in pool:
        if worker.is_alive():
            worker.ask_to_stop()
    while time.monotonic() < deadline and any(w.stack is not None and w.is_alive() for w in pool):
        _receive_events(transport, pool, emit)
    for worker in pool:
        worker.finish(max(0.0, deadline - time.monotonic()))
        _record_stopped(_unfinished(worker, context, emit), STOPPED_AFTER_CHECKPOINT, context, emit)


def _record_stopped(stack: Stack, reason: str, context: TrainingContext, emit: Emit) -> None:
    for config in stack:
        record_state(context.study.run(run_id(config)), "pending", reason)
        emit(Event(run_id(config), "stopped", 0))
