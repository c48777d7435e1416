"""A run continues with the numerics it began with, or the change is recorded."""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

import isoloss.training.numerics as numerics_module
from isoloss.errors import ConfigError, Interrupted
from isoloss.execution.executor import Inline
from isoloss.execution.options import RunOptions
from isoloss.execution.plan import plan_stacks
from isoloss.execution.study import run_study
from isoloss.files import read_record, sha256_file, write_record
from isoloss.report.study_report import write_report
from isoloss.store.run import RunStatus, write_status
from isoloss.store.tables import StudyResults, load_study
from isoloss.study.identity import run_id
from isoloss.study.study import Study

TINY: dict[str, Any] = {"n_layer": 1, "n_embd": 8, "n_head": 2, "block_size": 8, "batch_size": 2, "max_iters": 12}
TINY |= {"eval_interval": 4, "warmup_iters": 2, "eval_train_tokens": 64, "precision": "fp32"}
OPTIONS: dict[str, Any] = {"device": "cpu", "compile": "off"}


@pytest.fixture
def study(text_file: Path) -> Study:
    return Study("tiny", str(text_file), base=TINY, factors={"dropout": (0.0, 0.1)})


def train(study: Study, out: Path, *, stop_after: int | None = None, **options: Any) -> StudyResults:
    """Train the study, or be stopped once so many questions were asked whether to stop."""
    asked = iter(range(10**6))
    return run_study(
        study,
        out,
        RunOptions(**{**OPTIONS, **options}),
        executor=Inline(),
        should_stop=lambda: stop_after is not None and next(asked) >= stop_after,
    )


@pytest.fixture
def begun(study: Study, tmp_path: Path) -> Path:
    """A directory whose first run stopped on its way."""
    with pytest.raises(Interrupted):
        train(study, tmp_path / "out", stop_after=14)
    return tmp_path / "out"


def other_threads(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(torch, "get_num_threads", lambda: 3)


def other_torch(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(torch, "__version__", "2.99.0")


def other_instructions(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(torch.backends.cpu, "get_cpu_capability", lambda: "SVE256")


def another_vendor(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(numerics_module, "cpu_name", lambda: "Another chip")


@pytest.mark.promise(11, "other threads, torch, instructions, processor, stack width, kernels: refused, each named")
@pytest.mark.parametrize(
    ("change", "said"),
    [
        (other_threads, r"threads was 1, is now 3"),
        (other_torch, r"torch was .*, is now 2\.99\.0"),
        (other_instructions, r"instructions was .*, is now SVE256"),
        (another_vendor, r"instructions was .*, is now .* Another"),
    ],
)
def test_a_run_is_not_continued_elsewhere_unasked(
    study: Study, begun: Path, monkeypatch: pytest.MonkeyPatch, change: Callable[[pytest.MonkeyPatch], None], said: str
) -> None:
    before = {path: path.read_bytes() for path in begun.rglob("*.*") if path.name != ".owner.json"}
    with monkeypatch.context() as patch:
        change(patch)
        with pytest.raises(ConfigError, match=said) as refused:
            train(replace(study, seeds=(1337, 1338)), begun)  # a refused start seals no seeds into the study's file
    assert "--accept-other-numerics" in str(refused.value)
    assert re.search(r"1 unfinished runs began with other numerics \(\w+ to step \d", str(refused.value))
    assert {path: path.read_bytes() for path in before} == before
    assert train(study, begun).summary()["status"].to_list() == ["done", "done"]


@pytest.mark.promise(11, "other threads, torch, instructions, processor, stack width, kernels: refused, each named")
def test_another_stack_width_and_other_kernels_are_refused(study: Study, begun: Path) -> None:
    with pytest.raises(ConfigError, match="stack was 1, is now 2"):
        train(study, begun, stack=2)
    with pytest.raises(ConfigError, match="kernels was torch autograd, is now native"):
        train(study, begun, compile="on")


@pytest.mark.promise(11, "other threads, torch, instructions, processor, stack width, kernels: refused, each named")
def test_a_damaged_last_checkpoint_lets_nobody_in(study: Study, begun: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    sidecar = next(begun.glob("runs/*/last.json"))
    assert sidecar.with_name("previous.json").exists()
    sidecar.write_bytes(sidecar.read_bytes()[:-9])
    other_threads(monkeypatch)
    with pytest.raises(ConfigError, match="threads was 1, is now 3"):
        train(study, begun)


@pytest.mark.promise(11, "a change accepted by a flag: recorded in the run, shown in the report")
def test_an_accepted_change_marks_the_run_in_its_files_and_in_the_report(
    study: Study, begun: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    other_threads(monkeypatch)
    results = train(study, begun, accept_other_numerics=True)
    changed, whole = (results.status(run).provenance["numerics"] for run in results.summary()["run_id"])
    assert [(entry["step"] > 0, entry["threads"]) for entry in changed] == [(False, 1), (True, 3)]
    assert [(entry["step"], entry["threads"]) for entry in whole] == [(0, 3)]
    run = results.paths.run(results.summary()["run_id"][0])
    assert read_record(run.folder / "last.json")["beside"]["numerics"] == changed
    page = write_report(load_study(begun)).page.read_text()
    assert "1 run was continued under other numerics than it began with" in page


def test_a_run_that_began_nothing_is_bound_to_nothing(
    study: Study, begun: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for path in [*begun.glob("runs/*/last.*"), *begun.glob("runs/*/previous.*")]:
        path.unlink()
    other_threads(monkeypatch)
    assert train(study, begun).summary()["status"].to_list() == ["done", "done"]


@pytest.mark.promise(11, "a stack of which one run is a checkpoint behind, damaged or lost")
@pytest.mark.parametrize("fault", ["behind", "damaged", "anew"])
def test_a_torn_stack_goes_on_together_from_where_all_its_runs_were(study: Study, tmp_path: Path, fault: str) -> None:
    def weights(out: Path) -> list[str]:
        return [sha256_file(path) for path in sorted(out.glob("runs/*/last.safetensors"))]

    train(study, tmp_path / "whole", stack=2)
    out = tmp_path / "out"
    with pytest.raises(Interrupted):
        train(study, out, stack=2, stop_after=14)
    one = sorted(out.glob("runs/*"))[0]
    if fault == "behind":  # as if the kill had come before this run's checkpoint, and after the other's
        for suffix in ("json", "safetensors"):
            (one / f"previous.{suffix}").replace(one / f"last.{suffix}")
    elif fault == "damaged":
        (one / "last.safetensors").unlink()
        (one / "last.safetensors").write_bytes(b"gone")
    else:
        for path in (*one.glob("last.*"), *one.glob("previous.*")):
            path.unlink()
    assert train(study, out, stack=2).summary()["status"].to_list() == ["done", "done"]
    if fault != "anew":  # the other run has no checkpoint of step 0 any more: their roundings may differ
        assert weights(out) == weights(tmp_path / "whole")


def test_runs_stay_together_whoever_has_ended_or_been_killed_between(study: Study, tmp_path: Path) -> None:
    results = train(study, tmp_path, stack=3)
    configs = {run_id(config): config for config in results.configs}
    first, second = configs
    one = {"progress": {"step": 8}, "beside": {"stack": [first, second]}}
    late = {"progress": {"step": 4}, "beside": {"stack": ["ended", second, first, first]}}
    for run, sidecar in ((first, one), (second, late)):
        paths = results.paths.run(run)
        write_status(paths, RunStatus("pending"))
        write_record(paths.folder / "last.json", sidecar)
    assert plan_stacks(results, 3) == [(configs[first], configs[second])]
