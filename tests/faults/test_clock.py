"""A clock that jumps by a day, back or forward, between any two steps changes no result, order or duration."""

from __future__ import annotations

import random
from datetime import datetime
from pathlib import Path
from typing import Any

import pytest

from isoloss.files import read_record
from isoloss.store.run import read_rows
from tests.faults.harness import Points, Trials, results_of


@pytest.mark.promise(10, "the clock jumps a day back or on between steps, with a kill")
def test_a_clock_that_jumps_changes_nothing(
    server: Trials, fault_free: tuple[dict[str, Any], int], tmp_path: Path, points: Points
) -> None:
    expected, operations = fault_free
    days: set[int] = set()
    for trial in points(range(50), 6):
        out, generator = tmp_path / str(trial), random.Random(trial)
        server.start(out, "kill", generator.randint(1, operations), jumps=2 * trial)
        server.finish(out, jumps=2 * trial + 1)
        assert results_of(out) == expected, trial
        for run in out.glob("runs/*"):
            status = read_record(run / "status.json")
            days.add(datetime.fromisoformat(status["updated_at"]).toordinal())
            assert all(spent >= 0 for spent in status["times_s"].values()), trial
            assert all(row["step_time_s"] > 0 for row in read_rows(run / "metrics.jsonl")), trial
            assert all(row["eval_time_s"] > 0 for row in read_rows(run / "evals.jsonl")), trial
            assert sum(status["times_s"].values()) < 600, trial
    assert len(days) > 1  # the clock did jump
