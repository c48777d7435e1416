"""SIGINT and SIGTERM at any instant, a closed pipe: an orderly end, no orphan, nothing lost."""

from __future__ import annotations

import fcntl
import os
import random
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from isoloss.files import read_record
from isoloss.store.layout import RunPaths
from isoloss.store.run import read_rows, read_status
from tests.faults.harness import Points, Trials, results_of, serving
from tests.faults.processes import alive

FaultFree = tuple[dict[str, Any], int]
LONGEST_S = 10.0


def start(study: Path, out: Path, **options: Any) -> subprocess.Popen[Any]:
    command = [sys.executable, "-m", "isoloss", "run", str(study), "--out", str(out), "--workers", "2"]
    options = {"stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL, **options}
    return subprocess.Popen([*command, "--device", "cpu"], start_new_session=True, **options)


@pytest.fixture(scope="module")
def lasting(study: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Path, Trials, dict[str, Any]]]:
    """The study with some seconds of steps, so that many a stop comes between two; what starts it; what it finds."""
    path = study.with_name("lasting.yaml")
    path.write_text(study.read_text().replace("max_iters: 8, eval_interval: 3", "max_iters: 1500, eval_interval: 250"))
    with serving(path, tmp_path_factory) as server:
        out = tmp_path_factory.mktemp("fault_free") / "out"
        server.start(out)
        yield path, server, results_of(out)


@pytest.mark.promise(9, "SIGINT and SIGTERM at random instants: saved, and all ends within 10 s")
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_stop_at_any_instant_is_orderly(
    lasting: tuple[Path, Trials, dict[str, Any]], tmp_path: Path, points: Points, number: int
) -> None:
    study, server, expected = lasting
    for trial in points(range(25), 2):
        out, generator = tmp_path / str(trial), random.Random(trial)
        process = start(study, out)
        while not out.exists():  # until then python is starting, and handles a signal in its own way
            time.sleep(0.01)
        if trial % 2:
            while process.poll() is None and not list(out.glob("runs/*/metrics.jsonl")):
                time.sleep(0.01)
        time.sleep(generator.uniform(0.0, 1.0 if trial % 2 else 3.0))
        since = time.time()
        code = _stopped(process, number)
        if code == 0:
            assert _finished(out, since + 1.0), trial
        elif code == -number:  # it had not yet begun to train, and took the signal as any program does
            assert not list(out.glob("runs/*/metrics.jsonl")), trial
        else:
            assert code == 130 and all(map(_saved, out.glob("runs/*"))), (trial, code)
        server.finish(out)
        assert results_of(out) == expected, trial


def _stopped(process: subprocess.Popen[Any], number: int) -> int:
    """Ask a study to stop; its exit code, once it and all its processes have ended in time."""
    asked = time.monotonic()
    process.send_signal(number)
    code = process.wait(LONGEST_S)
    while alive(process.pid) and time.monotonic() - asked < LONGEST_S:
        time.sleep(0.05)
    assert not alive(process.pid), code
    return code


def _saved(run: Path) -> bool:
    """Whether a run that was stopped is kept at its last step."""
    if not (run / "metrics.jsonl").exists():
        return True
    steps = len(list(read_rows(run / "metrics.jsonl")))
    return read_status(RunPaths(run)).state == "pending" and read_record(run / "last.json")["progress"]["step"] == steps


@pytest.mark.promise(9, "the reader of stdout and stderr closed, then SIGHUP: the study continues")
def test_a_closed_pipe_stops_no_study(study: Path, fault_free: FaultFree, tmp_path: Path) -> None:
    reading, writing = os.pipe()
    process = start(study, tmp_path / "out", stdout=writing, stderr=writing)
    os.close(reading)
    os.close(writing)
    while not (tmp_path / "out" / "runs").exists():
        time.sleep(0.05)
    os.killpg(process.pid, signal.SIGHUP)
    process.wait(120)
    assert results_of(tmp_path / "out") == fault_free[0]


@pytest.mark.promise(9, "messages that nobody reads: a stop still ends within 10 s")
def test_a_frozen_terminal_holds_nothing_up(lasting: tuple[Path, Trials, dict[str, Any]], tmp_path: Path) -> None:
    study, server, expected = lasting
    reading, writing = os.pipe()
    os.write(writing, bytes(fcntl.fcntl(writing, fcntl.F_GETPIPE_SZ)))  # the pipe is full
    out = tmp_path / "out"
    process, began = start(study, out, stderr=writing), time.monotonic()
    while not list(out.glob("runs/*/metrics.jsonl")):
        assert process.poll() is None and time.monotonic() - began < 60, "it does not train"
        time.sleep(0.01)
    assert _stopped(process, signal.SIGTERM) == 130 and all(map(_saved, out.glob("runs/*")))
    os.close(reading)
    os.close(writing)
    server.finish(out)
    assert results_of(out) == expected


@pytest.mark.promise(9, "no standard streams from the start: the study is trained")
def test_streams_that_were_never_open_are_not_missed(study: Path, fault_free: FaultFree, tmp_path: Path) -> None:
    command = [sys.executable, "-m", "isoloss", "run", str(study), "--out", str(tmp_path), "--device", "cpu"]
    command += ["--workers", "2"]
    assert subprocess.run(["sh", "-c", 'exec "$@" <&- >&- 2>&-', "sh", *command], check=False).returncode == 0
    assert results_of(tmp_path) == fault_free[0]


def _finished(out: Path, by: float) -> bool:
    """Whether the run was done by a time, so that there was nothing left to stop."""
    status = next(out.glob("runs/*/status.json"))
    return '"done"' in status.read_text() and status.stat().st_mtime < by
