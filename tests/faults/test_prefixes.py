"""A run whose predecessor is damaged trains the first steps itself."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from isoloss.execution.executor import Inline
from isoloss.execution.options import RunOptions
from isoloss.execution.study import run_study
from isoloss.store.tables import StudyResults, load_study
from isoloss.study.studyfile import find_study
from tests.faults.harness import RecordingDisplay, Trials, results_of


def continued(results: StudyResults) -> tuple[str, str]:
    """The run that continues from another, and that other."""
    return next(
        (run, s.provenance["continues"])
        for run in results.summary()["run_id"]
        if "continues" in (s := results.status(run)).provenance
    )


@pytest.mark.promise(7, "a damaged run from which others continue: they train its steps themselves")
@pytest.mark.parametrize("name", ["last.safetensors", "best.safetensors", "last.json", "metrics.jsonl"])
def test_a_damaged_predecessor_costs_no_study(continuing: Trials, prefixed: Path, tmp_path: Path, name: str) -> None:
    whole, out = tmp_path / "whole", tmp_path / "out"
    continuing.start(whole)
    shutil.copytree(whole, out)
    later, earlier = continued(load_study(out))
    shutil.rmtree(out / "runs" / later)
    path = out / "runs" / earlier / name
    path.write_bytes(bytes(reversed(path.read_bytes())))
    display = RecordingDisplay()
    run_study(find_study(str(prefixed)), out, RunOptions(device="cpu"), executor=Inline(), listener=display)
    assert results_of(out)[later] == results_of(whole)[later]
    if name != "metrics.jsonl":  # rows are looked at before, and their run is trained anew
        assert f"run {later} trains its first steps itself" in display.text()
