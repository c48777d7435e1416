"""One run on disk: one writer, append-only rows, a status replaced atomically."""

from __future__ import annotations

import hashlib
import json
import os
import time
from collections import deque
from collections.abc import Iterator, Mapping
from contextlib import suppress
from dataclasses import asdict, dataclass, field, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, TypeVar

from pydantic import TypeAdapter

from isoloss.errors import StoreError, UnreadableError
from isoloss.files import (
    make_folder,
    path_exists,
    read_bytes,
    read_record,
    read_record_bytes,
    sha256_bytes,
    sync_folder,
    write_record,
    writing,
)
from isoloss.store.layout import RunPaths
from isoloss.store.records import (
    EVALS,
    SIDECAR,
    STATUS,
    STEPS,
    EvalRecord,
    MeasuredRecord,
    SidecarRecord,
    State,
    StepRecord,
    parsed,
    read_checked,
)
from isoloss.study.config import MAX_ITERS, RunConfig

Row = TypeVar("Row")
FLUSH_INTERVAL_S = 1.0
MAX_ROWS_BYTES = 500 * MAX_ITERS
"""A row takes about half of that. What is larger was not written here, and is not read."""


def now() -> str:
    """The time of day in UTC, ISO 8601, to the second."""
    return datetime.now(UTC).isoformat(timespec="seconds")


@dataclass(frozen=True)
class RunStatus:
    """Where a run stands. `provenance` tells what it was trained on, `times_s` where its wall time went.

    `rows` are the extents of its files of rows, once nobody writes to them: of `metrics` and `evals`. `measured` is
    what a run that has ended contributes to the summary, computed from those rows when it ended; None where that is
    still to be done.
    """

    state: State
    reason: str = ""
    times_s: Mapping[str, float] = field(default_factory=dict[str, float])
    provenance: Mapping[str, Any] = field(default_factory=dict[str, Any])
    rows: Mapping[str, Extent] = field(default_factory=dict[str, "Extent"])
    measured: MeasuredRecord | None = None
    updated_at: str = ""


@dataclass(frozen=True)
class Extent:
    """The first `size` bytes of a file of rows, by their SHA-256."""

    size: int
    sha256: str


ROWS = ("metrics", "evals")
FINISHED = ("done", "diverged")
"""States of a run that is not trained again."""
NOTHING = Extent(0, sha256_bytes(b""))


def extents(value: Mapping[str, Mapping[str, Any]]) -> dict[str, Extent]:
    """Extents from a record that was checked, by name."""
    return {name: Extent(**extent) for name, extent in value.items()}


def read_status(paths: RunPaths) -> RunStatus:
    """A run's status; a run without a status file is pending, one whose status cannot be read is damaged."""
    try:
        return _status(paths)
    except StoreError as error:
        return RunStatus("damaged", str(error))


def _status(paths: RunPaths) -> RunStatus:
    try:
        value: dict[str, Any] = {**read_checked(STATUS, paths.status)}
    except StoreError as error:
        if isinstance(error.__cause__, FileNotFoundError):
            return RunStatus("pending")
        raise
    rows = extents(value.pop("rows"))
    return RunStatus(rows=rows, **value)


def verified_status(paths: RunPaths) -> RunStatus:
    """A run's status, damaged where its configuration cannot be read or its rows are not those it ended with."""
    try:
        return whole_status(paths)
    except StoreError as error:
        return replace(read_status(paths), state="damaged", reason=str(error))


def whole_status(paths: RunPaths) -> RunStatus:
    """A run's status. Raises StoreError where that, its configuration or its rows are not what was written."""
    status = _status(paths)
    if path_exists(paths.config):
        read_record_bytes(paths.config)
    known = lasting_rows(paths, status)
    for name in ROWS:
        if name in known:
            check_rows(paths.rows(name), known[name], nothing_after=name in status.rows and status.state != "pending")
        else:
            deque(read_rows(paths.rows(name)), maxlen=0)
    return status


def status_by_size(paths: RunPaths) -> RunStatus:
    """A run's status, damaged where it ended and its files of rows are not as long as they were. They are not read."""
    status = read_status(paths)
    if status.state in FINISHED:
        for name in status.rows.keys() & set(ROWS):
            try:
                if paths.rows_bytes(name) != (size := status.rows[name].size):
                    raise _not_as_written(paths.rows(name), size)
            except StoreError as error:
                return replace(status, state="damaged", reason=str(error))
    return status


def last_sidecar(paths: RunPaths) -> SidecarRecord | None:
    """What stands with a run's last checkpoint; None where there is no whole one. Raises UnreadableError."""
    try:
        return read_checked(SIDECAR, paths.folder / "last.json")
    except UnreadableError:
        raise
    except StoreError:
        return None


