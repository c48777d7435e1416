"""SIGKILL at every operation on a study's files, halfway through every write, and at any instant between."""

from __future__ import annotations

import random
import shutil
import time
from pathlib import Path
from typing import Any

import pytest

from tests.faults.harness import Harm, Trials, science

Unharmed = tuple[dict[str, Any], int]


@pytest.mark.parametrize("harm", ["kill", "half"])
def test_a_kill_at_any_operation_is_recovered_from(
    server: Trials, unharmed: Unharmed, tmp_path: Path, few: int | None, harm: Harm
) -> None:
    expected, operations = unharmed
    generator = random.Random(harm)
    points = range(1, operations + 1) if few is None else sorted(generator.sample(range(1, operations + 1), few))
    for at in points:
        out = tmp_path / str(at)
        killed = server.start(out, harm, at)
        assert killed.killed, at
        server.start(out, "kill", generator.randint(1, operations))  # the recovery is killed too
        told = server.start(out)
        assert told.states == ("done",) and science(out) == expected, (harm, at)
        shutil.rmtree(out)


def test_a_kill_at_any_instant_is_recovered_from(
    server: Trials, unharmed: Unharmed, tmp_path: Path, few: int | None
) -> None:
    expected, _ = unharmed
    started = time.monotonic()
    server.start(tmp_path / "timed")
    takes = time.monotonic() - started
    generator = random.Random(0)
    for trial in range(few or 200):
        out = tmp_path / str(trial)
        while not server.start(out, kill_after=generator.uniform(0, takes)).killed:
            shutil.rmtree(out, ignore_errors=True)
        assert server.start(out).states == ("done",) and science(out) == expected, trial
        shutil.rmtree(out)
