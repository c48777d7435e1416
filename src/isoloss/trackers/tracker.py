"""What a tracker is to a study: it holds a run for each of the study's, and how far it has each."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from importlib import import_module
from typing import Any

from pydantic import TypeAdapter, ValidationError
from typing_extensions import TypedDict

from isoloss.errors import ConfigError
from isoloss.store.records import Count, ExtentRecord, State
from isoloss.store.run import FINISHED, NOTHING, ROWS
from isoloss.study.study import Scalar


@dataclass(frozen=True)
class Row:
    """A training step or an evaluation that a run recorded.

    `number` counts both from 0 in the order they were recorded, `seconds` is the run's training and evaluation time
    so far. `values` are named train/loss, train/lr and so on of a step, eval/val_loss and so on of an evaluation.
    """

    number: int
    step: int
    seconds: float
    values: Mapping[str, float]


@dataclass(frozen=True)
class TrackedRun:
    """A run as trackers show it.

    `id` is unique in a tracker: the run_id and which study directory it is of. `group` names its cell, `started` is in
    seconds since 1970. `outcome` is what it has measured so far: best_val_loss, best_step, final_val_loss, ...
    """

    id: str
    study: str
    name: str
    group: str
    seed: int
    settings: Mapping[str, Scalar]
    state: State
    reason: str
    outcome: Mapping[str, float]
    started: float

    @property
    def final(self) -> bool:
        """Whether no rows follow."""
        return self.state in FINISHED


class Position(TypedDict):
    """How far a tracker has a run: its rows by their extents, their number, and a hash of all else about it."""

    rows: dict[str, ExtentRecord]
    count: Count
    facts: str


_POSITION = TypeAdapter(Position)
NO_ROWS: Position = {"rows": {name: {"size": 0, "sha256": NOTHING.sha256} for name in ROWS}, "count": 0, "facts": ""}
"""The position of a run that has just begun to be mirrored."""


def position_or_none(value: str | bytes | None) -> Position | None:
    """A position from its JSON; None where that is no position."""
    try:
        return None if value is None else _POSITION.validate_json(value)
    except ValidationError:
        return None


class Tracker(ABC):
    """One place of one tracker. Its methods raise whatever its library raises where it cannot be reached.

    A program that ends at any moment within `write` leaves what the next `write` from the same position completes, with
    more rows perhaps: no point twice, none missing.
    """

    where: str
    """What it writes to: a folder, address or project."""
    shown_by: str
    """The command that shows it."""

    @abstractmethod
    def position(self, id: str) -> Position | None:
        """How far it has a run; None where it has none, or not one to add to."""

    @abstractmethod
    def drop(self, id: str) -> None:
        """Remove what it has of a run, if anything: it is mirrored anew."""

    @abstractmethod
    def write(self, run: TrackedRun, rows: Sequence[Row], position: Position) -> None:
        """Add rows to a run, which is made if need be, and set its outcome, state and, last of all, its position."""

    def close(self) -> None:  # noqa: B027  (most keep nothing open)
        """Complete what was written."""


def library(name: str, extra: str) -> Any:
    """A module of a tracker's library. Raises ConfigError that says how to install it."""
    try:
        return import_module(name)
    except ModuleNotFoundError as error:
        raise ConfigError(
            f"--to {extra} needs {error.name}, not installed here: pip install 'isoloss[{extra}]'"
        ) from error
