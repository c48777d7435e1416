"""Many coordinators on one study: one owns it, the others name the owner; readers block nobody."""

from __future__ import annotations

import re
import subprocess
import sys
import time
from pathlib import Path

import pytest

from isoloss.cli.status import status_as_text
from isoloss.errors import Interrupted, StoreError
from isoloss.execution import run_locks
from isoloss.execution.executor import Inline
from isoloss.execution.options import RunOptions
from isoloss.execution.study import run_study
from isoloss.store.opening import open_study
from isoloss.store.owner import owned
from isoloss.store.tables import load_study
from isoloss.study.studyfile import find_study
from tests.faults.harness import RecordingDisplay, Trials, results_of


def command(study: Path, out: Path) -> list[str]:
    return [sys.executable, "-m", "isoloss", "run", str(study), "--out", str(out), "--device", "cpu"]


@pytest.mark.promise(5, "20 starts at once: 19 are refused, with the owner named")
def test_of_twenty_starts_one_owns_the_study(
    study: Path, fault_free: tuple[dict[str, object], int], tmp_path: Path
) -> None:
    out = tmp_path / "out"
    started = time.monotonic()
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
    starts = [subprocess.Popen(command(study, out), **pipes) for _ in range(20)]
    ended: dict[int, float] = {}
    while len(ended) < len(starts):
        ended |= {
            n: time.monotonic() - started for n, p in enumerate(starts) if n not in ended and p.poll() is not None
        }
        time.sleep(0.01)
    said = [process.communicate()[1] for process in starts]
    owners = [n for n, process in enumerate(starts) if process.returncode == 0]
    assert len(owners) == 1, [process.returncode for process in starts]
    for n, process in enumerate(starts):
        if n not in owners:
            assert process.returncode == StoreError.exit_code, said[n]
            assert re.search(r"is in use by (process \d+ on|another isoloss)", said[n])
    assert results_of(out) == fault_free[0]
    print(f"the last of the others left after {sorted(ended.values())[-2]:.1f} s")


@pytest.mark.promise(5, "an owner killed, a reader killed")
def test_a_dead_owner_keeps_nobody_out_and_readers_nobody_waiting(
    server: Trials, fault_free: tuple[dict[str, object], int], tmp_path: Path
) -> None:
    expected, operations = fault_free
    out = tmp_path / "out"
    server.start(out, "kill", operations // 2)
    left, opened = load_study(out), open_study(out)
    assert left.summary()["status"].to_list() == ["running"] and "not running: " in status_as_text(opened)
    with owned(left.paths):
        assert "not running: " not in status_as_text(opened)
    reader = [sys.executable, "-m", "isoloss", "status", str(out)]
    started = time.monotonic()
    subprocess.run(reader, capture_output=True, check=True)
    takes = time.monotonic() - started
    for share in (0.7, 0.8, 0.9):  # the first part goes into imports
        with subprocess.Popen(reader, stdout=subprocess.DEVNULL) as process:
            time.sleep(share * takes)
            process.kill()
    server.finish(out)
    assert results_of(out) == expected


@pytest.mark.promise(5, "a run that another process still writes: left unchanged")
def test_a_run_that_is_being_written_is_left_to_its_writer(
    server: Trials,
    study: Path,
    fault_free: tuple[dict[str, object], int],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """As after a kill of the coordinator alone: its worker may be in the middle of an evaluation."""
    out = tmp_path / "out"
    server.start(out, "kill", fault_free[1] // 2)
    run = next(out.glob("runs/*"))
    status = (run / "status.json").read_bytes()
    for limit in ("LOCK_POLL_INTERVAL_S", "LOCK_TIMEOUT_S"):
        monkeypatch.setattr(run_locks, limit, 0.1)
    program = "import fcntl, sys; f = open(sys.argv[1], 'w'); fcntl.flock(f, fcntl.LOCK_EX); print(flush=True); input()"
    with subprocess.Popen(
        [sys.executable, "-c", program, str(run / ".lock")], stdin=subprocess.PIPE, stdout=subprocess.PIPE
    ) as writer:
        assert writer.stdout and writer.stdout.readline()
        display = RecordingDisplay()
        run_study(find_study(str(study)), out, RunOptions(device="cpu"), executor=Inline(), listener=display)
        assert "is being written by another process" in display.reasons[0]
        assert (run / "status.json").read_bytes() == status
        monkeypatch.setattr(run_locks, "LOCK_TIMEOUT_S", 30.0)
        waiting, began = RecordingDisplay(), time.monotonic()
        with pytest.raises(Interrupted):  # a stop ends the wait
            run_study(
                find_study(str(study)),
                out,
                RunOptions(device="cpu"),
                executor=Inline(),
                listener=waiting,
                should_stop=lambda: "waiting for it" in waiting.text(),
            )
        assert time.monotonic() - began < 20
        assert (run / "status.json").read_bytes() == status
        writer.kill()
    server.finish(out)
    assert results_of(out) == fault_free[0]
