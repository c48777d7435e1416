"""A power cut: what was not forced to the disk is lost or torn, and the study still finishes as it would have."""

from __future__ import annotations

import json
import random
import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

from isoloss.errors import IsolossError
from isoloss.files import read_checksummed, read_record
from isoloss.training import checkpoint
from tests.faults.disk import Disk, Operation, crashes, recorded
from tests.faults.harness import Points, Trials, results_of

RECORDS = ("tokenizer.json", "provenance.json", "config.json", "status.json", "curves.json")
RECORDS += ("best.json", "last.json", "previous.json")


def readable(folder: Path) -> bool:
    """Whether every record that is there is whole, and one checkpoint is, where there was one."""
    for path in (path for name in RECORDS for path in folder.rglob(name)):
        read_record(path)
    for path in folder.glob("study.yaml"):
        read_checksummed(path)
    for run in folder.glob("runs/*"):
        found = [path.stem for path in run.glob("*.json") if path.stem in ("last", "previous")]
        if found and not any(_loads(run, name) for name in found):
            return False
    return True


def replayed(disk: Disk, operations: Sequence[Operation]) -> dict[str, int]:
    """Perform the operations; the steps of the checkpoints whose place in their folder was then forced to the disk."""
    acknowledged: dict[str, int] = {}
    for operation in operations:
        disk.take(operation)
        content = disk.content(f"{operation.path}/last.json") if operation.name == "sync" else None
        if content is not None:
            acknowledged[f"{operation.path[1:]}/last.json"] = step_of(content)
    return acknowledged


def step_of(sidecar: bytes) -> int:
    return int(json.loads(sidecar)["progress"]["step"])


def _loads(run: Path, name: str) -> bool:
    try:
        return bool(checkpoint.load(run, name))
    except IsolossError:
        return False


@pytest.mark.promise(3, "the recorded writes cut at each point, unforced content or names lost or torn, 5 ways")
def test_a_power_cut_leaves_the_old_or_the_new(
    server: Trials, fault_free: tuple[dict[str, Any], int], tmp_path: Path, points: Points
) -> None:
    server.start(tmp_path / "whole", record=tmp_path / "operations")
    operations = recorded(tmp_path / "operations")
    ways = range(len(crashes(random.Random(0))))
    for cut, number in points([(cut, way) for cut in range(1, len(operations) + 1) for way in ways], 16):
        way, files, names, torn = crashes(random.Random(cut))[number]
        disk, out = Disk(), tmp_path / f"{cut}"
        acknowledged = replayed(disk, operations[:cut])
        disk.leave(out, files, names, torn)
        assert readable(out), (cut, way)
        assert all(step_of((out / path).read_bytes()) >= step for path, step in acknowledged.items()), (cut, way)
        outcome = server.finish(out)
        assert results_of(out) == fault_free[0], (cut, way, outcome)
        shutil.rmtree(out)


def test_the_model_of_a_disk_loses_what_was_not_forced(tmp_path: Path) -> None:
    """What this file rests on: a file that is renamed before it was forced comes back empty."""
    (tmp_path / "operations").write_bytes(
        b"mkdir\t\t\t0\t0\ncreate\t/new\t\t0\t0\nwrite\t/new\t\t0\t4\nnewsrename\t/new\t/old\t0\t0\nsync\t\t\t0\t0\n"
    )
    disk = Disk()
    for operation in recorded(tmp_path / "operations"):
        disk.take(operation)
    left: dict[str, bytes] = {}
    for way, files, names, torn in crashes(random.Random(0))[:4]:
        disk.leave(tmp_path / way, files, names, torn)
        left[way] = (tmp_path / way / "old").read_bytes()
    assert left == {"content lost": b"", "names lost": b"news", "both lost": b"", "torn": b"ne"}
