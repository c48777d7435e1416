"""A real disk that is full: the message names the folder and what is needed, and with space the study goes on."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from tests.faults.harness import Points

NEEDED = re.compile(r"needs about [\d.]+; free some space|free some space \([\d.]+ MB are left in ")
IN_A_NAMESPACE = ["unshare", "--user", "--map-root-user", "--mount"]


@pytest.fixture
def can_mount(few: int | None) -> None:
    """Skips where the system lets nobody mount; `make faults` needs one that does."""
    mounts = shutil.which(IN_A_NAMESPACE[0]) and not subprocess.run([*IN_A_NAMESPACE, "true"], check=False).returncode
    if few is not None and not mounts:
        pytest.skip("this system lets nobody mount a small disk: a full one is tried by answering ENOSPC alone")


@pytest.mark.promise(6, "a small disk (tmpfs) that fills up")
@pytest.mark.usefixtures("can_mount", "server")
def test_a_disk_that_fills_up_loses_nothing(
    study: Path, fault_free: tuple[dict[str, Any], int], tmp_path: Path, points: Points
) -> None:
    everywhere = range(0, 46_000, 1_150)  # the finished run takes some 50,000 bytes more
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    for left in points(everywhere, 2):
        disk = tmp_path / str(left)
        disk.mkdir()
        command = [*IN_A_NAMESPACE, sys.executable, "-m", "tests.faults.small_disk", str(study), str(disk), str(left)]
        done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stderr
        outcome = json.loads(done.stdout)
        assert outcome["states"] != ["done"], "the disk was not full"
        assert str(disk) in outcome["message"] and NEEDED.search(outcome["message"]), outcome
        assert outcome["began"] >= outcome["kept"], outcome
        assert outcome["science"] == json.loads(json.dumps(fault_free[0])), left
