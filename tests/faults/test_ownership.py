"""Many coordinators on one study: one owns it, the others say who; readers disturb nobody."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from isoloss.cli.status import status_as_text
from isoloss.errors import StoreError
from isoloss.store.owner import owned
from isoloss.store.tables import load_study
from tests.faults.harness import Trials, science


def command(study: Path, out: Path) -> list[str]:
    return [sys.executable, "-m", "isoloss", "run", str(study), "--out", str(out), "--device", "cpu"]


@pytest.mark.promise(5, "20 starts at once: 19 are turned away and told by whom")
def test_of_twenty_starts_one_owns_the_study(
    study: Path, unharmed: tuple[dict[str, object], int], tmp_path: Path
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
    assert science(out) == unharmed[0]
    print(f"the last of the others left after {sorted(ended.values())[-2]:.1f} s")


@pytest.mark.promise(5, "a dead owner, a reader killed")
def test_a_dead_owner_keeps_nobody_out_and_readers_nobody_waiting(
    server: Trials, unharmed: tuple[dict[str, object], int], tmp_path: Path
) -> None:
    expected, operations = unharmed
    out = tmp_path / "out"
    server.start(out, "kill", operations // 2)
    left = load_study(out)
    assert left.summary()["status"].to_list() == ["running"] and "nobody runs it now" in status_as_text(left)
    with owned(left.paths):
        assert "nobody" not in status_as_text(left)
    reader = subprocess.Popen([sys.executable, "-m", "isoloss", "status", str(out)], stdout=subprocess.PIPE)
    time.sleep(0.1)
    os.kill(reader.pid, signal.SIGKILL)
    reader.communicate()
    assert server.start(out).states == ("done",) and science(out) == expected
