"""Checkpoints written by a thread while training goes on, as on CUDA: kills and errors at every operation and instant.

How far training has come meanwhile differs from trial to trial, and so do the evaluations whose states are written: the
results must not.
"""

from __future__ import annotations

import random
import shutil
import time
from pathlib import Path
from typing import Any

import pytest

from tests.faults.harness import Fault, Points, Trials, results_of


@pytest.fixture(scope="module")
def whole(
    stacked: Trials, beside: Trials, tmp_path_factory: pytest.TempPathFactory
) -> tuple[dict[str, Any], int, float]:
    """The results with checkpoints written between steps, and operations and seconds of writing them beside."""
    folder = tmp_path_factory.mktemp("whole")
    stacked.start(folder / "between")
    expected = results_of(folder / "between")
    beside.start(folder / "cached")
    started = time.monotonic()
    outcome = beside.start(folder / "beside")
    assert outcome.states == ("done", "done") and results_of(folder / "beside") == expected
    return expected, outcome.operations, time.monotonic() - started


@pytest.mark.parametrize(
    "fault",
    [
        pytest.param("kill", marks=pytest.mark.promise(2, "SIGKILL before each operation, checkpoints by a thread")),
        pytest.param("half", marks=pytest.mark.promise(2, "SIGKILL halfway through each write, likewise by a thread")),
        pytest.param("ENOSPC", marks=pytest.mark.promise(6, "ENOSPC at each operation, checkpoints by a thread")),
        pytest.param("EIO", marks=pytest.mark.promise(6, "EIO at each operation, checkpoints by a thread")),
    ],
)
def test_a_fault_at_any_operation_loses_nothing(
    beside: Trials, whole: tuple[dict[str, Any], int, float], tmp_path: Path, points: Points, fault: Fault
) -> None:
    expected, operations, _ = whole
    for at in points(range(1, operations + 1), 4):
        out = tmp_path / str(at)
        outcome = beside.start(out, fault, at)
        if fault in ("ENOSPC", "EIO") and set(outcome.states) != {"done"}:
            assert any(str(out) in said for said in (outcome.message, *outcome.reasons)), (at, outcome)
        beside.finish(out)
        assert results_of(out) == expected, (fault, at)
        shutil.rmtree(out)


@pytest.mark.promise(1, "SIGKILL of the process that trains, checkpoints by a thread")
def test_a_kill_at_any_instant_is_recovered_from(
    beside: Trials, whole: tuple[dict[str, Any], int, float], tmp_path: Path, points: Points
) -> None:
    expected, _, takes = whole
    for trial in points(range(100), 4):
        out, generator = tmp_path / str(trial), random.Random(trial)
        while not beside.start(out, kill_after=generator.uniform(0, takes)).killed:
            shutil.rmtree(out, ignore_errors=True)
        beside.finish(out)
        assert results_of(out) == expected, trial
        shutil.rmtree(out)
