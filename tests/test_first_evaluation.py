"""First evaluations: which runs share one, and that the rows are those of runs evaluated alone."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from isoloss.data.token_files import Tokens
from isoloss.design.prefixes import TRAINING_FIELDS, alike_at_first
from isoloss.errors import Interrupted
from isoloss.execution import estimate
from isoloss.execution.executor import Inline
from isoloss.execution.options import RunOptions
from isoloss.execution.study import run_study
from isoloss.files import read_record, write_record
from isoloss.store.layout import StudyPaths
from isoloss.store.run import read_rows
from isoloss.store.tables import StudyResults
from isoloss.study.config import RunConfig
from isoloss.study.identity import run_id
from isoloss.study.study import Study
from isoloss.study.studyfile import find_study
from isoloss.study.texts import ANY_DATA
from isoloss.training import loop
from tests.recording import recorded

Make = Callable[..., RunConfig]
OPTIONS = RunOptions(device="cpu", precision="fp32", compile="off", stack=1)
TINY: dict[str, Any] = {"n_layer": 1, "n_embd": 16, "n_head": 2, "block_size": 16, "batch_size": 4, "max_iters": 4}
TINY |= {"eval_interval": 4, "eval_train_tokens": 64, "warmup_iters": 0}
OTHERS: dict[str, Any] = {
    "dropout": 0.3,
    "gradient_accumulation_steps": 2,
    "max_iters": 40,
    "learning_rate": 2e-3,
    "schedule": "linear",
    "decay_lr": False,
    "warmup_iters": 2,
    "lr_decay_iters": 30,
    "min_lr": 0.0,
    "optimizer": "lion",
    "weight_decay": 0.0,
    "beta1": 0.5,
    "beta2": 0.5,
    "grad_clip": 0.1,
    "ema": 0.9,
    "eval_interval": 2,
    "batch_size": 8,
    "data_seed": 7,
}
"""Levels other than TINY's of what a first evaluation does not depend on."""
NOT_ALONE = {"decay_share", "decay_shape", "muon_learning_rate"}
"""What of it is read together with another setting alone."""


def first_row(results: StudyResults, config: RunConfig) -> dict[str, Any]:
    return next(iter(read_rows(results.paths.run(run_id(config)).evals)))


def source_of(results: StudyResults, config: RunConfig) -> str | None:
    return results.status(run_id(config)).provenance.get("first_evaluation")


