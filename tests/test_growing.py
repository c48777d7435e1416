"""Studies that change after they began: what is finished stays, what is new is trained, and all of it is recorded."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import polars as pl
import pytest

from isoloss.errors import ConfigError, StoreError
from isoloss.execution import placement
from isoloss.execution.executor import Inline, NullListener
from isoloss.execution.study import RunOptions, run_study
from isoloss.report.study_report import write_report
from isoloss.store import revisions as store_revisions
from isoloss.store.revisions import revisions, stated_beforehand
from isoloss.store.run import read_rows
from isoloss.store.tables import StudyResults, load_study
from isoloss.study.stated_hypotheses import make_hypothesis
from isoloss.study.study import Study

OPTIONS = RunOptions(device="cpu", precision="fp32")
TINY = {"n_layer": 1, "n_embd": 16, "n_head": 2, "block_size": 16, "batch_size": 4, "max_iters": 6}
TINY |= {"eval_interval": 3, "warmup_iters": 2, "eval_train_tokens": 256}
WIDER = {"says": "Wider is better", "kind": "effect", "factor": "n_embd", "direction": "down"}


@pytest.fixture
def study(text_file: Path) -> Callable[..., Study]:
    def build(seeds: tuple[int, ...] = (1,), name: str = "tiny", **levels: Any) -> Study:
        factors = {key: given for key, given in levels.items() if isinstance(given, tuple)}
        base = {key: value for key, value in {**TINY, **levels}.items() if key not in factors}
        return Study(name, str(text_file), base=base, factors=factors, seeds=seeds)

    return build


class Counting(Inline):
    """Trains, and counts the steps taken."""

    def __init__(self) -> None:
        super().__init__()
        self.runs: list[str] = []

    def run(self, stacks: Any, context: Any, emit: Any, should_stop: Any) -> None:
        stacks = list(stacks)
        self.runs += [member for stack in stacks for member in stack]
        super().run(stacks, context, emit, should_stop)


class Saying(NullListener):
    def __init__(self) -> None:
        self.said: list[str] = []

    def say(self, line: str) -> None:
        self.said.append(line)


def trained(study: Study, out: Path, options: RunOptions = OPTIONS) -> tuple[StudyResults, int, list[str]]:
    """The results, how many runs were trained, and what was said."""
    executor, listener = Counting(), Saying()
    return run_study(study, out, options, executor=executor, listener=listener), len(executor.runs), listener.said


def rows_of(results: StudyResults) -> dict[str, list[tuple[Any, ...]]]:
    """Everything each run recorded, apart from the clock."""
    found: dict[str, list[tuple[Any, ...]]] = {}
    for run in results.summary()["run_id"]:
        paths = results.paths.run(run)
        found[run] = [(row["step"], row["loss"], row["lr"], row["grad_norm"]) for row in read_rows(paths.metrics)]
        found[run] += [(row["step"], row["train_loss"], row["val_loss"]) for row in read_rows(paths.evals)]
    return found


def test_a_study_that_gains_levels_trains_what_is_new(study: Callable[..., Study], tmp_path: Path) -> None:
    trained(study(dropout=(0.0, 0.1)), tmp_path / "out")
    grown = study(dropout=(0.0, 0.1, 0.2), n_embd=(16, 32))
    results, new, said = trained(grown, tmp_path / "out")
    assert new == 4 and "the study has changed: n_embd gained 32; dropout gained 0.2" in said
    from_the_start, *_ = trained(grown, tmp_path / "fresh")
    assert rows_of(results) == rows_of(from_the_start)
    (change,) = revisions(results.paths)
    assert (change.runs_ended, change.begun) == (2, True)
    assert (tmp_path / "out/study.1.yaml").exists() and load_study(tmp_path / "out").study == results.study


def test_runs_of_lost_levels_are_set_aside_and_count_again_when_taken_back(
    study: Callable[..., Study], tmp_path: Path
) -> None:
    before, *_ = trained(study(seeds=(1, 2), dropout=(0.0, 0.1)), tmp_path)
    less, new, said = trained(study(dropout=(0.0,)), tmp_path)
    assert new == 0 and len(less.summary()) == 1 and len(pl.read_csv(tmp_path / "set_aside.csv")) == 3
    assert any("3 runs of no cell of this study set aside" in line and "dropout 0.1" in line for line in said)
    back, new, _ = trained(study(seeds=(1, 2), dropout=(0.0, 0.1)), tmp_path)
    assert new == 0 and rows_of(back) == rows_of(before) and back.set_aside == []
    assert pl.read_csv(tmp_path / "set_aside.csv").is_empty()
    assert [change.changes for change in revisions(back.paths)] == [
        ("dropout lost 0.1", "seeds lost 2"),
        ("dropout gained 0.1", "seeds gained 2"),
    ]


def test_a_run_at_a_constant_rate_goes_on_from_its_end_when_it_is_given_more_steps(
    study: Callable[..., Study], tmp_path: Path
) -> None:
    trained(study(decay_lr=False), tmp_path / "out")
    longer = study(decay_lr=False, max_iters=12)
    results, *_ = trained(longer, tmp_path / "out")
    (status,) = results.statuses().values()
    assert status.provenance["continues"] and status.state == "done"
    assert rows_of(results) == rows_of(trained(longer, tmp_path / "fresh")[0])


def test_a_change_that_is_interrupted_is_made_once(
    study: Callable[..., Study], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    trained(study(dropout=(0.0, 0.1)), tmp_path)
    write, recorded = store_revisions.write_checksummed, (tmp_path / "study.yaml").read_text()

    def fails_at_the_end(path: Path, text: str) -> None:
        if path.name == "study.yaml":
            raise StoreError("the disk is full")
        write(path, text)

    grown = study(dropout=(0.0, 0.1, 0.2))
    monkeypatch.setattr(store_revisions, "write_checksummed", fails_at_the_end)
    with pytest.raises(StoreError, match="full"):
        trained(grown, tmp_path)
    assert (tmp_path / "study.yaml").read_text() == recorded
    monkeypatch.undo()
    results, new, _ = trained(grown, tmp_path)
    assert new == 1 and len(revisions(results.paths)) == 1 and not (tmp_path / "study.2.yaml").exists()


def test_another_study_is_refused_with_what_differs(study: Callable[..., Study], tmp_path: Path) -> None:
    trained(study(dropout=(0.0, 0.1)), tmp_path)
    before = sorted(path.name for path in tmp_path.rglob("*"))
    with pytest.raises(ConfigError, match="of which no run is one of this study's: n_layer was 1, is now 2"):
        trained(study(n_layer=2, dropout=(0.0, 0.1)), tmp_path)
    assert sorted(path.name for path in tmp_path.rglob("*")) == before


def test_hypotheses_that_come_after_training_are_judged_and_marked(study: Callable[..., Study], tmp_path: Path) -> None:
    widths = study(seeds=(1, 2), n_embd=(16, 32))
    first = replace(widths, hypotheses=(make_hypothesis(WIDER, 1),))
    trained(first, tmp_path)
    later = make_hypothesis({**WIDER, "says": "Narrower is better", "direction": "up"}, 2)
    results, new, _ = trained(replace(widths, hypotheses=(*first.hypotheses, later)), tmp_path)
    assert new == 0 and stated_beforehand(results.paths, results.study) == first.hypotheses
    report = write_report(results)
    assert [claim.after_training for claim in report.claims] == [False, True]
    page = report.page.read_text()
    assert "stated after training began" in page and "2 hypotheses stated, 1 of them after training began" in page
    assert "when 4 runs had ended and could be looked at" in page


def test_a_hypothesis_whose_levels_follow_from_the_study_is_late_when_they_change(
    study: Callable[..., Study], tmp_path: Path
) -> None:
    stated = (make_hypothesis({**WIDER, "factor": "dropout"}, 1),)
    trained(replace(study(dropout=(0.0, 0.1)), hypotheses=stated), tmp_path)
    results, *_ = trained(replace(study(dropout=(0.1, 0.0)), hypotheses=stated), tmp_path)
    assert stated_beforehand(results.paths, results.study) == ()
    assert revisions(results.paths)[0].changes == ("dropout put in another order",)
    results, *_ = trained(replace(study(dropout=(0.0, 0.1)), hypotheses=stated), tmp_path)
    assert stated_beforehand(results.paths, results.study) == stated


def test_the_precision_of_the_first_start_stays(
    study: Callable[..., Study], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    trained(study(), tmp_path)
    monkeypatch.setattr(placement, "resolve_precision", lambda name, device: name)
    results, new, _ = trained(study(seeds=(1, 2)), tmp_path, RunOptions(device="cpu", precision="auto"))
    assert new == 1 and {config.precision for config in results.configs} == {"fp32"}

    def lacks(*_: Any) -> str:
        raise ConfigError("this CPU has no bf16")

    monkeypatch.setattr(placement, "resolve_precision", lacks)
    with pytest.raises(ConfigError, match="was started in fp32, which this machine does not have"):
        trained(study(), tmp_path, RunOptions(device="cpu", precision="auto"))


def test_a_damaged_record_of_changes_is_named(study: Callable[..., Study], tmp_path: Path) -> None:
    trained(study(dropout=(0.0, 0.1)), tmp_path)
    results, *_ = trained(study(dropout=(0.0,)), tmp_path)
    document = json.loads((tmp_path / "revisions.json").read_text())
    document["revisions"][0]["runs_ended"] = 99
    (tmp_path / "revisions.json").write_text(json.dumps(document))
    with pytest.raises(StoreError, match=r"revisions\.json"):
        revisions(results.paths)
