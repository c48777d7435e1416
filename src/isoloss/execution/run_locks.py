"""A run's lock: waited for, with an event that says so; and states that are recorded under it."""

from __future__ import annotations

import time
from collections.abc import Callable
from contextlib import ExitStack, suppress
from dataclasses import replace
from typing import Literal

from isoloss.errors import InUseError, StoreError
from isoloss.execution.recorder import Emit, Event
from isoloss.locks import locked
from isoloss.store.layout import RunPaths
from isoloss.store.run import read_status, write_status

LOCK_POLL_INTERVAL_S = 2.0
"""Between two looks at should_stop() while a lock is awaited."""
LOCK_TIMEOUT_S = 600.0
"""How long to wait for a run's previous writer, orphaned by a kill, to release its lock: it may be evaluating."""


def acquire_lock(run: RunPaths, held: ExitStack, emit: Emit, should_stop: Callable[[], bool]) -> bool:
    """Acquire a run's lock, with an event when it has to wait; False once should_stop(). Raises InUseError."""
    in_use, until = f"{run.folder} is being written by another process", time.monotonic() + LOCK_TIMEOUT_S
    announced = False
    while True:
        try:
            held.enter_context(locked(run.lock, LOCK_POLL_INTERVAL_S, lambda: in_use, should_stop))
            return True
        except InUseError:
            if should_stop():
                return False
            if time.monotonic() > until:
                raise
        if not announced:
            emit(Event(run.folder.name, "running", 0, reason=f"{in_use}: waiting for its lock"))
            announced = True


def record_state(paths: RunPaths, state: Literal["failed", "pending"], reason: str) -> None:
    """Record a run's state in status.json, as far as the disk allows.

    Does nothing for a run that ended, that another process writes, or whose status cannot be read.
    """
    with suppress(StoreError), locked(paths.lock, 0, lambda: ""):
        before = read_status(paths)
        if before.state in ("pending", "running", "failed"):
            write_status(paths, replace(before, state=state, reason=reason))
