"""Errors at every look at a study's files: what cannot be read just now is neither damaged nor missing."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import pytest

from isoloss.files import sha256_file
from isoloss.store.run import read_status
from isoloss.store.tables import load_study
from tests.faults.harness import Harm, Points, Trials, science

Unharmed = tuple[dict[str, Any], int]


def weights(out: Path) -> dict[str, str]:
    return {str(path): sha256_file(path) for path in out.glob("runs/*/*.safetensors")}


@pytest.mark.promise(6, "EIO and EMFILE at each look of a restart: files asked for, opened, read, folders listed")
@pytest.mark.parametrize("harm", ["unreadable", "no handles"])
def test_what_cannot_be_looked_at_is_gone_on_from_later(
    server: Trials, unharmed: Unharmed, tmp_path: Path, points: Points, harm: Harm
) -> None:
    expected, operations = unharmed
    left, out = tmp_path / "left", tmp_path / "out"
    server.start(left, "kill", operations * 2 // 3)
    shutil.copytree(left, out)
    looks = server.start(out).looks
    shutil.rmtree(out)
    assert looks > 200
    for at in points(range(1, looks + 1), 6):
        shutil.copytree(left, out)
        told = server.start(out, harm, at)
        assert told.states in (("done",), ("damaged",)) or told.message or told.reasons, (at, told)
        server.finish(out)
        assert science(out) == expected, at
        shutil.rmtree(out)


@pytest.mark.promise(6, "EIO at each look at a study that is done: it stays as it was")
def test_what_is_done_stays_done(server: Trials, unharmed: Unharmed, tmp_path: Path, points: Points) -> None:
    out = tmp_path / "out"
    server.start(out)
    run = load_study(out).paths.run(next(iter(unharmed[0])))
    status, kept = read_status(run), weights(out)
    looks = server.start(out).looks
    assert looks > 100
    for at in points(range(1, looks + 1), 4):
        server.start(out, "unreadable", at)
        assert weights(out) == kept and server.finish(out).began is None, at
        after = read_status(run)
        assert (after.times_s, after.provenance, after.rows) == (status.times_s, status.provenance, status.rows), at
        assert science(out) == unharmed[0]
