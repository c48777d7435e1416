"""A run that fails affects no other: NaN and Inf, a crash, a kill or a hang leave the other runs unchanged."""

from __future__ import annotations

import errno
import os
import signal
import time
from collections.abc import Callable
from multiprocessing.connection import Connection
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from isoloss.cli.outcome import conclude
from isoloss.cli.run import run_and_report
from isoloss.data.token_files import Tokens
from isoloss.errors import StoreError
from isoloss.execution import policy, processes, recorder
from isoloss.execution.context import TrainingContext
from isoloss.execution.executor import NullListener
from isoloss.execution.options import RunOptions
from isoloss.execution.processes import Processes
from isoloss.execution.recorder import Event
from isoloss.execution.study import run_study
from isoloss.store.layout import StudyPaths
from isoloss.store.tables import load_study
from isoloss.study.config import RunConfig
from isoloss.study.study import Study
from isoloss.training import evaluate, loop
from isoloss.training.state import MemberState
from tests.faults.harness import Points, results_of
from tests.faults.processes import workers_of
from tests.recording import Recording, recorded

STEPS = 12
TINY: dict[str, Any] = {"n_layer": 1, "n_embd": 16, "n_head": 2, "block_size": 16, "batch_size": 4, "warmup_iters": 2}
TINY |= {"eval_train_tokens": 64, "precision": "fp32"}
CRASHES = [signal.SIGKILL, signal.SIGSEGV, signal.SIGBUS, signal.SIGABRT, signal.SIGILL]


def found(recording: Recording) -> list[Any]:
    """The results of a run, weights included, apart from times."""
    steps = [(row.step, row.loss, row.lr, row.grad_norm) for row in recording.steps]
    evals = [(row.step, row.train_loss, row.val_loss) for row in recording.evals]
    return [recording.outcome, steps, evals, [_bits(state) for state in recording.kept]]


def _bits(state: MemberState) -> list[bytes]:
    return [tensor.numpy().tobytes() for tensor in (state.flat_P, *state.moments.values())]


@pytest.mark.promise(8, "NaN or Inf in each member of a stack, at each step")
@pytest.mark.parametrize("compiled", [False, True])
def test_what_is_not_finite_in_one_member_changes_no_bit_of_another(
    make: Callable[..., RunConfig],
    tokens: Tokens,
    monkeypatch: pytest.MonkeyPatch,
    points: Points,
    compiled: bool,
) -> None:
    configs = [make(seed=seed, dropout=0.1, max_iters=STEPS, eval_interval=4) for seed in (1, 2, 3)]
    whole = [found(recording) for recording in recorded(configs, tokens, compiled=compiled)]
    take = loop.Stepper.take
    everywhere = [(e, step, value) for e in range(3) for step in range(STEPS) for value in (float("nan"), float("inf"))]
    for poisoned, at, value in points(everywhere, 5):

        def poison(stepper: Any, n: int, e: int = poisoned, at: int = at, value: float = value) -> Any:
            stack = stepper._stack
            if stack.step == at and len(stack.members) == len(configs):
                stack.parameters.flat_ExP[e, at :: STEPS + 1] = value
            return take(stepper, n)

        with monkeypatch.context() as patch:
            patch.setattr(loop.Stepper, "take", poison)
            faulty = [found(recording) for recording in recorded(configs, tokens, compiled=compiled)]
        assert faulty[poisoned][0] == "diverged", (poisoned, at, value)
        assert [run for e, run in enumerate(faulty) if e != poisoned] == [
            run for e, run in enumerate(whole) if e != poisoned
        ], (poisoned, at, value)


class SignalSender(NullListener):
    """Sends a signal to the worker of the first run it hears of, as often as listener."""

    def __init__(self, times: int, number: int) -> None:
        self.times, self.number, self.victim, self.reasons = times, number, "", list[str]()

    def emit(self, event: Event) -> None:
        self.victim = self.victim or event.run_id
        self.reasons.append(event.reason)
        if event.run_id == self.victim and event.kind == "running" and not event.reason and self.times:
            self.times -= 1
            for child in workers_of(os.getpid()):
                os.kill(child, self.number)


@pytest.fixture
def grid(text_file: Path) -> Study:
    base = {**TINY, "max_iters": 300, "eval_interval": 150}
    return Study("grid", str(text_file), base=base, factors={"weight_decay": (0.0, 0.1, 0.2)})


@pytest.mark.promise(8, "SIGKILL, SIGSEGV, SIGBUS, SIGABRT, SIGILL of a worker, of one run and of three")
@pytest.mark.parametrize("stack", [1, 3])
def test_a_crash_in_native_code_costs_its_runs_one_more_try(
    grid: Study, tmp_path: Path, points: Points, stack: int
) -> None:
    options = RunOptions(device="cpu", workers=1, stack=stack, compile="off")
    run_study(grid, tmp_path / "whole", options)
    for number in points(CRASHES, 1):
        sender = SignalSender(1, number)
        run_study(grid, tmp_path / str(number), options, listener=sender)
        assert results_of(tmp_path / str(number)) == results_of(tmp_path / "whole")
        assert any(reason.endswith("it is retried") for reason in sender.reasons)


@pytest.mark.promise(8, "a worker killed twice, or of three runs as often as one of them runs")
def test_a_run_whose_worker_dies_twice_is_set_aside_and_the_next_start_tries_again(grid: Study, tmp_path: Path) -> None:
    sender, options = SignalSender(2, signal.SIGKILL), RunOptions(device="cpu", workers=1, compile="off")
    results = run_study(grid, tmp_path, options, listener=sender)
    states = {run: results.status(run) for run in results.summary()["run_id"]}
    assert states[sender.victim].reason == "its worker process was killed (out of memory?)"
    assert sorted(status.state for status in states.values()) == ["done", "done", "failed"]
    assert run_study(grid, tmp_path, options).summary()["status"].to_list() == ["done"] * 3


