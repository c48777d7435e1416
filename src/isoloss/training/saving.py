"""Saving states of a stack's members: at once on a CPU, and beside training, from copies, on CUDA.

On CUDA copies are made on the device, between two steps. A thread brings them to the host on a stream of its own and
writes them, one set at a time, which may take longer than training up to the next evaluation. Then the states of that
evaluation are not written; those that are the best so far stay on the device until the next set, which has them first.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from types import TracebackType
from typing import Literal

import torch

from isoloss.study.config import RunConfig
from isoloss.study.identity import run_id
from isoloss.training.device import pinned_copy
from isoloss.training.state import MemberState, StackState

Saved = Literal["checkpoint", "best", "kept"]
"""What a state is saved as: the run's checkpoint, its best alone, or what other runs leave from."""
Save = Callable[[MemberState], None]
"""Saves a state, which is on the host."""
Saving = Callable[[RunConfig, Saved], Save]
"""How a run's state as of now is saved; another thread may do so later."""


def saves_beside_training(device: torch.device) -> bool:
    """Whether states are saved while training goes on: where that needs little of the processor."""
    return device.type == "cuda"


class Saver:
    """Saves the states of one stack. An error of its thread is raised by whichever call is next, or at the end."""

    def __init__(self, device: torch.device, saving: Saving) -> None:
        self._saving = saving
        self._thread = ThreadPoolExecutor(1, "isoloss-saver") if saves_beside_training(device) else None
        self._stream = torch.cuda.Stream(device) if device.type == "cuda" else None
        self._in_flight: Future[None] | None = None
        self._best: dict[str, tuple[MemberState, Save]] = {}

    def __enter__(self) -> Saver:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, _: TracebackType | None) -> None:
        if self._thread is not None:
            self._thread.shutdown()
        if error is None:
            self.wait()

    @property
    def busy(self) -> bool:
        """Whether a set of states is still being saved. Raises the error of one that could not be."""
        if self._in_flight is not None and self._in_flight.done():
            self.wait()
        return self._in_flight is not None

    def wait(self) -> None:
        """Return once what is being saved is on the disk. Raises the error of what could not be."""
        in_flight, self._in_flight = self._in_flight, None
        if in_flight is not None:
            in_flight.result()

    def after_evaluation(self, stack: StackState, members: Sequence[int], *, now: bool) -> None:
        """Save the checkpoints of evaluated members, or while others are being saved keep those that are the best.

        With `now` it waits for these instead.
        """
        if now or not self.busy:
            self.save(stack, members, "checkpoint")
            return
        best = [e for e in members if stack.progress[e].best_step == stack.step]
        for e in best:  # first: training/memory.py counts one such copy
            self._best.pop(run_id(stack.members[e]), None)
        for state in self._copies(stack, best):
            self._best[run_id(state.config)] = state, self._saving(state.config, "best")

    def save(self, stack: StackState, members: Sequence[int], what: Saved) -> None:
        """Save the states of some members, once those that are being saved are, and before each its best so far."""
        self.wait()
        jobs: list[tuple[MemberState, Save]] = []
        for state in self._copies(stack, members):
            best = self._best.pop(run_id(state.config), None)
            if best is not None and best[0].progress.step == state.progress.best_step:
                jobs.append(best)
            jobs.append((state, self._saving(state.config, what)))
        self._start(jobs)

    def settle(self, ending: Sequence[RunConfig]) -> None:
        """Return once all is on the disk, with the best so far of runs that end."""
        self.wait()
        self._start([job for config in ending if (job := self._best.pop(run_id(config), None))])
        self.wait()

    def _copies(self, stack: StackState, members: Sequence[int]) -> list[MemberState]:
        """States that stay as they are while training goes on; on a CPU the states themselves."""
        states = [stack.member(e) for e in members]
        return states if self._thread is None else [state.each(torch.clone) for state in states]

    def _start(self, jobs: list[tuple[MemberState, Save]]) -> None:
        if self._thread is None:
            self._run(jobs)
            return
        if self._stream is not None:
            self._stream.wait_stream(torch.cuda.current_stream(self._stream.device))
        self._in_flight = self._thread.submit(self._run, jobs)

    def _run(self, jobs: list[tuple[MemberState, Save]]) -> None:
        while jobs:  # a copy is freed once it is on the disk
            state, save = jobs.pop(0)
            save(self._on_host(state))

    def _on_host(self, state: MemberState) -> MemberState:
        if self._stream is None:
            return state
        with torch.cuda.stream(self._stream):
            state = state.each(pinned_copy)
        self._stream.synchronize()
        return state
