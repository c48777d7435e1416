"""What a run goes on from: its checkpoint, the extents of its rows there, the numerics it was trained with so far."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from functools import partial
from typing import Any

from isoloss.errors import ConfigError, NumericsError, StoreError, UnreadableError
from isoloss.execution.context import TrainingContext
from isoloss.execution.recorder import Emit, Event
from isoloss.files import read_record
from isoloss.spec.config import RunConfig
from isoloss.spec.identity import run_id
from isoloss.store.layout import RunPaths
from isoloss.store.records import CONTINUES, METADATA, NUMERICS, checked
from isoloss.store.run import Extent, check_rows, extents
from isoloss.training import checkpoint
from isoloss.training.numerics import Numerics, differences
from isoloss.training.state import MemberState, fresh


@dataclass(frozen=True)
class Begun:
    """A run as it was left, or fresh."""

    state: MemberState
    rows: Mapping[str, Extent] = field(default_factory=dict[str, Extent])
    numerics: Sequence[Mapping[str, Any]] = ()
    continues: str | None = None
    """The run from whose end it went on, where it took no first steps itself."""

    @property
    def step(self) -> int:
        """Steps taken."""
        return self.state.progress.step


def begun(paths: RunPaths, config: RunConfig, emit: Emit) -> Begun:
    """What a run continues from; where a checkpoint is of no use, a line says why.

    Raises NumericsError for a checkpoint that is another run's, UnreadableError for one not to be had just now.
    """
    found = checkpoint.resume(paths.folder, partial(_check, paths))
    if found.problem:
        emit(Event(run_id(config), "running", 0, reason=found.problem))
    if found.state is None:
        return Begun(fresh(config))
    if run_id(found.state.config) != run_id(config):
        raise NumericsError(f"{paths.folder}: its checkpoint belongs to run {run_id(found.state.config)}")
    return _as_begun(found.state, found.metadata)


def back_at(paths: RunPaths, found: Begun, step: int) -> Begun:
    """The run at an earlier step, if its previous checkpoint is of that one; else as it is. Raises UnreadableError."""
    if found.step == step:
        return found
    earlier = checkpoint.step_back(paths.folder, step, partial(_check, paths))
    return found if earlier.state is None else _as_begun(earlier.state, earlier.metadata)


def _as_begun(state: MemberState, metadata: checkpoint.Metadata) -> Begun:
    return Begun(state, extents(metadata.get("rows", {})), metadata.get(NUMERICS, ()), metadata.get(CONTINUES))


def _check(paths: RunPaths, metadata: checkpoint.Metadata) -> None:
    checked(METADATA, metadata, paths.folder / "last.json")
    for name, extent in extents(metadata.get("rows", {})).items():
        check_rows(paths.rows(name), extent)


def continued(before: Sequence[Mapping[str, Any]], step: int, now: Numerics) -> list[Mapping[str, Any]]:
    """The record of a run's numerics, with those of now where they are others."""
    if before and not differences(before[-1], now):
        return list(before)
    return [*(entry for entry in before if entry["step"] < step), {"step": step, **asdict(now)}]


def other_numerics(context: TrainingContext, config: RunConfig) -> str:
    """How far a run was trained under other numerics than it would be now, and which; empty where it was not.

    Raises UnreadableError.
    """
    for name in ("last", "previous"):  # as it would be resumed
        try:
            sidecar = read_record(context.study.run(run_id(config)).folder / f"{name}.json")
            step, before = int(sidecar["progress"]["step"]), sidecar[checkpoint.METADATA_KEY][NUMERICS][-1]
            changes = differences(before, context.numerics(config.precision)) if step else []
            return f"to step {step:,}: {'; '.join(changes)}" if changes else ""
        except UnreadableError:
            raise
        except (StoreError, KeyError, IndexError, TypeError, ValueError, AttributeError):
            continue
    return ""


def refuse_other_numerics(context: TrainingContext, configs: Sequence[RunConfig]) -> None:
    """Raises ConfigError where runs were trained so far under other numerics than they would be now.

    Raises UnreadableError where that cannot be told just now.
    """
    others = {run_id(config): other_numerics(context, config) for config in configs}
    others = {run: changes for run, changes in others.items() if changes}
    if others:
        first, changes = next(iter(others.items()))
        raise ConfigError(
            f"{context.study.folder}: {len(others)} unfinished runs began with other numerics ({first} {changes}); "
            "start them as they began (--stack, --workers, --compile, OMP_NUM_THREADS; torch, compiler, processor), "
            "delete their folders to train them anew, or accept the change with --accept-other-numerics: it marks them"
        )
