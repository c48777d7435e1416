"""Weights & Biases: a project with a run for each run of a study, online, or offline for `wandb sync` to upload."""

from __future__ import annotations

import os
import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from pydantic import TypeAdapter

from isoloss.errors import StoreError
from isoloss.files import make_folder, write_record, writing
from isoloss.store.records import Count, read_checked
from isoloss.trackers.tracker import NO_ROWS, Position, Row, TrackedRun, Tracker, library


class _Sent(Position):
    """What is kept of a run on this machine, since offline W&B cannot tell: the sessions that were completed.

    `version` counts how often the run was mirrored anew: W&B does not take the id of a deleted run again.
    """

    version: Count
    sessions: list[str]


_SENT = TypeAdapter(_Sent)
_NOTHING: _Sent = {**NO_ROWS, "version": 0, "sessions": []}


class WeightsAndBiases(Tracker):
    """Sends a run in sessions; that of a run that trains stays open. One that was killed is sent again: online W&B says
    how far it came, offline its folder is removed.

    W&B counts a run's rows, training steps and evaluations together; its charts are over `step`.
    """

    def __init__(self, into: Path, study: str) -> None:
        self._wandb = library("wandb", "wandb")
        self._project = os.environ.get("WANDB_PROJECT") or study
        self._folder = into / "wandb"
        self._records = self._folder / "isoloss" / self._project
        self.where = f"{self._folder}, project {self._project}"
        self.shown_by = f"wandb sync {self._folder}"
        self._open: dict[str, tuple[Any, TrackedRun, Position]] = {}
        self._settings = self._wandb.Settings(
            console="off",
            disable_code=True,
            disable_git=True,
            save_code=False,
            silent=True,
            x_disable_meta=True,
            x_disable_stats=True,
        )
        with writing(self._folder):
            make_folder(self._folder)

    def position(self, id: str) -> Position | None:
        """From the session in progress, else from what is kept of those that were completed."""
        if id in self._open:
            return self._open[id][2]
        sent = self._sent(id)
        return sent and {"rows": sent["rows"], "count": sent["count"], "facts": sent["facts"]}

    def drop(self, id: str) -> None:
        """Remove what waits for `wandb sync`, and take another id from now on: what was uploaded stays."""
        if id in self._open:
            self._finish(id)
        if sent := self._sent(id):
            self._remove_sessions(id, sent, but=())
            self._keep(id, {**_NOTHING, "version": sent["version"] + 1})

    def write(self, run: TrackedRun, rows: Sequence[Row], position: Position) -> None:
        """Log the rows that W&B does not have; the outcome is the run's summary, its state and seed are tags."""
        session = self._open.pop(run.id)[0] if run.id in self._open else self._begin(run)
        for row in rows:
            if row.number >= session.starting_step:
                own = {"step": row.step, "_timestamp": run.started + row.seconds}
                session.log({**row.values, **own}, step=row.number)
        session.tags = (f"seed={run.seed}", run.state)
        session.summary.update({**run.outcome, "state": run.state, "reason": run.reason})
        self._open[run.id] = session, run, position
        if run.state != "running":
            self._finish(run.id)

    def close(self) -> None:
        """Complete the sessions in progress."""
        for id in list(self._open):
            self._finish(id)

    def _begin(self, run: TrackedRun) -> Any:
        sent = self._sent(run.id) or _NOTHING
        self._remove_sessions(run.id, sent, but=sent["sessions"])
        session = self._wandb.init(
            project=self._project,
            id=_versioned(run.id, sent),
            name=run.name,
            group=run.group,
            config=dict(run.settings),
            dir=str(self._folder.parent),
            resume="allow",
            reinit="create_new",
            settings=self._settings,
        )
        session.define_metric("*", step_metric="step")
        self.shown_by = session.project_url or self.shown_by
        return session

    def _finish(self, id: str) -> None:
        session, run, position = self._open.pop(id)
        folder = Path(session.settings.sync_dir).name
        session.finish(exit_code=int(run.state in ("failed", "diverged")))
        sent = self._sent(id) or _NOTHING
        self._keep(id, {**position, "version": sent["version"], "sessions": [*sent["sessions"], folder]})

    def _remove_sessions(self, id: str, sent: _Sent, but: Sequence[str]) -> None:
        own = _versioned(id, sent)  # W&B adds a number to the folders of sessions that begin in the same second
        for pattern in (f"offline-run-*-{own}", f"offline-run-*-{own}-*"):
            for folder in self._folder.glob(pattern):
                if folder.name not in but:
                    shutil.rmtree(folder)

    def _sent(self, id: str) -> _Sent | None:
        try:
            return read_checked(_SENT, self._records / f"{id}.json")
        except StoreError:
            return None

    def _keep(self, id: str, sent: _Sent) -> None:
        write_record(self._records / f"{id}.json", sent)


def _versioned(id: str, sent: _Sent) -> str:
    return f"{id}v{sent['version'] + 1}" if sent["version"] else id
