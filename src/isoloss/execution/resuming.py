"""Resuming: the state, rows and numerics from which a run continues, and the refusal of changed numerics."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from functools import partial
from typing import Any

from isoloss.errors import ConfigError, NumericsError, StoreError, UnreadableError
from isoloss.execution.context import TrainingContext
from isoloss.execution.recorder import Emit, Event
from isoloss.files import read_record
from isoloss.store.layout import RunPaths
from isoloss.store.records import CONTINUES, CONTINUES_FROM, FIRST_EVALUATION, METADATA, NUMERICS, checked
from isoloss.store.run import Extent, check_rows, extents
from isoloss.study.config import RunConfig
from isoloss.study.identity import run_id
from isoloss.training import checkpoint
from isoloss.training.loop import EvalRow
from isoloss.training.numerics import Numerics, differences
from isoloss.training.state import MemberState, initial_state


@dataclass(frozen=True)
class StartingPoint:
    """What a run continues from: its checkpoint, or its initial state."""

    state: MemberState
    rows: Mapping[str, Extent] = field(default_factory=dict[str, Extent])
    numerics: Sequence[Mapping[str, Any]] = ()
    taken_over: Mapping[str, Any] = field(default_factory=dict[str, Any])
    """The runs that trained its first steps, and how many, or made its first evaluation, where others did."""
    first_evaluation: EvalRow | None = None
    """What it takes over as the first of its rows."""

    @property
    def step(self) -> int:
        """Steps taken."""
        return self.state.progress.step


def starting_point(paths: RunPaths, config: RunConfig, now: Numerics, emit: Emit) -> StartingPoint:
    """What a run continues from; an event says why where a checkpoint is damaged.

    A run that was evaluated under other numerics than the present ones, and not trained yet, begins anew.

    Raises NumericsError for a checkpoint of another run, UnreadableError for one that cannot be read now.
    """
    found = checkpoint.resume(paths.folder, partial(_check, paths))
    if found.problem:
        emit(Event(run_id(config), "running", 0, reason=found.problem))
    if found.state is None:
        return StartingPoint(initial_state(config))
    if run_id(found.state.config) != run_id(config):
        raise NumericsError(f"{paths.folder}: its checkpoint belongs to run {run_id(found.state.config)}")
    start = _starting_point(found.state, found.metadata)
    if not start.step and start.numerics and differences(start.numerics[-1], now):
        checkpoint.begin_anew(paths.folder)
        return StartingPoint(initial_state(config))
    return start


def step_back_to(paths: RunPaths, found: StartingPoint, step: int) -> StartingPoint:
    """The run at its previous checkpoint if that is at this step, else unchanged. Raises UnreadableError."""
    if found.step == step:
        return found
    earlier = checkpoint.step_back(paths.folder, step, partial(_check, paths))
    return found if earlier.state is None else _starting_point(earlier.state, earlier.metadata)


def _starting_point(state: MemberState, metadata: checkpoint.Metadata) -> StartingPoint:
    taken_over = {key: metadata[key] for key in (CONTINUES, CONTINUES_FROM, FIRST_EVALUATION) if key in metadata}
    return StartingPoint(state, extents(metadata.get("rows", {})), metadata.get(NUMERICS, ()), taken_over)


def _check(paths: RunPaths, metadata: checkpoint.Metadata) -> None:
    checked(METADATA, metadata, paths.folder / "last.json")
    for name, extent in extents(metadata.get("rows", {})).items():
        check_rows(paths.rows(name), extent)


def extend_numerics(before: Sequence[Mapping[str, Any]], step: int, now: Numerics) -> list[Mapping[str, Any]]:
    """The record of a run's numerics, with the present ones added where they differ."""
    if before and not differences(before[-1], now):
        return list(before)
    return [*(entry for entry in before if entry["step"] < step), {"step": step, **asdict(now)}]


def numerics_changes(context: TrainingContext, config: RunConfig) -> str:
    """Up to which step a run was trained under other numerics than the present ones, and which; empty if it was not.

    Raises UnreadableError.
    """
    for name in ("last", "previous"):  # as it would be resumed
        try:
            sidecar = read_record(context.study.run(run_id(config)).folder / f"{name}.json")
            if checkpoint.WEIGHTS_KEY in sidecar:  # nothing goes on from it
                continue
            step, before = int(sidecar["progress"]["step"]), sidecar[checkpoint.METADATA_KEY][NUMERICS][-1]
            changes = differences(before, context.numerics(config.precision)) if step else []
            return f"to step {step:,}: {'; '.join(changes)}" if changes else ""
        except UnreadableError:
            raise
        except (StoreError, KeyError, IndexError, TypeError, ValueError, AttributeError):
            continue
    return ""


def refuse_changed_numerics(context: TrainingContext, configs: Sequence[RunConfig]) -> None:
    """Raises ConfigError if runs were trained so far under other numerics, UnreadableError if that cannot be read."""
    others = {run_id(config): numerics_changes(context, config) for config in configs}
    others = {run: changes for run, changes in others.items() if changes}
    if others:
        first, changes = next(iter(others.items()))
        raise ConfigError(
            f"{context.study.folder}: {len(others)} unfinished runs began with other numerics ({first} {changes}); "
            "start them as they began (--stack, --workers, --compile, OMP_NUM_THREADS; torch, compiler, processor), "
            "delete their folders to train them anew, or accept and record the change with --accept-other-numerics"
        )
