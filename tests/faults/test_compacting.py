"""Compacting that is killed, refused the disk, or cut off from power: each run is compacted or as it was."""

from __future__ import annotations

import random
import shutil
import subprocess
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from isoloss.execution.compacting import Keep, compact_study
from isoloss.files import bytes_in
from isoloss.store.tables import load_study
from isoloss.training import checkpoint, compacted
from isoloss.training.state import MemberState
from tests.faults.disk import Disk, crashes, recorded
from tests.faults.harness import FOREVER, Fault, Points, Trials

KEEPS = ("weights", "best_weights")


@pytest.fixture
def trained(continuing: Trials, tmp_path: Path) -> Path:
    """Two runs that are done: one file is best and last of the first, the second's best is not its last."""
    out = tmp_path / "trained"
    continuing.start(out)
    _, second = sorted(out.glob("runs/*"))
    best = checkpoint.load(second, "best")
    checkpoint.save(second, "best", replace(best, flat_P=best.flat_P / 2), checkpoint.read_metadata(second, "best"))
    return out


def copied(folder: Path, to: Path) -> Path:
    """A copy in which what was one file is one file."""
    subprocess.run(["cp", "-a", folder, to], check=True)
    return to


def check(out: Path, before: Path) -> None:
    """Every checkpoint is whole and of the same weights as before, and every run is done."""
    for run in out.glob("runs/*"):
        was = before / "runs" / run.name
        for name in compacted.kept_by(run):
            found, expected = checkpoint.load_weights(run, name), checkpoint.load_weights(was, name)
            assert torch.equal(found.flat_P, expected.flat_P) and found.progress == expected.progress
        assert "best" in compacted.kept_by(run)
    assert set(load_study(out).summary()["status"]) == {"done"}


def check_compacted(out: Path, before: Path, kept: dict[str, list[str]]) -> None:
    """All the same, and no run has anything but weights, of these checkpoints."""
    check(out, before)
    for run in out.glob("runs/*"):
        assert compacted.kept_by(run) == kept[run.name] and not list(run.glob("*.tmp"))
        assert sorted(path.stem for path in run.glob("*.safetensors")) == kept[run.name]
        assert not any(isinstance(checkpoint.load_weights(run, name), MemberState) for name in kept[run.name])


def names_kept(out: Path) -> dict[str, list[str]]:
    return {run.name: compacted.kept_by(run) for run in out.glob("runs/*")}


@pytest.mark.promise(2, "SIGKILL before each operation of compacting, or halfway through each write; ENOSPC and EIO")
@pytest.mark.parametrize("keep", KEEPS)
@pytest.mark.parametrize("fault", ["kill", "half", "ENOSPC", "EIO"])
def test_a_fault_at_any_operation_leaves_a_run_compacted_or_as_it_was(
    continuing: Trials, trained: Path, tmp_path: Path, points: Points, fault: Fault, keep: Keep
) -> None:
    whole = copied(trained, tmp_path / "whole")
    operations, kept = continuing.start(whole, compact=keep).operations, names_kept(whole)
    assert [*dict(sorted(kept.items())).values()] == [["best", "last"], ["best"] + ["last"] * (keep == "weights")]
    for at in points(range(1, operations + 1), 5):
        out = copied(trained, tmp_path / str(at))
        outcome = continuing.start(out, fault, at, times=FOREVER, compact=keep)
        assert outcome.killed == (fault in ("kill", "half")), at
        assert outcome.killed or outcome.message or outcome.reasons, at
        check(out, trained)
        assert not compact_study(load_study(out), keep).refused
        check_compacted(out, trained, kept)
        assert abs(bytes_in(out / "runs") - bytes_in(whole / "runs")) < 10, at
        shutil.rmtree(out)


@pytest.mark.promise(3, "compacting cut at each recorded write, likewise")
@pytest.mark.parametrize("keep", KEEPS)
def test_a_power_cut_leaves_a_run_compacted_or_as_it_was(
    continuing: Trials, tmp_path: Path, points: Points, keep: Keep
) -> None:
    whole, record = tmp_path / "whole", tmp_path / "operations"
    continuing.start(whole, record=record)
    before, begun = copied(whole, tmp_path / "before"), len(recorded(record))
    continuing.start(whole, record=record, compact=keep)
    operations, kept = recorded(record), names_kept(whole)
    ways = range(len(crashes(random.Random(0))))
    for cut, number in points([(cut, way) for cut in range(begun, len(operations) + 1) for way in ways], 8):
        way, files, names, torn = crashes(random.Random(cut))[number]
        disk, out = Disk(), tmp_path / f"{cut}"
        for operation in operations[:cut]:
            disk.take(operation)
        disk.leave(out, files, names, torn)
        check(out, before)
        assert not compact_study(load_study(out), keep).refused, (cut, way)
        check_compacted(out, before, kept)
        shutil.rmtree(out)
