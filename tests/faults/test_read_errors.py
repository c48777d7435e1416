"""Errors at every read of a study's files: what cannot be read now is not treated as damaged or missing."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import pytest

from isoloss.files import sha256_file
from isoloss.store.run import read_status
from isoloss.store.tables import load_study
from tests.faults.harness import Fault, Points, Trials, results_of

FaultFree = tuple[dict[str, Any], int]


def weights(out: Path) -> dict[str, str]:
    return {str(path): sha256_file(path) for path in out.glob("runs/*/*.safetensors")}


@pytest.mark.promise(6, "EIO and EMFILE at each read of a restart: stat, open, read, listing of folders")
@pytest.mark.parametrize("fault", ["unreadable", "no handles"])
def test_a_file_that_cannot_be_read_is_used_at_the_next_start(
    server: Trials, fault_free: FaultFree, tmp_path: Path, points: Points, fault: Fault
) -> None:
    expected, operations = fault_free
    left, out = tmp_path / "left", tmp_path / "out"
    server.start(left, "kill", operations * 2 // 3)
    shutil.copytree(left, out)
    reads = server.start(out).reads
    shutil.rmtree(out)
    assert reads > 200
    for at in points(range(1, reads + 1), 6):
        shutil.copytree(left, out)
        outcome = server.start(out, fault, at)
        assert outcome.states in (("done",), ("damaged",)) or outcome.message or outcome.reasons, (at, outcome)
        server.finish(out)
        assert results_of(out) == expected, at
        shutil.rmtree(out)


@pytest.mark.promise(6, "EIO at each read of a run that takes over another's first evaluation, and of that one")
def test_a_first_evaluation_that_cannot_be_read_is_made_again(alike: Trials, tmp_path: Path, points: Points) -> None:
    whole, out = tmp_path / "whole", tmp_path / "out"
    reads, expected = alike.start(whole).reads, results_of(whole)
    statuses = [read_status(run) for run in map(load_study(whole).paths.run, expected)]
    assert sum("first_evaluation" in status.provenance for status in statuses) == 1
    for at in points(range(1, reads + 1), 6):
        alike.start(out, "unreadable", at)
        alike.finish(out)
        assert results_of(out) == expected, at
        shutil.rmtree(out)


@pytest.mark.promise(6, "EIO at each read of a study that is done: left unchanged")
def test_what_is_done_stays_done(server: Trials, fault_free: FaultFree, tmp_path: Path, points: Points) -> None:
    out = tmp_path / "out"
    server.start(out)
    run = load_study(out).paths.run(next(iter(fault_free[0])))
    status, kept = read_status(run), weights(out)
    reads = server.start(out).reads
    assert reads > 50
    for at in points(range(1, reads + 1), 4):
        server.start(out, "unreadable", at)
        assert weights(out) == kept and server.finish(out).began is None, at
        after = read_status(run)
        assert (after.times_s, after.provenance, after.rows) == (status.times_s, status.provenance, status.rows), at
        assert results_of(out) == fault_free[0]
