"""Results folders that earlier releases wrote (tests/old_results/make.py) open, go on and are exported."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from isoloss.cli import run_command_line
from isoloss.store.run import read_rows
from isoloss.store.tables import load_study
from tests.old_results.make import STUDY

FOLDERS = sorted(path for path in (Path(__file__).parent / "old_results").iterdir() if (path / "study.yaml").exists())


@pytest.fixture(params=FOLDERS, ids=lambda path: path.name)
def folder(request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    shutil.copytree(request.param, tmp_path / "old")
    shutil.copyfile(request.param.parent / "text.txt", tmp_path / "text.txt")
    monkeypatch.chdir(tmp_path)
    return tmp_path / "old"


def test_a_folder_is_read_and_reported(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    results = load_study(folder)
    assert sorted(results.summary()["status"]) == ["done", "pending"] and results.set_aside == []
    assert {config.eval_val_tokens for config in results.configs} == {0}  # all of it, as there was no such setting
    assert run_command_line(["status", str(folder)]) == 0
    assert run_command_line(["report", str(folder)]) == 0
    assert "Dropout hurts" in (folder / "report/index.html").read_text()
    assert capsys.readouterr().out


def test_a_folder_goes_on_where_it_was_stopped_and_keeps_its_runs(folder: Path, tmp_path: Path) -> None:
    before = load_study(folder).summary()
    done = before.filter(status="done")["run_id"][0]
    rows = [*read_rows(folder / "runs" / done / "metrics.jsonl")]
    (tmp_path / "old.yaml").write_text(STUDY.format(corpus="text.txt"))
    command = ["run", "old.yaml", "--out", str(folder), "--device", "cpu", "--compile", "off", "--workers", "1"]
    assert run_command_line([*command, "--accept-other-numerics"]) == 0
    after = load_study(folder).summary()
    assert after["run_id"].to_list() == before["run_id"].to_list()
    assert after["status"].to_list() == ["done", "done"]
    assert [*read_rows(folder / "runs" / done / "metrics.jsonl")] == rows
    (stopped,) = set(after["run_id"]) - {done}
    assert [row["step"] for row in read_rows(folder / "runs" / stopped / "metrics.jsonl")] == [*range(6)]
    assert not (folder / "study.1.yaml").exists()  # it is the same study


def test_a_run_of_a_folder_is_exported(folder: Path, tmp_path: Path) -> None:
    assert run_command_line(["export", str(folder), "--to", "hf", "--out", str(tmp_path / "hf")]) == 0
    assert (tmp_path / "hf/config.json").exists()
