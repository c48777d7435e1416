"""Events through a file, for workers that nobody may be listening to: one appends lines, another reads what is new."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import asdict
from pathlib import Path
from types import TracebackType

from pydantic import TypeAdapter, ValidationError

from isoloss.errors import StoreError
from isoloss.execution.recorder import Event
from isoloss.files import reading, writing

_EVENT = TypeAdapter(Event)


class EventWriter:
    """Appends events to a file, each a line that reaches the system at once. Raises StoreError."""

    def __init__(self, path: Path) -> None:
        with writing(path):
            self._path, self._stream = path, path.open("ab", buffering=0)

    def write(self, event: Event) -> None:
        """Append one."""
        with writing(self._path):
            self._stream.write((json.dumps(asdict(event)) + "\n").encode())

    def __enter__(self) -> EventWriter:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self._stream.close()


class EventReader:
    """Reads the events of such a file, which may not be there yet."""

    def __init__(self, path: Path) -> None:
        self._path, self._at = path, 0

    @property
    def seen(self) -> bool:
        """Whether there was anything."""
        return self._at > 0

    def new(self) -> Iterator[Event]:
        """Those of whole lines that were not read yet; what is no event is left out. Raises StoreError."""
        try:
            with reading(self._path), self._path.open("rb") as stream:
                stream.seek(self._at)
                content = stream.read()
        except StoreError as error:
            if isinstance(error.__cause__, FileNotFoundError):
                return
            raise
        whole = content[: content.rfind(b"\n") + 1]
        self._at += len(whole)
        for line in whole.splitlines():
            try:
                yield _EVENT.validate_json(line)
            except ValidationError:
                continue
