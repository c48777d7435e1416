"""Training on a disk of the node's own: a run's files are copied there, and moved in whole when it ends or stops."""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Callable
from contextlib import ExitStack, suppress
from dataclasses import replace
from pathlib import Path
from platform import node

from isoloss.errors import StoreError, UnreadableError
from isoloss.execution.context import TrainingContext
from isoloss.execution.plan import Stack
from isoloss.execution.recorder import Emit, Event
from isoloss.execution.run_locks import acquire_lock, record_state
from isoloss.execution.worker import train_stack
from isoloss.files import writing
from isoloss.store.layout import StudyPaths
from isoloss.store.moving import copy_run, finish_moving, move_in
from isoloss.store.run import FINISHED, read_status
from isoloss.study.config import RunConfig
from isoloss.study.identity import run_id


def train_placed(context: TrainingContext, stack: Stack, emit: Emit, should_stop: Callable[[], bool]) -> None:
    """Train a stack in a folder of context.scratch, or where that is None in the study.

    The folder is removed after it, unless the study could not take what is in it: the reason of the run says where.

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
        for config in stack:
            _fail(context, context.scratch, config, error, emit)


def _fail(context: TrainingContext, scratch: Path, config: RunConfig, error: StoreError, emit: Emit) -> None:
    """Record why a run fails, unless it has ended."""
    run, reason = context.study.run(run_id(config)), f"--scratch {scratch} on node {node()}: {error}"
    with suppress(UnreadableError):
        if read_status(run).state in FINISHED:
            return
    record_state(run, "failed", reason)
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
        folder = Path(tempfile.mkdtemp(dir=scratch, prefix="isoloss-"))
    there, copied, not_moved = StudyPaths(folder), list[RunConfig](), set[str]()
    held.callback(lambda: not_moved or shutil.rmtree(folder, ignore_errors=True))
    for config in stack:
        run = context.study.run(run_id(config))
        try:
            if not acquire_lock(run, held, emit, should_stop):
                for waiting in stack:
                    emit(Event(run_id(waiting), "stopped", 0))
                return
            finish_moving(run)
            with writing(scratch):
                copy_run(run.folder, there.run(run_id(config)).folder)
            copied.append(config)
        except StoreError as error:
            _fail(context, scratch, config, error, emit)

    def moved(event: Event) -> None:
        if event.kind != "running":
            try:
                move_in(there.run(event.run_id), context.study.run(event.run_id))
            except StoreError as error:
                not_moved.add(event.run_id)
                raise StoreError(f"{error}; what was trained stays in {folder}") from error
        emit(event)

    if copied:
        train_stack(replace(context, study=there, scratch=None), tuple(copied), moved, should_stop)
