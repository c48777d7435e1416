"""The processes of a study, as the system lists them."""

from __future__ import annotations

from pathlib import Path


def workers_of(coordinator: int) -> list[int]:
    """The worker processes of a coordinator; none when it has ended."""
    found: list[int] = []
    for task in Path(f"/proc/{coordinator}/task").glob("*/children"):
        found += [int(child) for child in _read(task).split()]
    return [child for child in found if "spawn_main" in _read(Path(f"/proc/{child}/cmdline"))]


def alive(session: int) -> list[int]:
    """The processes of a session that have not ended."""
    found: list[int] = []
    for folder in Path("/proc").glob("[0-9]*"):
        state, *fields = _read(folder / "stat").rpartition(")")[2].split() or ["Z"]
        if state != "Z" and int(fields[2]) == session:
            found.append(int(folder.name))
    return found


def _read(path: Path) -> str:
    try:
        return path.read_text()
    except OSError:  # it has just ended
        return ""
