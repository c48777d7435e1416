"""Study directories that are joined: runs by what they compute, from wherever they are, and what is in doubt said."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from isoloss.cli import run_command_line
from isoloss.errors import ConfigError, StoreError
from isoloss.execution.executor import Inline
from isoloss.execution.study import RunOptions, run_study
from isoloss.files import write_record
from isoloss.report.study_report import write_report
from isoloss.store import merging
from isoloss.store.merging import merge_studies
from isoloss.store.run import read_rows
from isoloss.store.tables import StudyResults, load_study
from isoloss.study.stated_hypotheses import make_hypothesis
from isoloss.study.study import Study

OPTIONS = RunOptions(device="cpu", precision="fp32")
TINY = {"n_layer": 1, "n_embd": 16, "n_head": 2, "block_size": 16, "batch_size": 4, "max_iters": 4}
TINY |= {"eval_interval": 2, "warmup_iters": 1, "eval_train_tokens": 256}


@pytest.fixture
def trained(text_file: Path, tmp_path: Path) -> Callable[..., Path]:
    def train(name: str, seeds: tuple[int, ...] = (1,), options: RunOptions = OPTIONS, **levels: Any) -> Path:
        factors = {key: given for key, given in levels.items() if isinstance(given, tuple)}
        base = {key: value for key, value in {**TINY, **levels}.items() if key not in factors}
        run_study(Study("s", str(text_file), base=base, factors=factors, seeds=seeds), tmp_path / name, options,
                  executor=Inline())  # fmt: skip
        return tmp_path / name

    return train


def losses(results: StudyResults) -> dict[str, list[Any]]:
    runs = results.summary()["run_id"]
    return {run: [row["loss"] for row in read_rows(results.paths.run(run).metrics)] for run in runs}


def test_halves_by_seed_are_the_study_that_one_machine_would_have_trained(
    trained: Callable[..., Path], tmp_path: Path
) -> None:
    halves = [trained("a", (1,), dropout=(0.0, 0.1)), trained("b", (2,), dropout=(0.0, 0.1))]
    merged = merge_studies(halves, tmp_path / "c")
    whole = load_study(trained("whole", (1, 2), dropout=(0.0, 0.1)))
    assert merged.conflicts == () and load_study(tmp_path / "c").study == whole.study
    assert losses(load_study(tmp_path / "c")) == losses(whole)
    assert {paths.parent.parent.name for paths in merged.taken.values()} == {"a", "b"}
    assert json.loads((tmp_path / "c/provenance.2.json").read_text()) == json.loads(
        (tmp_path / "b/provenance.json").read_text()
    )


def test_halves_of_other_cells_become_runs_and_what_neither_has_is_trained_later(
    trained: Callable[..., Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    a, b = trained("a", (1,), dropout=(0.0, 0.1)), trained("b", (2,), dropout=(0.1, 0.2), n_embd=32)
    folders = [str(a), str(b)]
    assert run_command_line(["merge", *folders, "--out", str(tmp_path / "c")]) == 0
    captured = capsys.readouterr()
    assert captured.out == f"{tmp_path / 'c'}\n" and "4 of 8 runs are there" in captured.err
    merged = load_study(tmp_path / "c")
    assert merged.study.varied == {"n_embd": (16, 32), "dropout": (0.0, 0.1, 0.2)} and len(merged.study.runs) == 4
    run_study(merged.study, tmp_path / "c", OPTIONS, executor=Inline())
    assert merged.summary()["status"].to_list() == ["done"] * 8
    assert losses(load_study(tmp_path / "a")).items() <= losses(merged).items()


def test_a_run_that_two_have_trained_to_other_losses_is_named(
    trained: Callable[..., Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    a, b = trained("a"), trained("b")
    assert merge_studies([a, b], tmp_path / "same").conflicts == ()
    monkeypatch.setattr(merging, "_losses", lambda paths: paths)  # as of another machine
    (conflict,) = merge_studies([a, b], tmp_path / "other").conflicts
    assert "has other losses in" in conflict and str(a) in conflict
    (rows,) = b.glob("runs/*/metrics.jsonl")
    rows.write_text(rows.read_text()[:-9])
    (conflict,) = merge_studies([b, a], tmp_path / "damaged").conflicts
    assert conflict.endswith(f"is damaged in {rows.parent}")
    assert load_study(tmp_path / "damaged").summary()["status"].to_list() == ["done"]


def test_what_was_stated_late_stays_late(trained: Callable[..., Path], tmp_path: Path) -> None:
    a, b = trained("a", (1,), dropout=(0.0, 0.1)), trained("b", (2,), dropout=(0.0, 0.1))
    stated = make_hypothesis({"says": "Dropout hurts", "kind": "effect", "factor": "dropout", "direction": "up"}, 1)
    late = replace(load_study(a).study, hypotheses=(stated,))
    run_study(late, a, OPTIONS, executor=Inline())
    merge_studies([a, b], tmp_path / "c")
    (claim,) = write_report(load_study(tmp_path / "c")).claims
    assert claim.after_training


def test_what_cannot_be_joined_is_refused_and_nothing_is_written(trained: Callable[..., Path], tmp_path: Path) -> None:
    a, b = trained("a"), trained("b", (2,))
    with pytest.raises(ConfigError, match="two study directories or more"):
        merge_studies([a], tmp_path / "c")
    with pytest.raises(ConfigError, match="lies inside"):
        merge_studies([a, b], a / "joined")
    merge_studies([a, b], tmp_path / "there")
    with pytest.raises(StoreError, match="holds a study already"):
        merge_studies([a, b], tmp_path / "there")
    record = json.loads((b / "tokenizer.json").read_text())
    del record["digest"]
    write_record(b / "tokenizer.json", {**record, "corpus_sha256": "ab" * 32})
    with pytest.raises(ConfigError, match="of different texts"):
        merge_studies([a, b], tmp_path / "c")
    assert not (tmp_path / "c").exists()
