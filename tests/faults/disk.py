"""A model of a disk under crashes: the recorded writes of a study, replayed to any point.

Only what was forced to the disk is certain to be there. Of what a file was given since it was last forced, and of the
names a folder was given since it was, all, nothing, or the first part may be there, the last write of it torn.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath


@dataclass(frozen=True)
class Operation:
    """One recorded operation; paths are relative to the study's directory, which is the empty one."""

    name: str
    path: str
    other: str
    offset: int
    data: bytes


def recorded(path: Path) -> list[Operation]:
    """The operations in a file written by the shim."""
    content, place, found = path.read_bytes(), 0, list[Operation]()
    while place < len(content):
        end = content.index(b"\n", place)
        name, first, other, offset, size = content[place:end].decode().split("\t")
        written = int(size) if name == "write" else 0
        found.append(Operation(name, first, other, int(offset), content[end + 1 : end + 1 + written]))
        place = end + 1 + written
    return found


@dataclass
class _File:
    """What was forced to the disk, and the writes (offset, data) and truncations (size, None) since then."""

    forced: bytes = b""
    since: list[tuple[int, bytes | None]] = field(default_factory=list[tuple[int, "bytes | None"]])


Entry = tuple[str, "_File | str | None"]
"""A name in a folder and what it was set to: a file, a folder (its path), or None when removed."""


@dataclass
class _Folder:
    forced: dict[str, _File | str] = field(default_factory=dict[str, "_File | str"])
    since: list[Entry] = field(default_factory=list[Entry])


Kept = Callable[[int], int]
"""How many of so many unforced changes the crash leaves, the first ones."""
_ALL: Kept = lambda n: n  # noqa: E731
_NONE: Kept = lambda n: 0  # noqa: E731


class Disk:
    """Takes operations, then shows what a crash may leave."""

    def __init__(self) -> None:
        self._folders = {"": _Folder()}
        self._names: dict[str, _File] = {}

    def take(self, operation: Operation) -> None:
        """Perform one operation."""
        name, path = operation.name, operation.path
        if name == "mkdir":
            self._folders[path] = _Folder()
            if path:
                self._enter(path, path)
        elif name == "create":
            self._names[path] = _File()
            self._enter(path, self._names[path])
        elif name == "write":
            self._names[path].since.append((operation.offset, operation.data))
        elif name in ("truncate", "empty"):
            self._names[path].since.append((operation.offset, None))
        elif name == "link":
            self._names[operation.other] = self._names[path]
            self._enter(operation.other, self._names[path])
        elif name == "rename":
            if self._names.get(operation.other) is not self._names[path]:
                self._names[operation.other] = self._names.pop(path)
                self._enter(operation.other, self._names[operation.other])
                self._enter(path, None)
        elif name == "unlink" and path in self._names:
            del self._names[path]
            self._enter(path, None)
        elif name == "sync":
            self._sync(path)

    def content(self, path: str) -> bytes | None:
        """What a reader sees before any crash; None where there is no such file."""
        file = self._names.get(path)
        return None if file is None else _content(file.forced, file.since, torn=False)

    def leave(self, folder: Path, files: Kept, names: Kept, torn: bool) -> None:
        """Write what is left into a new folder; the last kept write to each file is torn where asked."""
        self._leave(folder, "", files, names, torn)

    def _leave(self, folder: Path, path: str, files: Kept, names: Kept, torn: bool) -> None:
        folder.mkdir(parents=True)
        content = dict(self._folders[path].forced)
        changes = self._folders[path].since
        for name, value in changes[: names(len(changes))]:
            if value is None:
                content.pop(name, None)
            else:
                content[name] = value
        for name, value in content.items():
            if isinstance(value, str):
                self._leave(folder / name, value, files, names, torn)
            else:
                kept = value.since[: files(len(value.since))]
                (folder / name).write_bytes(_content(value.forced, kept, torn and bool(kept)))

    def _enter(self, path: str, value: _File | str | None) -> None:
        pure = PurePosixPath(path)
        parent = "" if str(pure.parent) in ("/", ".") else str(pure.parent)
        self._folders[parent].since.append((pure.name, value))

    def _sync(self, path: str) -> None:
        if path in self._folders:
            folder = self._folders[path]
            for name, value in folder.since:
                if value is None:
                    folder.forced.pop(name, None)
                else:
                    folder.forced[name] = value
            folder.since.clear()
        elif path in self._names:
            file = self._names[path]
            file.forced = _content(file.forced, file.since, torn=False)
            file.since.clear()


def _content(forced: bytes, changes: Sequence[tuple[int, bytes | None]], torn: bool) -> bytes:
    content = bytearray(forced)
    for number, (offset, data) in enumerate(changes, 1):
        if data is None:
            del content[offset:]
            continue
        data = data[: len(data) // 2] if torn and number == len(changes) else data
        content.extend(bytes(max(0, offset - len(content))))
        content[offset : offset + len(data)] = data
    return bytes(content)


def crashes(generator: random.Random) -> list[tuple[str, Kept, Kept, bool]]:
    """The ways a crash may go: what it leaves of unforced content, of unforced names, and whether writes tear."""

    def some(n: int) -> int:
        return generator.randint(0, n)

    return [
        ("content lost", _NONE, _ALL, False),
        ("names lost", _ALL, _NONE, False),
        ("both lost", _NONE, _NONE, False),
        ("torn", _ALL, _ALL, True),
        ("any of both", some, some, True),
    ]
