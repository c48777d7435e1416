"""`isoloss sync`: brings a tracker to where a study is. It reads the study's directory alone, while others may train.

Rows are mirrored that a run keeps when it goes on: those it ended or stopped with, else those that its last checkpoint
vouches for. So a run that is killed and continues from that checkpoint writes on where its mirror ends. Where a mirror
has rows all the same that the run no longer has, as when a checkpoint was damaged, the run is mirrored anew.
"""

from __future__ import annotations

import secrets
import time
from collections.abc import Callable, Generator, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from isoloss.errors import IsolossError, StoreError, TrackerError
from isoloss.files import path_exists, write_record
from isoloss.locks import locked
from isoloss.store.layout import StudyPaths
from isoloss.store.opening import OpenStudy, open_study
from isoloss.store.records import MIRRORED, read_checked
from isoloss.store.run import lasting_rows, status_by_size
from isoloss.study.identity import run_id
from isoloss.trackers.runs import RecordedRun
from isoloss.trackers.tracker import Tracker

POLL_S = 10.0
"""Seconds from one update to the next of a study that is followed."""


@dataclass(frozen=True)
class Update:
    """What one update did.

    `rows` has how many rows were added to each run that was written to; the runs of `anew` were mirrored from their
    first row once more. `problems` says what cannot be read of a run. `complete`: every run has ended.
    """

    rows: Mapping[str, int]
    anew: tuple[str, ...]
    problems: Mapping[str, str]
    complete: bool


class Mirror:
    """A study's directory and the tracker that shows it."""

    def __init__(self, folder: Path, tracker: Tracker, directory: str) -> None:
        self._folder, self._directory, self.tracker = folder, directory, tracker

    def updates(self, *, follow: bool, pause: Callable[[float], object] = time.sleep) -> Iterator[Update]:
        """One update, or one after another until every run has ended. Raises as `update` does."""
        while True:
            update = self.update()
            yield update
            if update.complete or not follow:
                return
            pause(POLL_S)

    def update(self) -> Update:
        """Bring the tracker to where the study is. Raises StoreError where it cannot be opened, and TrackerError."""
        opened = open_study(self._folder)
        rows, anew, problems, complete = dict[str, int](), list[str](), dict[str, str](), True
        for config in opened.study.expand(opened.facts):
            run = run_id(config)
            paths = opened.paths.run(run)
            status = status_by_size(paths)
            waiting = status.state in ("pending", "running")
            complete &= not waiting
            try:
                if status.state == "damaged":
                    raise StoreError(status.reason)
                if (kept := lasting_rows(paths, status)) or not waiting:
                    recorded = RecordedRun(opened.study, self._directory, config, paths, status, kept)
                    with reaching(self.tracker.where):
                        position = self.tracker.position(recorded.seen.id)
                        if not recorded.is_at(position):
                            known = position["count"] if position and recorded.goes_on_from(position) else None
                            rows[run] = self._write(recorded, known)
                            anew += [run] if position and known is None else []
            except StoreError as error:
                problems[run] = str(error)
        return Update(rows, tuple(anew), problems, complete)

    def _write(self, recorded: RecordedRun, known: int | None) -> int:
        """Write a run from the rows on that are known, or anew; how many rows that added."""
        run, rows, position = recorded.read()
        if known is None:
            self.tracker.drop(run.id)
        self.tracker.write(run, rows[known or 0 :], position)
        return len(rows) - (known or 0)


@contextmanager
def mirror(folder: Path, name: str, start: Callable[[OpenStudy], Tracker]) -> Generator[Mirror]:
    """A study's mirror in the tracker of this name, which `start` opens; one process at a time has it.

    Raises StoreError where the folder is no study or another process has it, ConfigError where the tracker's library
    is missing, TrackerError where the tracker cannot be reached.
    """
    opened = open_study(folder)

    def in_use() -> str:
        return f"another isoloss sync --to {name} mirrors {folder}; end it first"

    with locked(opened.paths.folder / f".sync-{name}.lock", 0, in_use):
        with reaching(name):
            tracker = start(opened)
        try:
            yield Mirror(folder, tracker, _directory(opened.paths))
        finally:
            with reaching(tracker.where):
                tracker.close()


@contextmanager
def reaching(where: str) -> Generator[None]:
    """Turn whatever a tracker's library raises into one line. Raises TrackerError."""
    try:
        yield
    except IsolossError:
        raise
    except Exception as error:
        reason = next(iter(str(error).splitlines()), "") or type(error).__name__
        raise TrackerError(f"{where}: {reason}; what was sent is kept, the same command continues") from error


def _directory(paths: StudyPaths) -> str:
    """What tells this study's directory from others that hold the same runs, also when it is moved."""
    if not path_exists(paths.mirrored):
        write_record(paths.mirrored, {"directory": secrets.token_hex(3)})
    return read_checked(MIRRORED, paths.mirrored)["directory"]
