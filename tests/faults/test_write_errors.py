"""Errors of every operation on files: what was acknowledged stays, the message names the file, the study continues."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import pytest

from tests.faults.harness import FOREVER, Fault, Points, Trials, results_of

FaultFree = tuple[dict[str, Any], int]


@pytest.mark.promise(6, "ENOSPC, EIO and EFBIG at each operation, once and from there on")
@pytest.mark.parametrize("fault", ["ENOSPC", "EIO", "EFBIG"])
@pytest.mark.parametrize("times", [1, FOREVER], ids=["once", "forever"])
def test_an_error_at_any_operation_loses_nothing(
    server: Trials, fault_free: FaultFree, tmp_path: Path, points: Points, fault: Fault, times: int
) -> None:
    expected, operations = fault_free
    for at in points(range(1, operations + 1), 3):
        out = tmp_path / str(at)
        outcome = server.start(out, fault, at, times=times)
        assert not outcome.killed, at
        if outcome.states != ("done",):
            assert any(str(out) in said for said in (outcome.message, *outcome.reasons)), (at, outcome)
        outcome = server.finish(out)
        assert results_of(out) == expected, (fault, at, outcome)
        shutil.rmtree(out)
