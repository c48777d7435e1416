"""What a run goes on from: its checkpoint, the extents of its rows there, the numerics it was trained with so far."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Any

from isoloss.errors import ConfigError, NumericsError, StoreError
from isoloss.execution.plan import Stack
from isoloss.execution.recorder import Emit, Event
from isoloss.execution.workplace import Workplace
from isoloss.files import read_record
from isoloss.spec.config import Precision, RunConfig
from isoloss.spec.identity import run_id
from isoloss.store.layout import RunPaths, StudyPaths
from isoloss.store.run import Extent, check_rows, extents
from isoloss.training import checkpoint
from isoloss.training.numerics import Numerics, differences
from isoloss.training.state import MemberState, fresh

NUMERICS = "numerics"
"""Key, in a run's provenance and beside its checkpoint, of the numerics that led there: each with its first `step`."""


@dataclass(frozen=True)
class Begun:
    """A run as it was left, or fresh."""

    state: MemberState
    rows: Mapping[str, Extent] = field(default_factory=dict[str, Extent])
    numerics: Sequence[Mapping[str, Any]] = ()

    @property
    def step(self) -> int:
        """Steps taken."""
        return self.state.progress.step


def begun_together(study: StudyPaths, configs: Stack, emit: Emit) -> list[list[Begun]]:
    """What the runs of a stack continue from, grouped by their steps: one group, but for damaged checkpoints.

    Those ahead of others, because a kill came between their checkpoints, go back to where all of them were. Where one
    does not continue from the last thing saved, a line says why. Raises NumericsError.
    """
    found = [_begun(study.run(run_id(config)), config, emit) for config in configs]
    earliest = min(one.step for one in found)
    alike: dict[int, list[Begun]] = {}
    for one in found:
        kept = one if one.step == earliest else _back_at(study.run(run_id(one.state.config)), earliest) or one
        alike.setdefault(kept.step, []).append(kept)
    return list(alike.values())


def _begun(paths: RunPaths, config: RunConfig, emit: Emit) -> Begun:
    found = checkpoint.resume(paths.folder, partial(_check_rows, paths))
    if found.problem:
        emit(Event(run_id(config), "running", 0, reason=found.problem))
    if found.state is None:
        return Begun(fresh(config))
    if run_id(found.state.config) != run_id(config):
        raise NumericsError(f"{paths.folder}: its checkpoint belongs to run {run_id(found.state.config)}")
    return _as_begun(found.state, found.beside)


def _back_at(paths: RunPaths, step: int) -> Begun | None:
    found = checkpoint.step_back(paths.folder, step, partial(_check_rows, paths))
    return None if found.state is None else _as_begun(found.state, found.beside)


def _as_begun(state: MemberState, beside: checkpoint.Beside) -> Begun:
    return Begun(state, extents(beside.get("rows", {})), beside.get(NUMERICS, ()))


def _check_rows(paths: RunPaths, beside: checkpoint.Beside) -> None:
    for name, extent in extents(beside.get("rows", {})).items():
        check_rows(paths.rows(name), extent)


def continued(before: Sequence[Mapping[str, Any]], step: int, now: Numerics) -> list[Mapping[str, Any]]:
    """The record of a run's numerics, with those of now where they are others."""
    if before and not differences(before[-1], now):
        return list(before)
    return [*before, {"step": step, **now.as_dict()}]


def refuse_other_numerics(place: Workplace, stacks: Sequence[Stack], threads: int, ranks: int) -> None:
    """Raises ConfigError where a run was trained so far with other numerics than it would be now."""
    now: dict[Precision, Numerics] = {}
    for config in (config for configs in stacks for config in configs):
        if config.precision not in now:
            now[config.precision] = place.numerics(config.precision, threads, ranks)
        paths = place.study.run(run_id(config))
        try:
            car = read_record(paths.folder / "last.json")
            step, before = int(car["progress"]["step"]), car["beside"][NUMERICS][-1]
            changes = differences(before, now[config.precision])
        except (StoreError, KeyError, IndexError, TypeError, ValueError, AttributeError):
            continue  # nothing to go on from, or nothing whole
        if step and changes:
            raise ConfigError(
                f"{paths.folder} was trained to step {step:,} with other numerics: {'; '.join(changes)}; continue "
                "where it began, or accept the change with --accept-other-numerics, which marks the run"
            )
