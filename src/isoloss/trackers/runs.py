"""A run's files as a tracker takes them: its settings under a name, its rows in order, its outcome."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import replace
from itertools import accumulate
from typing import Any

from isoloss.errors import StoreError, UnreadableError
from isoloss.files import path_exists, reading, sha256_bytes
from isoloss.store.layout import RunPaths
from isoloss.store.outcome import measure, measured_when_it_ended
from isoloss.store.records import EvalRecord, ExtentRecord, StepRecord
from isoloss.store.run import NOTHING, ROWS, Extent, RunStatus, check_rows, eval_rows, extents, step_rows
from isoloss.study import compute
from isoloss.study.config import RunConfig
from isoloss.study.identity import run_id
from isoloss.study.study import Study
from isoloss.trackers.tracker import Position, Row, TrackedRun
from isoloss.wording import level


class RecordedRun:
    """A run on disk at one moment, as far as its rows are `kept`.

    `directory` tells the study's directory from others; `seen` is what a tracker shows, without the outcome. Raises
    UnreadableError.
    """

    def __init__(
        self,
        study: Study,
        directory: str,
        config: RunConfig,
        paths: RunPaths,
        status: RunStatus,
        kept: Mapping[str, Extent],
    ) -> None:
        self._paths, self._status = paths, status
        self._extents = {name: kept.get(name, NOTHING) for name in ROWS}
        self.seen = _seen(study, directory, config, paths, status)
        told = (self.seen.name, self.seen.group, self.seen.state, self.seen.reason)
        self._facts = sha256_bytes(json.dumps(told).encode())

    def is_at(self, position: Position | None) -> bool:
        """Whether nothing has come since a position."""
        return position is not None and (position["facts"], extents(position["rows"])) == (self._facts, self._extents)

    def goes_on_from(self, position: Position) -> bool:
        """Whether the rows up to a position are still those of the run. Raises UnreadableError."""
        held = extents(position["rows"])
        try:
            for name in ROWS:
                check_rows(self._paths.rows(name), held[name])
        except UnreadableError:
            raise
        except StoreError:
            return False
        return all(held[name].size <= self._extents[name].size for name in ROWS)

    def read(self) -> tuple[TrackedRun, list[Row], Position]:
        """The run with its outcome, its rows, and the position of a tracker that has both. Raises StoreError."""
        for name, extent in self._extents.items():
            check_rows(self._paths.rows(name), extent)
        steps = step_rows(self._paths, self._extents["metrics"])
        evals = eval_rows(self._paths, self._extents["evals"])
        measured = measured_when_it_ended(self._status) or measure(steps, evals)
        times = {f"{name}_time_s": seconds for name, seconds in self._status.times_s.items()}
        outcome = {
            name: float(value) for name, value in {**measured, **times}.items() if isinstance(value, int | float)
        }
        rows = _in_order(steps, evals)
        kept: dict[str, ExtentRecord] = {
            name: {"size": extent.size, "sha256": extent.sha256} for name, extent in self._extents.items()
        }
        position: Position = {"rows": kept, "count": len(rows), "facts": self._facts}
        return replace(self.seen, outcome=outcome), rows, position


def _seen(study: Study, directory: str, config: RunConfig, paths: RunPaths, status: RunStatus) -> TrackedRun:
    run = run_id(config)
    group = " ".join(f"{name}={level(getattr(config, name))}" for name in study.varied) or study.name
    settings: dict[str, Any] = {
        "run_id": run,
        **config.model_dump(),
        "params_total": compute.params_total(config),
        "params_non_embedding": compute.params_non_embedding(config),
        "train_tokens": compute.train_tokens(config),
        "train_flops": compute.train_flops(config),
    }
    oldest = paths.config if path_exists(paths.config) else paths.status
    with reading(oldest):
        started = oldest.stat().st_mtime  # about when the study began: rows have durations, no time of day
    return TrackedRun(
        f"{run}-{directory}",
        study.name,
        f"{group} seed={config.seed}",
        group,
        config.seed,
        settings,
        status.state,
        status.reason,
        {},
        started,
    )


def _in_order(steps: Sequence[StepRecord], evals: Sequence[EvalRecord]) -> list[Row]:
    """Both kinds of rows as they were recorded: an evaluation at a step comes before the training of that step."""
    found = [
        *((row["step"], row["eval_time_s"], _values("eval", row)) for row in evals),
        *((row["step"], row["step_time_s"], _values("train", row)) for row in steps),
    ]
    found.sort(key=lambda row: row[0])  # stable: evaluations stay first
    elapsed = accumulate(seconds for _, seconds, _ in found)
    return [
        Row(number, step, seconds, values)
        for number, ((step, _, values), seconds) in enumerate(zip(found, elapsed, strict=True))
    ]


def _values(kind: str, row: Mapping[str, Any]) -> dict[str, float]:
    """What has one value at its step."""
    return {f"{kind}/{name}": value for name, value in row.items() if name != "step" and isinstance(value, int | float)}
