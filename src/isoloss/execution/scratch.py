"""Training on a disk of the node's own: a run's files are copied there, and moved in whole when it ends or stops."""

from __future__ import annotations

import tempfile
from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path
from platform import node

from isoloss.errors import StoreError
from isoloss.execution.context import TrainingContext
from isoloss.execution.plan import Stack
from isoloss.execution.recorder import Emit, Event
from isoloss.execution.run_locks import acquire_lock, record_state
from isoloss.execution.worker import train_stack
from isoloss.files import writing
from isoloss.store.layout import StudyPaths
from isoloss.store.moving import copy_run, finish_moving, move_in
from isoloss.store.run import FINISHED, read_status
from isoloss.study.identity import run_id


def train_placed(context: TrainingContext, stack: Stack, emit: Emit, should_stop: Callable[[], bool]) -> None:
    """Train a stack in a folder of context.scratch that is removed after it, or where that is None in the study.

    The runs' locks in the study are held meanwhile, so what another process writes is not copied. Where that cannot be
    done the runs fail with the reason. Raises DeviceLostError as train_stack does.
    """
    if context.scratch is None:
        train_stack(context, stack, emit, should_stop)
        return
    try:
        with ExitStack() as held:
            _train_on_scratch(context, context.scratch, stack, emit, should_stop, held)
    except StoreError as error:
        reason = f"--scratch {context.scratch} on node {node()}: {error}"
        unfinished = [c for c in stack if read_status(context.study.run(run_id(c))).state not in FINISHED]
        for config in unfinished:
            record_state(context.study.run(run_id(config)), "failed", reason)
            emit(Event(run_id(config), "failed", 0, reason=reason))


def _train_on_scratch(
    context: TrainingContext,
    scratch: Path,
    stack: Stack,
    emit: Emit,
    should_stop: Callable[[], bool],
    held: ExitStack,
) -> None:
    with writing(scratch):
        there = StudyPaths(Path(held.enter_context(tempfile.TemporaryDirectory(dir=scratch, prefix="isoloss-"))))
    for config in stack:
        run = context.study.run(run_id(config))
        if not acquire_lock(run, held, emit, should_stop):
            for waiting in stack:
                emit(Event(run_id(waiting), "stopped", 0))
            return
        finish_moving(run)
        with writing(scratch):
            copy_run(run.folder, there.run(run_id(config)).folder)

    def moved(event: Event) -> None:
        if event.kind != "running":
            move_in(there.run(event.run_id), context.study.run(event.run_id))
        emit(event)

    train_stack(replace(context, study=there, scratch=None), stack, moved, should_stop)
