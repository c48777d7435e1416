"""MLflow: an experiment with a run for each run of a study, in a database or on a tracking server."""

from __future__ import annotations

import json
import logging
import os
from collections.abc import Sequence
from typing import Any

from isoloss.trackers.tracker import Position, Row, TrackedRun, Tracker, library, position_or_none
from isoloss.wording import level

ID, POSITION = "isoloss.id", "isoloss.position"
"""Tags of a run: which it is, and how far it is mirrored."""
MAX_METRICS, MAX_PARAMS = 1000, 100
"""Most of either that MLflow takes at once."""
STATUS = {"done": "FINISHED", "diverged": "FAILED", "failed": "FAILED", "running": "RUNNING", "pending": "SCHEDULED"}


class MLflow(Tracker):
    """Sends points again after a write that was killed: MLflow keeps those of equal key, step, time and value once."""

    def __init__(self, uri: str, study: str) -> None:
        self._mlflow, self._entities = library("mlflow", "mlflow"), library("mlflow.entities", "mlflow")
        logging.getLogger("mlflow").setLevel(logging.WARNING)
        logging.getLogger("alembic").setLevel(logging.WARNING)
        self._client = self._mlflow.MlflowClient(tracking_uri=uri)
        name = os.environ.get("MLFLOW_EXPERIMENT_NAME") or study
        known = self._client.get_experiment_by_name(name)
        self._experiment: str = known.experiment_id if known else self._client.create_experiment(name)
        self.where, self.shown_by = f"{uri}, experiment {name}", f"mlflow ui --backend-store-uri {uri}"
        self._runs = self._known_runs()

    def position(self, id: str) -> Position | None:
        """From a tag of the run."""
        return position_or_none(self._runs[id].data.tags.get(POSITION)) if id in self._runs else None

    def drop(self, id: str) -> None:
        """Delete the run, which MLflow can restore."""
        if run := self._runs.pop(id, None):
            self._client.delete_run(run.info.run_id)

    def write(self, run: TrackedRun, rows: Sequence[Row], position: Position) -> None:
        """Log a thousand points at a time. The outcome is logged once no more rows follow."""
        known = self._runs.get(run.id) or self._new(run)
        name, began_ms = known.info.run_id, known.info.start_time
        metric, tag = self._entities.Metric, self._entities.RunTag
        points = [
            metric(key, value, began_ms + round(1000 * row.seconds), row.step)
            for row in rows
            for key, value in row.values.items()
        ]
        points += [metric(key, value, began_ms, 0) for key, value in run.outcome.items() if run.final]
        for first in range(0, len(points), MAX_METRICS):
            self._client.log_batch(name, metrics=points[first : first + MAX_METRICS])
        self._client.update_run(name, status=STATUS[run.state], name=run.name)
        tags = {"study": run.study, "group": run.group, "seed": str(run.seed), "state": run.state, "reason": run.reason}
        self._client.log_batch(
            name, tags=[tag(key, value) for key, value in (tags | {POSITION: json.dumps(position)}).items()]
        )
        self._runs[run.id] = self._client.get_run(name)

    def _new(self, run: TrackedRun) -> Any:
        tags = {ID: run.id}
        made = self._client.create_run(self._experiment, round(1000 * run.started), tags, run.name)
        params = [self._entities.Param(name, level(value)) for name, value in run.settings.items()]
        for first in range(0, len(params), MAX_PARAMS):
            self._client.log_batch(made.info.run_id, params=params[first : first + MAX_PARAMS])
        return made

    def _known_runs(self) -> dict[str, Any]:
        """The experiment's runs that were mirrored, by their ids."""
        found, token = dict[str, Any](), None
        while token != "":
            page = self._client.search_runs([self._experiment], page_token=token)
            found |= {run.data.tags[ID]: run for run in page if ID in run.data.tags}
            token = page.token or ""
        return found
