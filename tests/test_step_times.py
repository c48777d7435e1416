"""A step's seconds are a CPU's own work; budgets of seconds give horizons that stay as the study began."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from isoloss.errors import ConfigError
from isoloss.execution import step_times
from isoloss.execution import study as study_module
from isoloss.execution.estimate import plan_study
from isoloss.execution.executor import Inline
from isoloss.execution.study import RunOptions, run_study
from isoloss.store.layout import StudyPaths
from isoloss.study.config import RunConfig
from isoloss.study.study import Study
from isoloss.study.studyfile import parse_study
from isoloss.training.distributed import Ranks
from isoloss.training.loop import StepRow
from isoloss.training.state import stack

VALUES = {"corpus": "", "corpus_sha256": "", "vocab_size": 65, "n_layer": 1, "n_embd": 16, "n_head": 2}
OPTIONS = RunOptions(device="cpu", precision="fp32", compile="off")
FILE = """
name: timed
corpus: {corpus}
base: {{n_layer: 1, n_head: 2, block_size: 16, batch_size: 4, eval_train_tokens: 256, warmup_iters: = 0.1 * max_iters,
       eval_interval: = max_iters / 2}}
budgets: {{seconds: [0.4, 0.8], n_embd: [16, 32]}}
"""


def test_what_other_programs_take_of_a_cpu_does_not_lengthen_a_step() -> None:
    row = StepRow(0, None, 0.0, None, 1.0, 0.0, 0.0, 0.0)  # a second by the clock
    for device, seconds in ("cpu", pytest.approx(0.0, abs=0.5)), ("cuda", 1.0):
        stopwatch = step_times._Stopwatch(torch.device(device))  # pyright: ignore[reportPrivateUsage]
        for _ in range(2):
            stopwatch.step(row)
        assert stopwatch.times_s[-1] == seconds


def test_a_step_is_timed_after_a_warm_up() -> None:
    config = RunConfig(**VALUES, block_size=16)  # pyright: ignore[reportArgumentType]
    assert 1e-5 < step_times.step_time_s(config, torch.device("cpu"), compiled=False) < 1


def test_on_cuda_replays_are_timed_at_the_planned_width(monkeypatch: pytest.MonkeyPatch) -> None:
    """Warm-up and capture are not; a run's step is its share. Here of a CPU, whose steps are not captured."""
    taken, clock = list[tuple[int, int]](), [0.0]

    def take(stepper: Any, n: int) -> Any:
        taken.append((len(stepper._stack.members), n))
        clock[0] += 100.0 if len(taken) == 1 else 0.06 * n
        return SimpleNamespace(read=lambda: None)

    monkeypatch.setattr(step_times.Stepper, "take", take)
    monkeypatch.setattr(step_times.time, "perf_counter", lambda: clock[0])
    monkeypatch.setattr(step_times, "stack", lambda members, device, kernels: stack(members, torch.device("cpu")))
    config = RunConfig(**VALUES, block_size=16, init_seed=1, data_seed=2)  # pyright: ignore[reportArgumentType]
    assert step_times.step_time_s(config, torch.device("cuda", 0), compiled=False, width=3) == pytest.approx(0.02)
    assert taken == [(3, 4), *[(3, 20)] * 5]


@pytest.fixture
def measured(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Widths whose step was measured; a step takes 0.01 seconds at 16 wide, and in proportion."""
    widths: list[int] = []

    def measure(config: RunConfig, *_: Any, **__: Any) -> float:
        widths.append(config.n_embd)
        return 0.01 * config.n_embd / 16

    monkeypatch.setattr(step_times, "step_time_s", measure)
    return widths


def study_of(text_file: Path) -> Study:
    return parse_study(FILE.format(corpus=text_file), "timed.yaml")


def test_budgets_of_seconds_are_measured_once_and_stay(
    text_file: Path, tmp_path: Path, measured: list[int], monkeypatch: pytest.MonkeyPatch
) -> None:
    study, out = study_of(text_file), tmp_path / "out"
    table = run_study(study, out, OPTIONS, executor=Inline()).summary()
    assert table.sort("n_embd", "max_iters").select("n_embd", "max_iters", "eval_interval").rows() == [
        (16, 40, 20), (16, 80, 40), (32, 20, 10), (32, 40, 20)
    ]  # fmt: skip
    assert measured == [16, 32]
    before = StudyPaths(out).study.read_bytes()
    monkeypatch.setattr(step_times, "step_time_s", lambda *_, **__: pytest.fail("measured again"))
    again = run_study(study, out, OPTIONS, executor=Inline())
    assert StudyPaths(out).study.read_bytes() == before and not again.set_aside


def test_a_cell_that_is_added_is_measured_alone(text_file: Path, tmp_path: Path, measured: list[int]) -> None:
    study, out = study_of(text_file), tmp_path / "out"
    run_study(study, out, OPTIONS, executor=Inline())
    grown = replace(study, factors={"n_embd": (16, 32, 64)})
    table = run_study(grown, out, OPTIONS, executor=Inline()).summary()
    assert measured == [16, 32, 64] and len(table) == 6
    assert set(table["status"]) == {"done"} and not run_study(grown, out, OPTIONS).set_aside


def test_a_plan_shows_the_horizons_of_seconds(text_file: Path, measured: list[int]) -> None:
    planned = plan_study(study_of(text_file), replace(OPTIONS, workers=1))
    assert sorted(config.max_iters for config in planned.configs) == [20, 40, 40, 80] and measured == [16, 32]
    assert planned.eta.train_s == pytest.approx(2.4)


def test_seconds_of_several_ranks_are_refused(text_file: Path, tmp_path: Path, measured: list[int]) -> None:
    with pytest.raises(ConfigError, match="seconds are those of one process"):
        run_study(study_of(text_file), tmp_path / "out", OPTIONS, ranks=Ranks(0, 2))
    assert not (tmp_path / "out").exists() and not measured


def test_seconds_of_a_working_day_are_no_mistake_before_anything_is_measured(text_file: Path) -> None:
    study = parse_study(FILE.format(corpus=text_file).replace("[0.4, 0.8]", "[0.015, 30000, 60000]"), "timed.yaml")
    assert study.size == 6


def test_steps_are_measured_with_the_kernels_that_train(
    text_file: Path, tmp_path: Path, measured: list[int], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Horizons that follow from the measurement come to other FLOPs than those that stood for them."""
    seen: list[bool] = []
    monkeypatch.setattr(study_module, "MIN_COMPILE_FLOPS", 2e9)
    monkeypatch.setattr(study_module, "compiled_kernels", lambda say: True)
    monkeypatch.setattr(step_times, "step_time_s", lambda *_, compiled, **__: seen.append(compiled) or 0.05)

    class Spy(Inline):
        def run(self, stacks: Any, context: Any, emit: Any, should_stop: Any) -> None:
            seen.append(context.compiled)

    study = parse_study(FILE.format(corpus=text_file).replace("[0.4, 0.8]", "[2.0, 4.0]"), "timed.yaml")
    run_study(study, tmp_path / "out", replace(OPTIONS, compile="auto"), executor=Spy())
    assert len({*seen}) == 1 and len(seen) > 2 and measured == []