@pytest.mark.promise(8, "a worker killed twice, or of three runs as often as one of them runs")
def test_of_a_stack_that_keeps_crashing_only_the_run_that_crashes_fails(grid: Study, tmp_path: Path) -> None:
    sender = SignalSender(3, signal.SIGSEGV)
    results = run_study(grid, tmp_path, RunOptions(device="cpu", workers=1, stack=3, compile="off"), listener=sender)
    states = {run: results.status(run) for run in results.summary()["run_id"]}
    assert states[sender.victim].reason == "its worker process crashed: Segmentation fault"
    assert sorted(status.state for status in states.values()) == ["done", "done", "failed"]


@pytest.mark.promise(8, "a worker that hangs while the time of day stands still")
def test_a_hang_is_told_from_a_clock_that_jumps(grid: Study, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(policy, "SILENCE_TIMEOUT_S", 12.0)
    options = RunOptions(device="cpu", workers=1, compile="off")
    monkeypatch.setattr(time, "time", lambda: 0.0)
    sender = SignalSender(1, signal.SIGSTOP)
    results = run_study(grid, tmp_path, options, listener=sender)
    assert results.summary()["status"].to_list() == ["done"] * 3
    assert "its worker process hung; it is retried" in sender.reasons


class Reasons(NullListener):
    """Calls `at_first` at the first event, and keeps the reasons of all events."""

    def __init__(self, at_first: Callable[[], None]) -> None:
        self.at_first, self.reasons = at_first, list[str]()

    def emit(self, event: Event) -> None:
        if not self.reasons:
            self.at_first()
        self.reasons.append(event.reason)


@pytest.mark.promise(8, "a coordinator that was itself suspended for an hour")
def test_a_coordinator_that_was_stopped_takes_no_worker_for_hung(
    grid: Study, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pauses: list[float] = []
    monkeypatch.setattr(policy, "time", SimpleNamespace(monotonic=lambda: time.monotonic() + sum(pauses)))
    listener = Reasons(lambda: pauses.append(3600.0))
    results = run_study(grid, tmp_path, RunOptions(device="cpu", workers=1, compile="off"), listener=listener)
    assert results.summary()["status"].to_list() == ["done"] * 3
    assert pauses and not any(listener.reasons)


def slow_to_evaluate(pipe: Connection, context: TrainingContext) -> None:
    """A worker whose evaluations have nine chunks of 0.6 s each."""
    loss = evaluate.gpt.loss

    def slow_loss(*arguments: Any) -> torch.Tensor:
        time.sleep(0.6)
        return loss(*arguments)

    recorder.EMIT_INTERVAL_S = 0.2
    evaluate.MAX_CPU_CHUNK_TOKENS = 512
    evaluate.gpt = SimpleNamespace(loss=slow_loss)  # only here: steps keep their speed
    processes._worker_main(pipe, context)


@pytest.mark.promise(8, "evaluations that take longer than a worker may be silent")
def test_a_long_evaluation_is_no_hang(text_file: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    study = Study("slow", str(text_file), base={**TINY, "max_iters": 2, "eval_interval": 2})
    monkeypatch.setattr(processes, "_worker_main", slow_to_evaluate)
    listener = Reasons(lambda: monkeypatch.setattr(policy, "SILENCE_TIMEOUT_S", 3.0))  # once it has started
    results = run_study(study, tmp_path, RunOptions(device="cpu", workers=1, compile="off"), listener=listener)
    assert results.summary()["status"].to_list() == ["done"]
    assert results.summary()["eval_time_s"].item() > 6.0 and not any(listener.reasons)


def test_after_a_stop_no_process_is_started(
    make: Callable[..., RunConfig], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(processes, "_start_worker", lambda context: pytest.fail("started"))
    context = TrainingContext(StudyPaths(tmp_path), {}, torch.device("cpu"), threads=1)
    Processes(2).run([(make(),)], context, NullListener().emit, should_stop=lambda: True)


def test_a_study_makes_do_with_the_workers_there_are(
    grid: Study, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    start, started = processes._start_worker, list[TrainingContext]()

    def scarce(context: TrainingContext) -> Any:
        if started:
            raise BlockingIOError(errno.EAGAIN, "Resource temporarily unavailable")
        started.append(context)
        return start(context)

    monkeypatch.setattr(processes, "_start_worker", scarce)
    options = RunOptions(device="cpu", workers=2, compile="off")
    assert run_study(grid, tmp_path / "one", options).summary()["status"].to_list() == ["done"] * 3
    with pytest.raises(StoreError, match="cannot start a worker process: Resource temporarily unavailable"):
        run_study(grid, tmp_path / "none", options)


def test_the_program_ends_with_1_when_a_run_diverged(text_file: Path, tmp_path: Path) -> None:
    base = {**TINY, "max_iters": 4, "eval_interval": 2, "decay_lr": False, "grad_clip": 0.0}
    study = Study("rates", str(text_file), base=base, factors={"learning_rate": (1e-3, 1e30)})
    found = run_and_report(study, tmp_path, RunOptions(device="cpu", workers=1))
    assert found and conclude(*found, json=False) == 1
    assert sorted(load_study(tmp_path).summary()["status"]) == ["diverged", "done"]
