"""Errors of the file system at every operation: what was acknowledged stays, the message says where, and it goes on."""

from __future__ import annotations

import random
import shutil
from pathlib import Path
from typing import Any

import pytest

from tests.faults.harness import FOREVER, Harm, Trials, science

Unharmed = tuple[dict[str, Any], int]


@pytest.mark.parametrize("harm", ["ENOSPC", "EIO", "EFBIG"])
@pytest.mark.parametrize("times", [1, FOREVER])
def test_an_error_at_any_operation_loses_nothing(
    server: Trials, unharmed: Unharmed, tmp_path: Path, few: int | None, harm: Harm, times: int
) -> None:
    expected, operations = unharmed
    generator = random.Random(f"{harm} {times}")
    everywhere = range(1, operations + 1)
    for at in everywhere if few is None else sorted(generator.sample(everywhere, few // 2)):
        out = tmp_path / str(at)
        told = server.start(out, harm, at, times=times)
        assert not told.killed, at
        if times == FOREVER and told.states != ("done",):
            assert str(out) in told.message or "failed" in told.states, (at, told)
        told = server.start(out)
        assert told.states == ("done",) and science(out) == expected, (harm, at, told)
        shutil.rmtree(out)
