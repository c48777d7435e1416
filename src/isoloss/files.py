"""Atomic writes, so that a reader sees the old content or the new, never a part; checksums that reveal damage.

A file is replaced by writing a temporary file in the same folder, fsync, rename and fsync of the folder: after a crash
or power cut either the old or the new content is complete.
"""

from __future__ import annotations

import errno
import hashlib
import json
import os
import shutil
import tempfile
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from math import isfinite
from pathlib import Path
from stat import S_ISREG
from typing import Any

from isoloss.errors import StoreError, UnreadableError

DIGEST = "digest"
"""Key of a record's own SHA-256, computed with zeros as its value."""
_NO_DIGEST = "0" * 64
_DIGEST_KEY = f'"{DIGEST}": "'.encode()
_READ_FLAGS = os.O_RDONLY | getattr(os, "O_BINARY", 0) | getattr(os, "O_NONBLOCK", 0)
"""Its bytes as they are, and without waiting for the writer of a pipe."""
MAX_TEXT_BYTES = 4_000_000
"""Larger records and checksummed texts are not isoloss's. Parsing takes at most some 30 times this in memory."""
_CHECKSUM_LINE = "# sha256 "


def sha256_bytes(content: bytes) -> str:
    """SHA-256 of `content` in hexadecimal."""
    return hashlib.sha256(content).hexdigest()


def sha256_file(path: Path) -> str:
    """SHA-256 of a file's content in hexadecimal. Raises StoreError when it cannot be read."""
    with reading(path), path.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


def cache_dir() -> Path:
    """The cache of texts, token files and compiled kernels: ISOLOSS_CACHE, else the user's cache folder."""
    if override := os.environ.get("ISOLOSS_CACHE"):
        return Path(override)
    import platformdirs  # here, for training needs it nowhere else, and benchmarks/gpu.py does without

    return platformdirs.user_cache_path("isoloss")


def user_path(path: str | Path) -> Path:
    """A path as a person gives it, with ~ for the home directory."""
    with suppress(RuntimeError):  # ~name of nobody's: a folder may be called so
        return Path(path).expanduser()
    return Path(path)


@contextmanager
def reading(path: Path) -> Iterator[None]:
    """Turn OSError and MemoryError into StoreError if `path` is missing, into UnreadableError if not readable now."""
    try:
        yield
    except (FileNotFoundError, IsADirectoryError, NotADirectoryError) as error:
        raise StoreError(f"cannot read {path}: {error.strerror}") from error
    except (OSError, MemoryError) as error:
        raise unreadable(path, getattr(error, "strerror", None) or "not enough memory") from error


def unreadable(path: Path, reason: object) -> UnreadableError:
    """The error for a file that exists and cannot be read now."""
    advice = "repeat the command to try again, or remove the file to continue without it"
    return UnreadableError(f"cannot read {path} just now: {reason}; {advice}")


def path_exists(path: Path) -> bool:
    """Whether the path exists. Raises UnreadableError when the system cannot tell."""
    try:
        path.stat()
    except (FileNotFoundError, NotADirectoryError):
        return False
    except OSError as error:
        raise unreadable(path, error.strerror) from error
    return True


def read_bytes(path: Path, max_bytes: int) -> bytes:
    """The content of a regular file. Raises StoreError when it is none, or larger, and UnreadableError."""
    with reading(path):
        handle = os.open(path, _READ_FLAGS)
        try:
            facts = os.fstat(handle)
            if not S_ISREG(facts.st_mode):
                raise StoreError(f"cannot read {path}: not a regular file")
            if facts.st_size > max_bytes:
                raise StoreError(f"cannot read {path}: larger than {max_bytes:,} bytes; isoloss did not write it")
            return b"".join(iter(lambda: os.read(handle, facts.st_size + 1), b""))
        finally:
            os.close(handle)


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
    """The free space, where the system tells."""
    try:
        return f" ({shutil.disk_usage(path.parent).free / 1e6:,.1f} MB are left in {path.parent})"
    except OSError:
        return ""


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


def remove_temporary_files(folder: Path) -> None:
    """Remove the temporary files of killed writers from a folder; the caller must be its only writer."""
    with writing(folder):
        for path in folder.glob(".*.tmp"):
            path.unlink(missing_ok=True)


def make_folder(folder: Path) -> None:
    """Make a folder and its parents, and force their names to the disk, without which their content could be lost."""
    missing = [path for path in (folder, *folder.parents) if not path.exists()]
    folder.mkdir(parents=True, exist_ok=True)
    for path in missing:
        sync_folder(path.parent)


