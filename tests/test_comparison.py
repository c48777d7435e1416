"""Two studies side by side: what differs, what is shared, and the difference with its interval."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from scipy import stats

from isoloss.cli import run_command_line
from isoloss.execution.executor import Inline
from isoloss.execution.study import RunOptions, run_study
from isoloss.report.chapters.comparison import compare_studies
from isoloss.store.tables import StudyResults
from isoloss.study.study import Study

TINY = {"n_layer": 1, "n_embd": 16, "n_head": 2, "block_size": 16, "batch_size": 4, "max_iters": 4}
TINY |= {"eval_interval": 2, "warmup_iters": 1, "eval_train_tokens": 256}


@pytest.fixture
def trained(text_file: Path, tmp_path: Path) -> Callable[..., StudyResults]:
    def train(name: str, seeds: tuple[int, ...], **levels: Any) -> StudyResults:
        factors = {key: given for key, given in levels.items() if isinstance(given, tuple)}
        base = {key: value for key, value in {**TINY, **levels}.items() if key not in factors}
        study = Study("s", str(text_file), base=base, factors=factors, seeds=seeds)
        options = RunOptions(device="cpu", precision="fp32")
        return run_study(study, tmp_path / name, options, executor=Inline())

    return train


def test_what_two_studies_share_is_compared_by_seed(trained: Callable[..., StudyResults]) -> None:
    a = trained("a", (1, 2, 3), dropout=(0.0, 0.1), weight_decay=0.1)
    b = trained("b", (2, 3, 4), dropout=(0.1, 0.2), weight_decay=0.5)
    found = compare_studies(a, b)
    assert found.differing == {"dropout": ((0.0, 0.1), (0.1, 0.2)), "weight_decay": ((0.1,), (0.5,))}
    assert found.shared["seed"].to_list() == [2, 3] and found.shared.columns == ["seed", "first", "second"]
    tables = [each.summary().filter(dropout=0.1).sort("seed") for each in (a, b)]
    first, second = tables[0]["best_val_loss"][1:].to_list(), tables[1]["best_val_loss"][:2].to_list()
    assert found.difference is not None and found.difference.n == 2
    expected = stats.ttest_rel(second, first)
    assert found.difference.p == pytest.approx(expected.pvalue)
    assert found.difference.estimate.low == pytest.approx(expected.confidence_interval().low)


def test_one_seed_is_compared_by_cells_and_nothing_shared_is_said(
    trained: Callable[..., StudyResults], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    trained("a", (1,), dropout=(0.0, 0.1, 0.2))
    trained("b", (1,), dropout=(0.0, 0.1, 0.2), beta1=0.8)
    trained("c", (2,), dropout=(0.0, 0.1, 0.2), beta1=0.8)
    where = [str(tmp_path / name) for name in ("a", "b", "c")]
    assert run_command_line(["compare", *where[:2], "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert found["difference"]["n"] == 3 and list(found["differing"]) == ["beta1"] and len(found["shared"]) == 3
    assert run_command_line(["compare", where[0], where[2], "--out", str(tmp_path / "page")]) == 0
    text = capsys.readouterr().out
    assert (
        "They differ in beta1; apart from that they share 0 finished runs" in text
        and (tmp_path / "page/index.html").exists()
    )


def test_studies_of_other_tokenizers_do_not_compare(
    trained: Callable[..., StudyResults], text_file: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    trained("a", (1,))
    study = Study("s", str(text_file), "byte", base=TINY, seeds=(1,))
    run_study(study, tmp_path / "b", RunOptions(device="cpu", precision="fp32"), executor=Inline())
    assert run_command_line(["compare", str(tmp_path / "a"), str(tmp_path / "b")]) == 2
    assert "of different texts, validation splits or tokenizers" in capsys.readouterr().err
