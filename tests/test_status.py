"""What `status` says of a study: from statuses alone where runs have ended, from rows where they are running."""

from __future__ import annotations

import json
import os
import platform
from pathlib import Path
from typing import Any

import pytest

from isoloss.cli.status import status_as_json, status_as_text
from isoloss.files import read_record, write_record
from isoloss.store import run as run_module
from isoloss.store.layout import RunPaths, StudyPaths
from isoloss.store.opening import open_study
from isoloss.store.progress import StudyProgress, study_progress
from isoloss.store.run import State
from isoloss.study.compute import train_flops
from isoloss.study.config import RunConfig
from isoloss.study.identity import run_id
from isoloss.study.study import Study
from tests.fake_studies import fake_study

STUDY = Study(
    name="six",
    corpus="a.txt",
    base={"n_layer": 1, "max_iters": 40, "eval_interval": 10},
    factors={"n_embd": (32, 64, 128)},
    seeds=(1, 2),
)
STATES: dict[int, tuple[State, str]] = {
    2: ("running", ""),
    3: ("diverged", "loss is not finite"),
    4: ("failed", "no disk"),
    5: ("pending", ""),
}
"""Runs 0 and 1, 32 wide, are done. The others took 7 steps, one of half a second, and were evaluated once."""


def curve(_config: RunConfig, number: int, step: int) -> float:
    """Every run is better than the one before it, and best half-way."""
    return 3.0 - number / 10 + abs(step - 20) / 100


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    fake_study(tmp_path, STUDY, STATES, curve)
    return tmp_path


def progress(folder: Path) -> StudyProgress:
    opened = open_study(folder)
    return study_progress(opened.paths, {run_id(config): config for config in opened.study.expand(opened.facts)})


def owner(folder: Path, process: int) -> None:
    write_record(StudyPaths(folder).owner, {"process": process, "machine": platform.node(), "since": "now"})


def told(folder: Path) -> dict[str, Any]:
    return json.loads(status_as_json(open_study(folder)))


def test_it_says_the_best_loss_and_of_which_run(folder: Path) -> None:
    best = told(folder)["best"]
    runs = list(progress(folder).runs)
    assert best == {"run_id": runs[1], "n_embd": 32, "seed": 2, "val_loss": 2.9, "step": 20}, "of those that are done"
    expected = f"best validation loss so far: 2.9000 nats/token, step 20 of run {runs[1]} (n_embd=32 seed=2)"
    assert expected in status_as_text(open_study(folder))


def test_while_none_is_done_the_best_of_all_counts(tmp_path: Path) -> None:
    fake_study(tmp_path, STUDY, dict.fromkeys(range(6), ("running", "")), curve)
    assert told(tmp_path)["best"]["val_loss"] == pytest.approx(3.0 - 0.5 + 0.2)
    fake_study(tmp_path / "none", STUDY, dict.fromkeys(range(6), ("pending", "")))
    assert told(tmp_path / "none")["best"] is None and "best" not in status_as_text(open_study(tmp_path / "none"))


def test_it_says_what_is_running_at_which_recorded_step(folder: Path) -> None:
    running = told(folder)["runs"][2]
    assert (running["state"], running["step"], running["max_iters"]) == ("running", 7, 40)
    text = status_as_text(open_study(folder))
    assert f"  {running['run_id']}  running   step 7/40  n_embd=64 seed=1" in text
    assert "six: 2 done, 1 running, 1 diverged, 1 failed, 1 pending" in text
    assert "    loss is not finite" in text and "    no disk" in text


def test_the_time_left_follows_from_recorded_steps_and_their_time(folder: Path) -> None:
    runs = list(progress(folder).runs.values())
    flops = [train_flops(run.config) for run in runs]
    spent = 2 * 6.5 + (6 * 0.01 + 0.5 + 1.0)  # two runs that are done, and seven steps with one evaluation
    taken = flops[0] + flops[1] + flops[2] * 7 / 40
    left = flops[2] * 33 / 40 + flops[5]  # a run that failed or diverged is not trained on
    assert progress(folder).left_s == pytest.approx(spent / taken * left, rel=1e-4)
    assert "done in about " in status_as_text(open_study(folder))


def test_runs_that_go_on_at_once_share_the_time_and_the_longest_bounds_it(tmp_path: Path) -> None:
    fake_study(tmp_path, STUDY, {4: ("running", ""), 5: ("running", "")}, curve)
    found = progress(tmp_path)
    pace = sum(run.seconds for run in found.runs.values()) / sum(run.flops for run in found.runs.values())
    one = pace * list(found.runs.values())[5].flops_left
    assert found.left_s == pytest.approx(one), "two equal runs at once take as long as one"


def test_nothing_is_running_once_its_process_is_gone(folder: Path) -> None:
    owner(folder, os.getpid())
    assert not told(folder)["abandoned"] and told(folder)["left_s"] > 0
    owner(folder, 2**22 + 1)  # more than Linux gives
    found = told(folder)
    assert found["abandoned"] and found["left_s"] is None and found["runs"][2]["step"] == 0, (
        "no checkpoint to go on from"
    )
    assert status_as_text(open_study(folder)).endswith(
        "not running: the process that trained it has ended; the same `isoloss run` command continues"
    )


def test_rows_of_runs_that_have_ended_are_not_read(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    read: list[str] = []
    parse = run_module.read_bytes

    def counted(path: Path, max_bytes: int) -> bytes:
        read.append(f"{path.parent.name}/{path.name}")
        return parse(path, max_bytes)

    monkeypatch.setattr(run_module, "read_bytes", counted)
    found = progress(folder)
    ended = [run for run, it in found.runs.items() if it.state == "done"]
    assert len(ended) == 2 and read and not {name for name in read if name.partition("/")[0] in ended}


def test_a_file_of_rows_that_is_shorter_than_it_was_is_damage(folder: Path) -> None:
    run = RunPaths(folder / "runs" / next(iter(progress(folder).runs)))
    run.metrics.write_bytes(run.metrics.read_bytes()[:-1])
    first = told(folder)["runs"][0]
    assert first["state"] == "damaged" and first["reason"].startswith(f"{run.metrics}: damaged, not the ")
    run.metrics.unlink()
    assert told(folder)["runs"][0]["reason"] == first["reason"]


def test_a_study_of_an_earlier_version_has_a_best_loss_too(folder: Path) -> None:
    before = told(folder)["best"]
    for path in folder.glob("runs/*/status.json"):
        write_record(path, {key: value for key, value in read_record(path).items() if key != "measured"})
    assert told(folder)["best"] == before
