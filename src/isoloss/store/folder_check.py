"""Whether a folder's file system does what a study relies on: tried there, in a folder of its own that is removed."""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from statistics import median

from isoloss.files import sync_folder, writing
from isoloss.locks import LEASE_S, has_locks

TRIES = 5
_TRY_LOCK = "import filelock, sys; filelock.FileLock(sys.argv[1], timeout=0, fallback_to_soft=False).acquire()"


@dataclass(frozen=True)
class FolderFinding:
    """What was tried, whether a study can rely on it there, and what that means."""

    tried: str
    holds: bool
    text: str


def check_folder(folder: Path) -> list[FolderFinding]:
    """Try locks, renames, syncs, hard links and appends in a folder. Raises StoreError when nothing can be written."""
    with writing(folder), tempfile.TemporaryDirectory(dir=folder, prefix=".isoloss-doctor-") as temporary:
        return [_tried(name, check, Path(temporary)) for name, check in CHECKS.items()]


def _tried(name: str, check: Callable[[Path], tuple[bool, str]], folder: Path) -> FolderFinding:
    try:
        return FolderFinding(name, *check(folder))
    except OSError as error:
        return FolderFinding(name, False, f"{error.strerror}: results cannot be kept safely here")


def _lock(folder: Path) -> tuple[bool, str]:
    import filelock

    path = folder / "lock"
    if not has_locks(path):
        return (
            True,
            f"the file system has none; a lease stands in, and a dead owner's is taken over after {LEASE_S:g} s",
        )
    with filelock.FileLock(path, fallback_to_soft=False):
        other = subprocess.run([sys.executable, "-c", _TRY_LOCK, str(path)], capture_output=True, check=False)
    if other.returncode == 0:
        return False, "two processes had it at once: never run a study from two here"
    return True, "the system's: one process owns a study, and a dead one's is free at once"


def _rename(folder: Path) -> tuple[bool, str]:
    path, newer = folder / "file", folder / "newer"
    path.write_text("old")
    newer.write_text("new")
    newer.replace(path)
    if path.read_text() != "new" or newer.exists():
        return False, "a file was not replaced by another's name: a kill may leave neither"
    return True, "a file is replaced at once"


def _sync(folder: Path) -> tuple[bool, str]:
    took_s: list[float] = []
    for number in range(TRIES):
        with (folder / f"synced {number}").open("wb") as stream:
            stream.write(bytes(1 << 16))
            stream.flush()
            started = time.perf_counter()
            os.fsync(stream.fileno())
            sync_folder(folder)
            took_s.append(time.perf_counter() - started)
    slow = "; a study of many short runs spends its time on it: train on a disk of the machine's own by --scratch"
    return True, f"a file and its name take {1e3 * median(took_s):.1f} ms{slow if median(took_s) > 0.05 else ''}"


def _link(folder: Path) -> tuple[bool, str]:
    path, other = folder / "linked", folder / "link"
    path.write_text("")
    try:
        os.link(path, other)
    except OSError as error:
        return True, f"{error.strerror}: checkpoints are copied instead"
    return True, "checkpoints that are equal are one file"


def _append(folder: Path) -> tuple[bool, str]:
    path = folder / "rows"
    for row in range(TRIES):
        with path.open("ab") as stream:
            stream.write(b"%d\n" % row)
    if path.read_bytes() != b"".join(b"%d\n" % row for row in range(TRIES)):
        return False, "rows are not where they were appended: results cannot be kept here"
    return True, "rows are where they were appended"


CHECKS: dict[str, Callable[[Path], tuple[bool, str]]] = {
    "lock": _lock, "rename": _rename, "fsync": _sync, "hard link": _link, "append": _append,
}  # fmt: skip
"""What is tried, in this order."""