@pytest.fixture
def evaluated(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """The steps at which losses were computed."""
    steps: list[int] = []
    real = loop.evaluate

    def evaluate(stack: Any, *rest: Any, **options: Any) -> Any:
        losses = real(stack, *rest, **options)
        steps.append(stack.step)
        return losses

    monkeypatch.setattr(loop, "evaluate", evaluate)
    return steps


def test_what_training_reads_alone_leaves_the_first_evaluation_as_it_is(make: Make, tokens: Tokens) -> None:
    assert {*OTHERS} == {*TRAINING_FIELDS, "eval_interval", "batch_size", "data_seed"} - NOT_ALONE
    plain = make(**TINY)
    runs = [plain, *(make(**{**TINY, name: level}) for name, level in OTHERS.items())]
    [group] = alike_at_first(runs)
    assert {*map(run_id, group)} == {*map(run_id, runs)}
    evaluations = (recorded([run], tokens, stop_at=1)[0].evals for run in runs)
    firsts = {(rows[0].train_loss, rows[0].val_loss) for rows in evaluations}
    assert len(firsts) == 1


@pytest.mark.parametrize(
    "other",
    [
        {"seed": 8}, {"init_seed": 8}, {"n_head": 4}, {"n_embd": 32}, {"block_size": 8}, {"norm": "rmsnorm"},
        {"eval_train_tokens": 128}, {"eval_val_tokens": 64}, {"precision": "bf16"}, {"tie_embeddings": False},
        {"parametrization": "mup", "base_n_embd": 8}, {"corpus_sha256": "0" * 64},
        {"eval": "sampled"},
    ],
)  # fmt: skip
def test_what_it_depends_on_parts_runs(make: Make, other: dict[str, Any]) -> None:
    assert alike_at_first([make(**TINY), make(**{**TINY, **other})]) == []


def test_sampled_evaluations_are_alike_where_their_batches_are(make: Make) -> None:
    sampled = {**TINY, "eval": "sampled"}
    runs = [make(**{**sampled, **other}) for other in ({}, {"data_seed": 5}, {"batch_size": 8}, {"beta1": 0.5})]
    [group] = alike_at_first(runs)
    assert {*map(run_id, group)} == {run_id(runs[0]), run_id(runs[3])}


def test_group1_has_four_first_evaluations() -> None:
    assert [len(group) for group in alike_at_first(find_study("group1").expand(ANY_DATA))] == [8, 8, 8, 8]


def test_one_run_is_evaluated_for_all(text_file: Path, tokens: Tokens, tmp_path: Path, evaluated: list[int]) -> None:
    rates = (1e-3, 2e-3, 4e-3)
    base = {name: value for name, value in TINY.items() if name != "batch_size"}
    study = Study("s", str(text_file), base=base, factors={"learning_rate": rates, "batch_size": (4, 8)}, seeds=(1, 2))
    results = run_study(study, tmp_path, OPTIONS, executor=Inline())
    assert evaluated.count(0) == 2 and evaluated.count(4) == 12
    sources = {source_of(results, config) for config in results.configs}
    assert len(sources) == 3 and None in sources
    for config in results.configs:
        [alone] = recorded([config], tokens)
        run = results.paths.run(run_id(config))
        rows = [(row["step"], row["train_loss"], row["val_loss"]) for row in read_rows(run.evals)]
        assert rows == [(row.step, row.train_loss, row.val_loss) for row in alone.evals]
        assert [row["loss"] for row in read_rows(run.metrics)] == [row.loss for row in alone.steps]
        if (source := source_of(results, config)) is not None:
            origin = next(c for c in results.configs if run_id(c) == source)
            assert first_row(results, config) == first_row(results, origin) and source_of(results, origin) is None
            assert read_record(run.folder / "last.json")["beside"]["first_evaluation"] == source


def test_an_average_begins_with_the_losses_that_are_taken_over(text_file: Path, tokens: Tokens, tmp_path: Path) -> None:
    study = Study("s", str(text_file), base=TINY, factors={"ema": (0.0, 0.5, 0.9)})
    results = run_study(study, tmp_path, OPTIONS, executor=Inline())
    assert [source_of(results, config) is None for config in results.configs].count(True) == 1
    for config in results.configs:
        row, [alone] = first_row(results, config), recorded([config], tokens)
        assert row.get("ema_val_bpb") == (row["val_bpb"] if config.ema else None)
        assert row.get("ema_val_loss") == alone.evals[0].ema_val_loss == (row["val_loss"] if config.ema else None)
        assert row.get("ema_train_loss") == alone.evals[0].ema_train_loss


def test_the_report_counts_what_was_taken_over(text_file: Path, tmp_path: Path) -> None:
    from isoloss.report.chapters.method import method_chapter
    from isoloss.report.snapshot import take_snapshot

    study = Study("s", str(text_file), base=TINY, factors={"learning_rate": (1e-3, 2e-3, 4e-3)})
    said = " ".join(method_chapter(take_snapshot(run_study(study, tmp_path, OPTIONS, executor=Inline()))).details)
    assert "2 of 3 runs took over the evaluation before the first step from another run" in said


def test_stacked_runs_are_evaluated_by_themselves(text_file: Path, tmp_path: Path, evaluated: list[int]) -> None:
    study = Study("s", str(text_file), base=TINY, factors={"beta1": (0.8, 0.9), "weight_decay": (0.0, 0.1)})
    results = run_study(study, tmp_path, replace(OPTIONS, stack=2), executor=Inline())
    assert evaluated.count(0) == 2 and not any(source_of(results, config) for config in results.configs)


@pytest.fixture(scope="module")
def trained(text_file: Path, cache: Path, tmp_path_factory: pytest.TempPathFactory) -> StudyResults:
    """A study of two runs alike of which one is trained."""
    study = Study("s", str(text_file), base=TINY, factors={"learning_rate": (1e-3, 2e-3)})
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("ISOLOSS_CACHE", str(cache))
        results = run_study(study, tmp_path_factory.mktemp("trained") / "out", OPTIONS, executor=Inline())
    [taker] = (config for config in results.configs if source_of(results, config))
    shutil.rmtree(results.paths.run(run_id(taker)).folder)
    return results


@pytest.fixture
def begun(trained: StudyResults, tmp_path: Path) -> StudyResults:
    """The same, in a folder of its own."""
    shutil.copytree(trained.paths.folder, tmp_path / "out")
    return replace(trained, paths=StudyPaths(tmp_path / "out"))


def other_first_loss(results: StudyResults, loss: float = 1.25) -> None:
    """Let the trained run have another first loss, so that one can tell who takes it over."""
    [run] = results.paths.runs.iterdir()
    lines = (run / "evals.jsonl").read_text().splitlines(keepends=True)
    lines[0] = json.dumps({**json.loads(lines[0]), "val_loss": loss}) + "\n"
    (run / "evals.jsonl").write_text("".join(lines))


def seal(results: StudyResults, **status: Any) -> None:
    """Let its status vouch for its rows as they are, and have other entries."""
    from isoloss.files import sha256_file

    [run] = results.paths.runs.iterdir()
    record, rows = read_record(run / "status.json"), run / "evals.jsonl"
    record["rows"]["evals"] = {"size": rows.stat().st_size, "sha256": sha256_file(rows)}
    write_record(run / "status.json", {**record, "measured": None, **status})


def first_losses(results: StudyResults) -> list[float]:
    """Of each run; of one without rows none."""
    rows = [next(iter(read_rows(results.paths.run(run_id(config)).evals)), None) for config in results.configs]
    return [row["val_loss"] for row in rows if row]


def losses_after(results: StudyResults) -> tuple[list[float], int]:
    """First losses of both runs once the second is trained too, and how many took one over."""
    again = run_study(results.study, results.paths.folder, OPTIONS, executor=Inline())
    sources = [source_of(again, config) for config in again.configs]
    return first_losses(again), 2 - sources.count(None)


def test_a_later_start_takes_over_what_is_vouched_for(begun: StudyResults) -> None:
    other_first_loss(begun)
    seal(begun)
    assert losses_after(begun) == ([1.25, 1.25], 1)


def test_a_damaged_row_is_not_taken_over(begun: StudyResults, evaluated: list[int]) -> None:
    whole = begun.status(next(begun.paths.runs.iterdir()).name)
    other_first_loss(begun)
    losses, _ = losses_after(begun)
    assert whole.measured and 1.25 not in losses and losses[0] == losses[1] and evaluated.count(0) == 1


@pytest.mark.parametrize(
    "change", [{"torch": "1.0"}, {"kernels": "others"}, {"stack": 2}, {"ranks": 2}, {"isoloss": 0}, {"step": 2}]
)
def test_other_numerics_are_not_taken_over(begun: StudyResults, evaluated: list[int], change: dict[str, Any]) -> None:
    [run] = begun.paths.runs.iterdir()
    provenance = read_record(run / "status.json")["provenance"]
    provenance["numerics"] = [{**provenance["numerics"][0], **change}]
    other_first_loss(begun)
    seal(begun, provenance=provenance)
    losses, taken = losses_after(begun)
    assert losses.count(1.25) == 1 and taken == 0 and evaluated == [0, 4]


@pytest.mark.parametrize("fault", ["unreadable status", "no rows", "first row of a later step"])
def test_what_cannot_be_read_is_computed_again(
    begun: StudyResults, evaluated: list[int], fault: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    from isoloss.errors import UnreadableError
    from isoloss.execution import first_evaluation

    [run] = begun.paths.runs.iterdir()
    if fault == "unreadable status":

        def fail(*_: Any) -> Any:
            raise UnreadableError("just now")

        monkeypatch.setattr(first_evaluation, "check_rows", fail)
    elif fault == "no rows":
        (run / "evals.jsonl").write_bytes(b"")
        seal(begun)
    else:
        lines = (run / "evals.jsonl").read_text().splitlines(keepends=True)
        (run / "evals.jsonl").write_text("".join(lines[1:]))
        seal(begun)
    assert losses_after(begun)[1] == 0 and evaluated == [0, 4]


def test_a_run_evaluated_under_other_numerics_and_not_trained_begins_anew(
    text_file: Path, tmp_path: Path, evaluated: list[int]
) -> None:
    study = Study("s", str(text_file), base=TINY)
    stop = lambda: evaluated == [0]  # noqa: E731
    with pytest.raises(Interrupted):
        run_study(study, tmp_path, OPTIONS, should_stop=stop, executor=Inline())
    [run] = tmp_path.glob("runs/*")
    before = read_record(run / "last.json")
    assert before["progress"]["evaluated_step"] == 0 and before["beside"]["numerics"][0]["stack"] == 1
    results = run_study(study, tmp_path, replace(OPTIONS, stack=2), executor=Inline())
    assert evaluated == [0, 0, 4]
    assert [entry["stack"] for entry in results.status(run.name).provenance["numerics"]] == [2]


def test_a_plan_counts_what_is_left(text_file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(estimate, "StepTimes", lambda *_: lambda config: 0.1)
    study = Study("s", str(text_file), base=TINY, factors={"learning_rate": (1e-3, 2e-3, 4e-3)}, seeds=(1, 2))
    one, two, stacked = (
        estimate.plan_study(study, replace(OPTIONS, workers=workers, stack=stack))
        for workers, stack in ((1, 1), (2, 1), (1, 2))
    )
    assert [one.evaluations, two.evaluations, stacked.evaluations] == [8, 10, 12]
    assert one.eta.eval_s == pytest.approx(stacked.eta.eval_s * 8 / 12)
    assert two.eta.eval_s == pytest.approx(stacked.eta.eval_s * 10 / 12 / 2)
