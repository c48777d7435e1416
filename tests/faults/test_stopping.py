"""SIGINT and SIGTERM at any instant, a closed pipe: an orderly end, no orphan, nothing lost."""

from __future__ import annotations

import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest

from tests.faults.harness import Points, Trials, science
from tests.faults.processes import alive

Unharmed = tuple[dict[str, Any], int]
LONGEST_S = 10.0


def start(study: Path, out: Path, **options: Any) -> subprocess.Popen[Any]:
    command = [sys.executable, "-m", "isoloss", "run", str(study), "--out", str(out), "--workers", "2"]
    options = {"stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL, **options}
    return subprocess.Popen([*command, "--device", "cpu"], start_new_session=True, **options)


@pytest.mark.promise(9, "SIGINT and SIGTERM at random instants: all ends within 10 s")
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_stop_at_any_instant_is_orderly(
    server: Trials, study: Path, unharmed: Unharmed, tmp_path: Path, points: Points, number: int
) -> None:
    for trial in points(range(25), 2):
        out, generator = tmp_path / str(trial), random.Random(trial)
        process = start(study, out)
        while not out.exists():  # until then it is python that starts, and answers a signal in its own way
            time.sleep(0.01)
        time.sleep(generator.uniform(0.0, 7.0))
        asked, since = time.monotonic(), time.time()
        process.send_signal(number)
        code = process.wait(LONGEST_S)
        while alive(process.pid) and time.monotonic() - asked < LONGEST_S:
            time.sleep(0.05)
        assert not alive(process.pid), (trial, code)
        assert code in (130, -number) or (code == 0 and _finished(out, since + 1.0)), (trial, code)
        told = server.start(out)
        assert told.states == ("done",) and science(out) == unharmed[0], trial


@pytest.mark.promise(9, "both ends of output closed, then SIGHUP: the study goes on")
def test_a_closed_pipe_stops_no_study(study: Path, unharmed: Unharmed, tmp_path: Path) -> None:
    reading, writing = os.pipe()
    process = start(study, tmp_path / "out", stdout=writing, stderr=writing)
    os.close(reading)
    os.close(writing)
    while not (tmp_path / "out" / "runs").exists():
        time.sleep(0.05)
    os.killpg(process.pid, signal.SIGHUP)
    process.wait(120)
    assert science(tmp_path / "out") == unharmed[0]


def _finished(out: Path, by: float) -> bool:
    """Whether the run was done by a time, so that there was nothing left to stop."""
    status = next(out.glob("runs/*/status.json"))
    return '"done"' in status.read_text() and status.stat().st_mtime < by