def sync_folder(folder: Path) -> None:
    """Force a folder's names to the disk, where the system can; else a power cut may undo a rename."""
    if hasattr(os, "O_DIRECTORY"):
        handle = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
        try:
            os.fsync(handle)
        finally:
            os.close(handle)


def bytes_in(folder: Path) -> int:
    """Bytes of all files below a folder, each counted once: checkpoints may be hard links to one file.

    Raises UnreadableError.
    """
    sizes: dict[int, int] = {}
    for here, _, names in os.walk(folder):
        for name in names:
            path = Path(here, name)
            with reading(path), suppress(FileNotFoundError):  # others may be writing
                facts = path.stat()
                sizes[facts.st_ino] = facts.st_size
    return sum(sizes.values())


def write_bytes(path: Path, content: bytes) -> None:
    """Replace the file at `path` by `content`, atomically. Raises StoreError."""
    write_atomically(path, lambda temporary: _fill(temporary, content))


def write_text(path: Path, text: str) -> None:
    """Replace the file at `path` by `text` (UTF-8), atomically. Raises StoreError."""
    write_bytes(path, text.encode())


def write_checksummed(path: Path, text: str) -> None:
    """Replace the file at `path` by `text` and a last line with its SHA-256, a YAML comment. Raises StoreError."""
    write_text(path, f"{text}{_CHECKSUM_LINE}{sha256_bytes(text.encode())}\n")


def read_checksummed(path: Path) -> str:
    """The text written by write_checksummed. Raises StoreError when it is missing or its SHA-256 is another."""
    text, line, digest = _text_of(path).rpartition(_CHECKSUM_LINE)
    if not line or digest != f"{sha256_bytes(text.encode())}\n":
        raise StoreError(f"{path}: damaged or edited by hand, its SHA-256 is not the one in its last line")
    return text


def write_json(path: Path, value: Any) -> None:
    """Replace the file at `path` by `value` as indented JSON, atomically. Raises StoreError."""
    write_text(path, json.dumps(value, indent=2, ensure_ascii=False, allow_nan=False) + "\n")


def write_record(path: Path, value: Mapping[str, Any]) -> None:
    """Replace the file at `path` by `value` as JSON with its own SHA-256.

    Raises StoreError, also where it would be too long to be read.
    """
    text = json.dumps({**value, DIGEST: _NO_DIGEST}, indent=2, ensure_ascii=False, allow_nan=False) + "\n"
    if len(text.encode()) > MAX_TEXT_BYTES:
        raise StoreError(f"cannot write {path}: longer than the {MAX_TEXT_BYTES:,} bytes that would be read of it")
    before, _, after = text.rpartition(_NO_DIGEST)  # the last occurrence: a value may be as many zeros
    write_text(path, before + sha256_bytes(text.encode()) + after)


def read_record(path: Path) -> dict[str, Any]:
    """The object written by write_record, without its digest. Raises StoreError when it is missing or damaged."""
    try:
        value = json.loads(read_record_bytes(path), parse_float=_finite, parse_constant=_finite)
    except (ValueError, RecursionError) as error:
        raise StoreError(f"cannot read {path}: {error}") from error
    if not isinstance(value, dict) or value.pop(DIGEST, None) is None:
        raise StoreError(f"cannot read {path}: expected a JSON object that ends with its digest")
    return value


def read_record_bytes(path: Path) -> bytes:
    """The bytes written by write_record, digest included. Raises StoreError when they are missing or damaged."""
    content = read_bytes(path, MAX_TEXT_BYTES)  # once: the file may be replaced at any moment
    before, key, after = content.rpartition(_DIGEST_KEY)  # the last, where write_record puts it
    stated, after = after[: len(_NO_DIGEST)], after[len(_NO_DIGEST) :]
    if sha256_bytes(b"".join((before, key, _NO_DIGEST.encode(), after))).encode() != stated:
        raise StoreError(f"cannot read {path}: damaged, its SHA-256 is not the one it states")
    return content


def _text_of(path: Path) -> str:
    try:
        return read_bytes(path, MAX_TEXT_BYTES).decode()  # not read_text, which translates ends of lines
    except ValueError as error:
        raise StoreError(f"cannot read {path}: {error}") from error


def _finite(number: str) -> float:
    """A finite number: write_record writes no NaN and no infinity."""
    if not isfinite(value := float(number)):
        raise ValueError(f"{number} is not a finite number")
    return value


def _fill(path: Path, content: bytes) -> None:
    path.write_bytes(content)
