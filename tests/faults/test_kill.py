"""SIGKILL at every operation on a study's files, halfway through every write, and at any instant between."""

from __future__ import annotations

import os
import random
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest

from tests.faults.harness import Fault, Points, Trials, results_of
from tests.faults.processes import workers_of

FaultFree = tuple[dict[str, Any], int]


@pytest.mark.parametrize(
    "fault",
    [
        pytest.param("kill", marks=pytest.mark.promise(2, "SIGKILL before each operation, the recovery killed again")),
        pytest.param("half", marks=pytest.mark.promise(2, "SIGKILL halfway through each write, likewise")),
    ],
)
def test_a_kill_at_any_operation_is_recovered_from(
    server: Trials, fault_free: FaultFree, tmp_path: Path, points: Points, fault: Fault
) -> None:
    expected, operations = fault_free
    for at in points(range(1, operations + 1), 8):
        out = tmp_path / str(at)
        killed = server.start(out, fault, at)
        assert killed.killed, at
        server.start(out, "kill", random.Random(f"{fault} {at}").randint(1, operations))
        server.finish(out)
        assert results_of(out) == expected and not list(out.glob("runs/*/.*safetensors*")), (fault, at)
        shutil.rmtree(out)


@pytest.mark.parametrize(
    "two",
    [
        pytest.param(
            "stacked",
            marks=pytest.mark.promise(2, "SIGKILL before each operation of two runs in one stack, likewise"),
        ),
        pytest.param(
            "continuing",
            marks=pytest.mark.promise(
                2, "SIGKILL before each operation of a run and of one that continues it, likewise"
            ),
        ),
        pytest.param(
            "forking",
            marks=pytest.mark.promise(
                2, "SIGKILL before each operation of a run and of one that leaves it on its way, likewise"
            ),
        ),
        pytest.param(
            "alike",
            marks=pytest.mark.promise(
                2, "SIGKILL before each operation of a run and of one that takes over its first evaluation, likewise"
            ),
        ),
    ],
    indirect=True,
)
def test_a_kill_at_any_operation_of_two_runs_is_recovered_from(
    two: Trials, tmp_path_factory: pytest.TempPathFactory, tmp_path: Path, points: Points
) -> None:
    whole = tmp_path_factory.mktemp("whole") / "out"
    two.start(whole.with_name("first"))
    operations, expected = two.start(whole).operations, results_of(whole)
    for at in points(range(1, operations + 1), 5):
        out = tmp_path / str(at)
        two.start(out, "kill", at)
        two.start(out, "kill", random.Random(at).randint(1, operations))
        two.finish(out)
        assert results_of(out) == expected, at
        shutil.rmtree(out)


@pytest.fixture
def two(request: pytest.FixtureRequest) -> Trials:
    return request.getfixturevalue(request.param)


@pytest.mark.promise(1, "SIGKILL of the process that trains")
def test_a_kill_at_any_instant_is_recovered_from(
    server: Trials, fault_free: FaultFree, tmp_path: Path, points: Points
) -> None:
    expected, _ = fault_free
    started = time.monotonic()
    server.start(tmp_path / "timed")
    takes = time.monotonic() - started
    for trial in points(range(200), 8):
        out, generator = tmp_path / str(trial), random.Random(trial)
        while not server.start(out, kill_after=generator.uniform(0, takes)).killed:
            shutil.rmtree(out, ignore_errors=True)
        server.finish(out)
        assert results_of(out) == expected, trial
        shutil.rmtree(out)


@pytest.mark.promise(1, "SIGKILL of a worker, or of the coordinator")
def test_a_killed_worker_or_coordinator_changes_nothing(
    study: Path, fault_free: FaultFree, tmp_path: Path, points: Points
) -> None:
    for trial in points(range(30), 1):
        out, generator = tmp_path / str(trial), random.Random(trial)
        command = [sys.executable, "-m", "isoloss", "run", str(study), "--out", str(out), "--workers", "2"]
        command += ["--device", "cpu"]
        killed = False
        while not killed:
            shutil.rmtree(out, ignore_errors=True)
            with subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL) as process:
                while process.poll() is None and not workers_of(process.pid):
                    time.sleep(0.01)
                time.sleep(generator.uniform(0, 4))
                killed = process.poll() is None and _killed(process.pid, worker=bool(trial % 2))
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        assert done.returncode == 0 and results_of(out) == fault_free[0], (trial, done.stderr)


def _killed(coordinator: int, *, worker: bool) -> bool:
    """Kill a coordinator or its worker; whether there was one."""
    victims = workers_of(coordinator) if worker else [coordinator]
    try:
        for victim in victims:
            os.kill(victim, signal.SIGKILL)
    except ProcessLookupError:
        return False
    return bool(victims)
