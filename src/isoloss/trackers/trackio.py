"""Trackio: a project with a run for each run of a study, in its database on this machine."""

from __future__ import annotations

import json
import os
from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from isoloss.trackers.tracker import Position, Row, TrackedRun, Tracker, library, position_or_none

POSITION = "isoloss"
"""What in a run's configuration says how far it is mirrored."""


class Trackio(Tracker):
    """Writes rows, outcome and position in one transaction; rows have ids, and one that is there is not added.

    `trackio.init` and `log` are not used: they queue rows for a thread, which drops those that it cannot write.
    """

    def __init__(self, into: Path | None, study: str) -> None:
        if into is not None:
            os.environ["TRACKIO_DIR"] = str(into)  # read when trackio is imported
        self._storage: Any = library("trackio.sqlite_storage", "trackio").SQLiteStorage
        folder = library("trackio.utils", "trackio").TRACKIO_DIR
        self._project, self.where = study, f"{folder}, project {study}"
        self.shown_by = f"TRACKIO_DIR={folder} trackio show --project {study}"
        self._configs: dict[str, dict[str, Any]] = self._storage.get_all_run_configs(study)

    def position(self, id: str) -> Position | None:
        """From the run's configuration."""
        return position_or_none(self._configs.get(id, {}).get(POSITION))

    def drop(self, id: str) -> None:
        """Delete the run."""
        if config := self._configs.pop(id, None):
            self._storage.delete_run(self._project, config["name"], id)

    def write(self, run: TrackedRun, rows: Sequence[Row], position: Position) -> None:
        """Insert rows; Trackio has neither a summary nor tags, so that the outcome is part of the configuration."""
        facts = {"name": run.name, "state": run.state, "reason": run.reason, **run.outcome}
        config = {
            **run.settings,
            **facts,
            POSITION: json.dumps(position),
            "_Group": run.group,
            "_Created": _time(run.started),
        }
        points = [(row.number, row.step, row.seconds, dict(row.values)) for row in rows]
        points = points or [(0 if position["count"] else -1, 0, 0.0, {})]  # without any row it writes no configuration
        self._storage.bulk_log(
            self._project,
            run.name,
            [values for *_, values in points],
            [step for _, step, *_ in points],
            [_time(run.started + seconds) for _, _, seconds, _ in points],
            config,
            [f"{run.id}:{number}" for number, *_ in points],
            run_id=run.id,
        )
        self._configs[run.id] = config


def _time(seconds: float) -> str:
    return datetime.fromtimestamp(seconds, UTC).isoformat()