def lasting_rows(paths: RunPaths, status: RunStatus) -> Mapping[str, Extent]:
    """The rows that a run of this status keeps when it goes on: those it ended or stopped with, else those that its
    last checkpoint vouches for; of a checkpoint that cannot be read, none.
    """
    if status.rows:
        return status.rows
    with suppress(UnreadableError):
        if sidecar := last_sidecar(paths):
            return extents(sidecar["beside"].get("rows", {}))
    return {}


def check_rows(path: Path, extent: Extent, *, nothing_after: bool = False) -> None:
    """Raises StoreError when a file of rows does not begin with what was written up to an extent."""
    content = read_bytes(path, MAX_ROWS_BYTES) if extent.size or path_exists(path) else b""
    if sha256_bytes(content[: extent.size]) != extent.sha256 or (nothing_after and len(content) > extent.size):
        raise _not_as_written(path, extent.size)


def _not_as_written(path: Path, size: int) -> StoreError:
    return StoreError(f"{path}: damaged, not the {size:,} bytes that were written")


def write_status(paths: RunPaths, status: RunStatus) -> None:
    """Replace a run's status. Raises StoreError."""
    write_record(paths.status, {**asdict(status), "updated_at": now()})


def create_run(paths: RunPaths, config: RunConfig) -> None:
    """Make a run's directory with its configuration. Raises StoreError."""
    with writing(paths.folder):
        make_folder(paths.folder)
    try:
        known = read_record(paths.config)
    except StoreError:
        known = None
    if known != config.model_dump():
        write_record(paths.config, config.model_dump())


def read_rows(path: Path) -> Iterator[dict[str, Any]]:
    """The rows of an append-only file; a last line cut short by a crash is left out. Raises StoreError."""
    if not path_exists(path):
        return
    for number, line in enumerate(read_bytes(path, MAX_ROWS_BYTES).split(b"\n")[:-1], start=1):
        try:
            row = json.loads(line)
        except (ValueError, RecursionError) as error:
            raise StoreError(f"{path}:{number}: not a JSON row") from error
        if not isinstance(row, dict):
            raise StoreError(f"{path}:{number}: not a JSON row")
        yield row


def step_rows(paths: RunPaths, extent: Extent | None = None) -> list[StepRecord]:
    """The per-step record of a run, or the beginning of it. Raises StoreError where it is not what a run writes."""
    return _rows(STEPS, paths.metrics, extent)


def eval_rows(paths: RunPaths, extent: Extent | None = None) -> list[EvalRecord]:
    """The evaluations of a run, or the first of them. Raises StoreError where a row is not what a run writes."""
    return _rows(EVALS, paths.evals, extent)


def _rows(shape: TypeAdapter[list[Row]], path: Path, extent: Extent | None) -> list[Row]:
    """Rows of one shape, parsed at once; a last line cut short by a crash is left out."""
    if not path_exists(path):
        return []
    content = read_bytes(path, MAX_ROWS_BYTES)[: extent and extent.size]
    whole = content[: content.rfind(b"\n") + 1]
    return parsed(shape, b"[" + whole[:-1].replace(b"\n", b",") + b"]", path)


class RowWriter:
    """Appends rows to a file; they reach the system within a second, and the disk at `sync`.

    `kept` is what of the file stays: what was written after it, torn lines too, is cut off. Raises StoreError when the
    file does not begin with it. Another thread may call `sync` while rows are written.
    """

    def __init__(self, path: Path, kept: Extent = NOTHING) -> None:
        self.path, self._size = path, kept.size
        check_rows(path, kept)
        with writing(path):
            self._stream = path.open("ab+")
            self._stream.truncate(kept.size)
            self._stream.seek(0)
            self._digest = hashlib.sha256(self._stream.read())
            sync_folder(path.parent)
        self._flushed = time.monotonic()

    @property
    def extent(self) -> Extent:
        """How far the rows go that were written so far, on the disk or not."""
        return Extent(self._size, self._digest.hexdigest())

    def write(self, row: Mapping[str, Any]) -> None:
        """Append one row. Raises StoreError."""
        line = (json.dumps(row, allow_nan=False) + "\n").encode()
        with writing(self.path):
            self._stream.write(line)
            self._digest.update(line)
            self._size += len(line)
        self.flush()

    def flush(self) -> None:
        """Hand the system what is older than a second. Raises StoreError."""
        if time.monotonic() - self._flushed > FLUSH_INTERVAL_S:
            with writing(self.path):
                self._stream.flush()
            self._flushed = time.monotonic()

    def sync(self) -> Extent:
        """Force what was written to the disk, and tell how far it goes. Raises StoreError."""
        with writing(self.path):
            self._stream.flush()
            os.fsync(self._stream.fileno())
        return self.extent

    def close(self) -> None:
        """Flush and close."""
        with writing(self.path):
            self._stream.close()
