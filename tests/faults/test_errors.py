"""Errors of the file system at every operation: what was acknowledged stays, the message says where, and it goes on."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import pytest

from tests.faults.harness import FOREVER, Harm, Points, Trials, science

Unharmed = tuple[dict[str, Any], int]


@pytest.mark.promise(6, "ENOSPC, EIO and EFBIG at each operation, once and from there on")
@pytest.mark.parametrize("harm", ["ENOSPC", "EIO", "EFBIG"])
@pytest.mark.parametrize("times", [1, FOREVER], ids=["once", "forever"])
def test_an_error_at_any_operation_loses_nothing(
    server: Trials, unharmed: Unharmed, tmp_path: Path, points: Points, harm: Harm, times: int
) -> None:
    expected, operations = unharmed
    for at in points(range(1, operations + 1), 3):
        out = tmp_path / str(at)
        told = server.start(out, harm, at, times=times)
        assert not told.killed, at
        if told.states != ("done",):
            assert any(str(out) in said for said in (told.message, *told.reasons)), (at, told)
        told = server.finish(out)
        assert science(out) == expected, (harm, at, told)
        shutil.rmtree(out)
