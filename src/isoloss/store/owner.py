"""Who runs a study: one process at a time, by a lock of the system's that a dead owner cannot keep."""

from __future__ import annotations

import os
import platform
import shutil
from collections.abc import Generator
from contextlib import contextmanager, suppress
from pathlib import Path

from isoloss.errors import ConfigError, CorpusError, StoreError
from isoloss.files import read_record, user_path, write_record
from isoloss.locks import LEASE, locked
from isoloss.store.enclosed import check_enclosed
from isoloss.store.layout import StudyPaths
from isoloss.store.run import now
from isoloss.study.study import Study


def study_paths(study: Study, out: str | Path | None) -> StudyPaths:
    """A study's directory: as named, else results/ and the study's name."""
    return StudyPaths(user_path(out) if out is not None else Path("results") / study.name)


@contextmanager
def owned(paths: StudyPaths) -> Generator[None]:
    """Own a study's directory, made if need be; the owner may do so again.

    Raises StoreError that says who has it, or what in it leads elsewhere; nothing is written then.
    """
    check_enclosed(paths.folder, to_write=True)

    def in_use() -> str:
        return f"{paths.folder} is in use by {_owner(paths)}; wait for it or choose another --out"

    with locked(paths.lock, 0, in_use):
        write_record(paths.owner, {"process": os.getpid(), "machine": platform.node(), "since": now()})
        try:
            yield
        except (ConfigError, CorpusError):
            _remove_if_empty(paths)
            raise


def owner_is_gone(paths: StudyPaths) -> bool:
    """Whether whoever ran a study last is known to be gone: a process of this machine that is no more.

    The lock is not tried: a start at that moment would be turned away.
    """
    with suppress(StoreError, KeyError, TypeError, ValueError, OverflowError, PermissionError):
        owner = read_record(paths.owner)
        if os.name == "posix" and owner["machine"] == platform.node() and (process := int(owner["process"])) > 0:
            try:
                os.kill(process, 0)  # sends nothing, only asks whether it could
            except ProcessLookupError:
                return True
    return False


def _remove_if_empty(paths: StudyPaths) -> None:
    """Remove a directory that holds no study yet; the lock is still held, and whoever waits for it opens it by name."""
    with suppress(OSError):
        there = {path.name.removesuffix(LEASE) for path in paths.folder.iterdir()}
        if there <= {paths.lock.name, paths.owner.name, paths.step_times.name}:
            shutil.rmtree(paths.folder, ignore_errors=True)


def _owner(paths: StudyPaths) -> str:
    try:
        owner = read_record(paths.owner)
        return f"process {owner['process']} on {owner['machine']} since {owner['since']}"
    except (StoreError, KeyError):
        return "another isoloss"
