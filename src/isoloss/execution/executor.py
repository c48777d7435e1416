"""Executor, the interface of what trains stacks, and Inline, which trains them in this process one after another."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Protocol

import torch

from isoloss.execution.context import TrainingContext
from isoloss.execution.plan import Stack
from isoloss.execution.recorder import Emit, Event
from isoloss.execution.scratch import train_placed
from isoloss.execution.worker import train_stack
from isoloss.study.config import RunConfig
from isoloss.training.distributed import Ranks


class Listener(Protocol):
    """Receives messages and events of a study while it runs."""

    def say(self, line: str) -> None:
        """A line for the user."""
        ...

    def begin(self, configs: Sequence[RunConfig], factors: Sequence[str]) -> None:
        """The runs about to be trained, and the settings in which the study's runs differ."""
        ...

    def emit(self, event: Event) -> None:
        """A run started, progressed or ended."""
        ...


class NullListener:
    """A listener that ignores everything."""

    def say(self, line: str) -> None:
        """Ignore."""

    def begin(self, configs: Sequence[RunConfig], factors: Sequence[str]) -> None:
        """Ignore."""

    def emit(self, event: Event) -> None:
        """Ignore."""


class Executor(Protocol):
    """Trains stacks and emits their events; returns early, all state saved, once should_stop() is true."""

    @property
    def name(self) -> str:
        """What a run's provenance calls it: inline, processes, slurm or ray."""
        ...

    @property
    def threads(self) -> int:
        """Threads that one stack is trained with."""
        ...

    def run(
        self, stacks: Sequence[Stack], context: TrainingContext, emit: Emit, should_stop: Callable[[], bool]
    ) -> None:
        """Train the stacks in order."""
        ...


@dataclass(frozen=True)
class Inline:
    """Trains in this process, alone or as one of several ranks."""

    ranks: Ranks = field(default_factory=Ranks)
    name = "inline"

    @property
    def threads(self) -> int:
        """As many as torch uses in this process."""
        return torch.get_num_threads()

    def run(
        self, stacks: Sequence[Stack], context: TrainingContext, emit: Emit, should_stop: Callable[[], bool]
    ) -> None:
        """Train the stacks in order."""
        for configs in stacks:
            if self.ranks.any(should_stop()):
                return
            if self.ranks.world > 1:
                train_stack(context, configs, emit, should_stop, self.ranks)
            else:
                train_placed(context, configs, emit, should_stop)
