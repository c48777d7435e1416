"""Writing files so that a reader sees the old content or the new, never half of either, and can tell damage.

What is replaced is written beside its place, forced to the disk, renamed, and the folder forced to the disk: whatever
is lost of a crash's last moments, the old or the new content is whole.
"""

from __future__ import annotations

import errno
import hashlib
import json
import os
import shutil
import tempfile
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from math import isfinite
from pathlib import Path
from stat import S_ISREG
from typing import Any

import filelock
import platformdirs

from isoloss.errors import InUseError, StoreError, UnreadableError

DIGEST = "digest"
"""Key of a record under which it states the SHA-256 of itself, taken with zeros in this place."""
_NO_DIGEST = "0" * 64
MAX_TEXT_BYTES = 4_000_000
"""Records and sealed texts that are larger were not written here. A record takes at most some 30 times its size."""
_SEAL = "# sha256 "


def sha256_bytes(content: bytes) -> str:
    """SHA-256 of `content` in hexadecimal."""
    return hashlib.sha256(content).hexdigest()


def sha256_file(path: Path) -> str:
    """SHA-256 of a file's content in hexadecimal. Raises StoreError when it cannot be read."""
    with reading(path), path.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


def cache_dir() -> Path:
    """Where fetched texts, token files and compiled kernels are kept: ISOLOSS_CACHE, else the user's cache folder."""
    override = os.environ.get("ISOLOSS_CACHE")
    return Path(override) if override else platformdirs.user_cache_path("isoloss")


@contextmanager
def reading(path: Path) -> Iterator[None]:
    """Tell a file that is missing, a StoreError, from one that is not given just now, an UnreadableError."""
    try:
        yield
    except (FileNotFoundError, IsADirectoryError, NotADirectoryError) as error:
        raise StoreError(f"cannot read {path}: {error.strerror}") from error
    except (OSError, MemoryError) as error:
        raise unreadable(
            path, (error.strerror if isinstance(error, OSError) else None) or "not enough memory"
        ) from error


def unreadable(path: Path, reason: object) -> UnreadableError:
    """What to say of a file that is there and cannot be had."""
    return UnreadableError(
        f"cannot read {path} just now: {reason}; the same command tries again, or goes on without it once it is removed"
    )


def path_exists(path: Path) -> bool:
    """Whether there is anything by this name. Raises UnreadableError where the system does not tell."""
    try:
        path.stat()
    except (FileNotFoundError, NotADirectoryError):
        return False
    except OSError as error:
        raise unreadable(path, error.strerror) from error
    return True


def read_bytes(path: Path, at_most: int) -> bytes:
    """The content of a regular file. Raises StoreError when it is none, or larger, and UnreadableError."""
    with reading(path):
        facts = path.stat()
        if not S_ISREG(facts.st_mode):
            raise StoreError(f"cannot read {path}: not a regular file")  # a pipe would keep its reader waiting
        if facts.st_size > at_most:
            raise StoreError(f"cannot read {path}: larger than {at_most:,} bytes; isoloss did not write it")
        return path.read_bytes()


@contextmanager
def writing(path: Path) -> Iterator[None]:
    """Turn an operating-system error about `path` into one line that says what to do. Raises StoreError."""
    try:
        yield
    except OSError as error:
        reason, advice = error.strerror or str(error), "choose another folder"
        if error.errno in (errno.ENOSPC, errno.EDQUOT):
            advice = f"free some space{_free_space(path)}"
        raise StoreError(f"cannot write {path}: {reason}; {advice}, then the same command continues") from error


def _free_space(path: Path) -> str:
    """How much there is, where the system tells."""
    try:
        return f" ({shutil.disk_usage(path.parent).free / 1e6:,.1f} MB are left in {path.parent})"
    except OSError:
        return ""


@contextmanager
def locked(path: Path, timeout_s: float, message: Callable[[], str]) -> Iterator[None]:
    """Hold the lock file at `path`; should its process die, the system lets go of it. Its holder may hold it again.

    Raises InUseError with the message when another process still holds it after `timeout_s`.
    """
    lock = filelock.FileLock(path, is_singleton=True)
    with writing(path.parent):
        make_folder(path.parent)
        try:
            lock.acquire(timeout=timeout_s)
        except filelock.Timeout as error:
            raise InUseError(message()) from error
    try:
        yield
    finally:
        lock.release()


