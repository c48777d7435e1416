"""One run on disk: one writer, append-only rows, a status replaced atomically."""

from __future__ import annotations

import json
import os
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from io import TextIOWrapper
from pathlib import Path
from typing import Any, Literal, get_args

from isoloss.errors import StoreError
from isoloss.files import explained, read_json, write_json, write_text
from isoloss.spec.config import RunConfig
from isoloss.store.layout import RunPaths

State = Literal["pending", "running", "done", "failed", "diverged"]
FLUSH_INTERVAL_S = 1.0


def now() -> str:
    """The time of day in UTC, ISO 8601, to the second."""
    return datetime.now(UTC).isoformat(timespec="seconds")


@dataclass(frozen=True)
class RunStatus:
    """Where a run stands. `provenance` tells what it was trained on, `times_s` where its wall time went."""

    state: State
    reason: str = ""
    times_s: Mapping[str, float] = field(default_factory=dict[str, float])
    provenance: Mapping[str, Any] = field(default_factory=dict[str, Any])
    updated_at: str = ""


def read_status(paths: RunPaths) -> RunStatus:
    """A run's status; a run without a status file is pending. Raises StoreError."""
    if not paths.status.exists():
        return RunStatus("pending")
    value = read_json(paths.status)
    if value.get("state") not in get_args(State):
        raise StoreError(f"{paths.status}: unknown state {value.get('state')!r}")
    try:
        return RunStatus(**value)
    except TypeError as error:
        raise StoreError(f"{paths.status}: not a run's status: {error}") from error


def write_status(paths: RunPaths, status: RunStatus) -> None:
    """Replace a run's status. Raises StoreError."""
    value = {name: getattr(status, name) for name in ("state", "reason", "times_s", "provenance")}
    write_json(paths.status, {**value, "updated_at": now()})


def create_run(paths: RunPaths, config: RunConfig) -> None:
    """Make a run's directory with its configuration. Raises StoreError."""
    with explained(paths.folder):
        paths.folder.mkdir(parents=True, exist_ok=True)
    if not paths.config.exists():
        write_json(paths.config, config.model_dump())


def read_rows(path: Path) -> Iterator[dict[str, Any]]:
    """The rows of an append-only file; a last line cut short by a crash is left out. Raises StoreError."""
    if not path.exists():
        return
    lines = path.read_text(encoding="utf-8").split("\n")
    for number, line in enumerate(lines[:-1], start=1):
        try:
            yield json.loads(line)
        except ValueError as error:
            raise StoreError(f"{path}:{number}: not a JSON row") from error


def cut_rows(path: Path, last_step: int) -> None:
    """Drop the rows after `last_step`, which a crash left behind a checkpoint's back. Raises StoreError."""
    if path.exists():
        kept = [row for row in read_rows(path) if row["step"] <= last_step]
        write_text(path, "".join(_line(row) for row in kept))


class RowWriter:
    """Appends rows to a file; they reach the system within a second, and the disk at `sync`."""

    def __init__(self, path: Path) -> None:
        self.path = path
        with explained(path):
            self._stream: TextIOWrapper = path.open("a", encoding="utf-8")
        self._flushed = time.monotonic()

    def write(self, row: Mapping[str, Any]) -> None:
        """Append one row. Raises StoreError."""
        with explained(self.path):
            self._stream.write(_line(row))
            if time.monotonic() - self._flushed > FLUSH_INTERVAL_S:
                self._stream.flush()
                self._flushed = time.monotonic()

    def sync(self) -> None:
        """Force what was written to the disk. Raises StoreError."""
        with explained(self.path):
            self._stream.flush()
            os.fsync(self._stream.fileno())

    def close(self) -> None:
        """Flush and close."""
        with explained(self.path):
            self._stream.close()


def _line(row: Mapping[str, Any]) -> str:
    return json.dumps(row, allow_nan=False) + "\n"
