"""TensorBoard: a folder with one event file for each run."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from pydantic import TypeAdapter

from isoloss.errors import StoreError
from isoloss.files import make_folder, write_record, writing
from isoloss.store.records import Count, read_checked
from isoloss.trackers.tracker import Position, Row, TrackedRun, Tracker, library
from isoloss.wording import level, shortened

MAX_NAME = 120
"""Characters of a folder's name before the run's id: file systems allow some 255 bytes."""


class _Written(Position):
    """What lies beside an event file: how many of its bytes count, and whether the outcome is among them."""

    size: Count
    final: bool


_WRITTEN = TypeAdapter(_Written)


class TensorBoard(Tracker):
    """Appends to event files. What a write that was killed left behind the size that counts is cut off by the next."""

    def __init__(self, into: Path) -> None:
        self._event_pb = library("tensorboard.compat.proto.event_pb2", "tensorboard")
        self._summary_pb = library("tensorboard.compat.proto.summary_pb2", "tensorboard")
        self._hparams = library("tensorboard.plugins.hparams.summary_v2", "tensorboard")
        self._text_pb = library("tensorboard.plugins.text.summary_v2", "tensorboard").text_pb
        self._record_writer = library("tensorboard.summary.writer.record_writer", "tensorboard").RecordWriter
        self.where, self.shown_by, self._into = str(into), f"tensorboard --logdir {into}", into
        with writing(into):
            make_folder(into)
            folders = [folder for folder in into.iterdir() if folder.is_dir()]
        self._folders = {folder.name.rpartition(",")[2]: folder for folder in folders}

    def position(self, id: str) -> Position | None:
        """From beside the event file."""
        written = self._written(id)
        return written and {"rows": written["rows"], "count": written["count"], "facts": written["facts"]}

    def drop(self, id: str) -> None:
        """Remove the run's folder."""
        if folder := self._folders.pop(id, None):
            shutil.rmtree(folder)

    def write(self, run: TrackedRun, rows: Sequence[Row], position: Position) -> None:
        """Append to the run's event file; the folder is renamed where the run's name has changed."""
        written = self._written(run.id)
        size, final = (written["size"], written["final"]) if written else (0, False)
        folder = self._folder(run)
        with (folder / "events.out.tfevents.isoloss").open("ab") as stream:
            stream.truncate(size)
            writer = self._record_writer(stream)
            for event in self._events(run, rows, new=not size, end=run.final and not final):
                writer.write(event.SerializeToString())
            stream.flush()
            os.fsync(stream.fileno())
            size = stream.tell()
        write_record(_record(folder), {**position, "size": size, "final": run.final or final})

    def _written(self, id: str) -> _Written | None:
        try:
            return read_checked(_WRITTEN, _record(self._folders[id]))
        except (KeyError, StoreError):
            return None

    def _folder(self, run: TrackedRun) -> Path:
        """The run's folder, by its present name."""
        named = self._into / f"{shortened(run.name.replace(' ', ','), MAX_NAME)},{run.id}"
        folder = self._folders.get(run.id, named)
        if folder != named:
            folder.rename(named)
        make_folder(named)
        self._folders[run.id] = named
        return named

    def _events(self, run: TrackedRun, rows: Sequence[Row], *, new: bool, end: bool) -> Iterator[Any]:
        """A header with the run's settings, its rows, and its outcome; runs of one cell are one group of trials."""
        if new:
            yield self._event_pb.Event(wall_time=run.started, file_version="brain.Event:2")
            settings = {name: level(value) if value is None else value for name, value in run.settings.items()}
            del settings["seed"]  # a group of trials shows the settings of its first
            trial = self._hparams.hparams_pb(settings, trial_id=run.group, start_time_secs=run.started)
            yield self._event_pb.Event(wall_time=run.started, summary=trial)
        for row in rows:
            yield self._scalars(run.started + row.seconds, row.step, row.values)
        if end:
            yield self._scalars(run.started, 0, {f"outcome/{name}": value for name, value in run.outcome.items()})
            yield self._event_pb.Event(wall_time=run.started, summary=self._text_pb("outcome/status", run.state))

    def _scalars(self, time: float, step: int, values: Mapping[str, float]) -> Any:
        tags = [self._summary_pb.Summary.Value(tag=tag, simple_value=value) for tag, value in values.items()]
        return self._event_pb.Event(wall_time=time, step=step, summary=self._summary_pb.Summary(value=tags))


def _record(folder: Path) -> Path:
    return folder / "isoloss.json"