def write_atomically(path: Path, write: Callable[[Path], object]) -> None:
    """Let `write` fill a temporary file beside `path`, flush it to disk, and move it into place.

    Raises StoreError when the file system refuses; the previous content then stays as it was.
    """
    with writing(path):
        make_folder(path.parent)
        handle, name = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.", suffix=".tmp")
        os.close(handle)
        temporary = Path(name)
        try:
            write(temporary)
            with temporary.open("rb+") as stream:
                os.fsync(stream.fileno())
            temporary.chmod(0o644)
            temporary.replace(path)
            sync_folder(path.parent)
        finally:
            temporary.unlink(missing_ok=True)


def remove_leftovers(folder: Path) -> None:
    """Remove what writers that were killed left half written in a folder; whoever calls is its one writer."""
    with writing(folder):
        for path in folder.glob(".*.tmp"):
            path.unlink(missing_ok=True)


def make_folder(folder: Path) -> None:
    """Make a folder and those above it, their names forced to the disk: what lies in a lost folder is lost with it."""
    missing = [path for path in (folder, *folder.parents) if not path.exists()]
    folder.mkdir(parents=True, exist_ok=True)
    for path in missing:
        sync_folder(path.parent)


def sync_folder(folder: Path) -> None:
    """Force a folder's names to the disk, where the system has a way to; a rename may else be undone by a power cut."""
    if hasattr(os, "O_DIRECTORY"):
        handle = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
        try:
            os.fsync(handle)
        finally:
            os.close(handle)


def write_bytes(path: Path, content: bytes) -> None:
    """Replace the file at `path` by `content`, atomically. Raises StoreError."""
    write_atomically(path, lambda temporary: _fill(temporary, content))


def write_text(path: Path, text: str) -> None:
    """Replace the file at `path` by `text` (UTF-8), atomically. Raises StoreError."""
    write_bytes(path, text.encode())


def write_checksummed(path: Path, text: str) -> None:
    """Replace the file at `path` by `text` and a last line with its SHA-256, a comment in YAML. Raises StoreError."""
    write_text(path, f"{text}{_SEAL}{sha256_bytes(text.encode())}\n")


def read_checksummed(path: Path) -> str:
    """The text written by write_checksummed. Raises StoreError when it is missing, or not what its last line says."""
    text, seal, digest = _text_of(path).rpartition(_SEAL)
    if not seal or digest != f"{sha256_bytes(text.encode())}\n":
        raise StoreError(f"{path}: damaged or edited by hand, its content is not what its last line says")
    return text


def write_json(path: Path, value: Any) -> None:
    """Replace the file at `path` by `value` as indented JSON, atomically. Raises StoreError."""
    write_text(path, json.dumps(value, indent=2, ensure_ascii=False, allow_nan=False) + "\n")


def write_record(path: Path, value: Mapping[str, Any]) -> None:
    """Replace the file at `path` by `value` as JSON that carries the SHA-256 of itself. Raises StoreError."""
    text = json.dumps({**value, DIGEST: _NO_DIGEST}, indent=2, ensure_ascii=False, allow_nan=False) + "\n"
    before, _, after = text.rpartition(_NO_DIGEST)  # the last: a value may be as many zeros
    write_text(path, before + sha256_bytes(text.encode()) + after)


def read_record(path: Path) -> dict[str, Any]:
    """The object written by write_record, without its digest. Raises StoreError when it is missing or damaged."""
    text = _text_of(path)  # once: the file may be replaced at any moment
    try:
        value = json.loads(text, parse_float=_finite, parse_constant=_finite)
    except (ValueError, RecursionError) as error:
        raise StoreError(f"cannot read {path}: {error}") from error
    if not isinstance(value, dict):
        raise StoreError(f"cannot read {path}: expected a JSON object")
    stated = value.pop(DIGEST, None)
    if (
        not isinstance(stated, str)
        or len(stated) != len(_NO_DIGEST)
        or sha256_bytes(text.replace(stated, _NO_DIGEST).encode()) != stated
    ):
        raise StoreError(f"cannot read {path}: damaged, its content is not what its digest says")
    return value


def _text_of(path: Path) -> str:
    try:
        return read_bytes(path, MAX_TEXT_BYTES).decode()  # not read_text, which makes one of all ends of lines
    except ValueError as error:
        raise StoreError(f"cannot read {path}: {error}") from error


def _finite(number: str) -> float:
    """A number as JSON has it: no NaN and nothing infinite, which write_record never writes."""
    if not isfinite(value := float(number)):
        raise ValueError(f"{number} is not a finite number")
    return value


def _fill(path: Path, content: bytes) -> None:
    path.write_bytes(content)
