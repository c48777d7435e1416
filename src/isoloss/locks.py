"""Locks: the system's where the file system has them, else leases, which expire when their holder is gone."""

from __future__ import annotations

import errno
import os
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import filelock

from isoloss.errors import InUseError, StoreError
from isoloss.files import make_folder, writing

LEASE_S = 60.0
"""How long after its holder's last sign of life a lease is taken over; it gives one every third of that."""
LEASE = ".lease"
"""How the name of a lease goes on after that of the lock for which it stands in."""
_NO_LOCKS = (errno.ENOSYS, errno.ENOLCK, errno.ENOTSUP, errno.EOPNOTSUPP)


@contextmanager
def locked(
    path: Path, timeout_s: float, message: Callable[[], str], give_up: Callable[[], bool] = lambda: False
) -> Iterator[None]:
    """Hold the lock file at `path`, which the system releases if the process dies. Reentrant.

    Where the file system has no locks (some NFS and Lustre mounts) it is a lease beside it. A process that loses one,
    as after it was suspended for longer than LEASE_S, ends at once. Raises InUseError with the message when another
    process still holds it after `timeout_s`; a lease is waited for until its holder gives a sign of life,
    or give_up() is true.
    """
    with writing(path.parent):
        make_folder(path.parent)
        try:
            lock = _acquired(path, timeout_s, give_up)
        except filelock.Timeout as error:
            raise InUseError(message()) from error
        except filelock.LeaseSettingsMismatch as error:
            raise InUseError(f"{message()}, of another version of isoloss") from error
    try:
        yield
    finally:
        lock.release()


def has_locks(path: Path) -> bool:
    """Whether the file system of a file that may be made has locks of the system's. Raises OSError."""
    try:
        with filelock.FileLock(path, fallback_to_soft=False):
            return True
    except OSError as error:
        if error.errno not in _NO_LOCKS:
            raise
        return False


def _acquired(path: Path, timeout_s: float, give_up: Callable[[], bool]) -> filelock.BaseFileLock:
    lock = filelock.FileLock(path, is_singleton=True, fallback_to_soft=False)
    try:
        lock.acquire(timeout=timeout_s)
    except OSError as error:
        if error.errno not in _NO_LOCKS:
            raise
        return _leased(path.with_name(path.name + LEASE), timeout_s, give_up)
    return lock


def _leased(marker: Path, timeout_s: float, give_up: Callable[[], bool]) -> filelock.BaseFileLock:
    first, until = _changed_at(marker), time.monotonic() + timeout_s

    def is_in_vain() -> bool:
        return give_up() or (time.monotonic() >= until and _changed_at(marker) != first)

    lease = filelock.SoftFileLease(marker, is_singleton=True, lease_duration=LEASE_S, on_compromise=_end)
    lease.acquire(timeout=timeout_s + 2 * LEASE_S, cancel_check=is_in_vain)
    return lease


def _changed_at(marker: Path) -> int | None:
    try:
        return marker.stat().st_mtime_ns
    except FileNotFoundError:
        return None


def _end(lost: filelock.LeaseCompromise) -> None:
    """End this process before it writes what another may be writing by now."""
    sys.stderr.write(f"{lost.lock_file} was lost ({lost.reason}): another process may have gone on; this one ends\n")
    sys.stderr.flush()
    os._exit(StoreError.exit_code)
