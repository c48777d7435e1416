"""Stacks as SLURM jobs, by a queue that trains them in this process: what is submitted, followed, retried and left."""

from __future__ import annotations

import os
import signal
from collections.abc import Callable, Sequence
from pathlib import Path
from subprocess import CompletedProcess
from typing import Any

import pytest

from isoloss.errors import AllFailedError, ConfigError, Interrupted, StoreError
from isoloss.execution import slurm, slurm_queue
from isoloss.execution.context import TrainingContext
from isoloss.execution.event_file import EventReader, EventWriter
from isoloss.execution.executor import NullListener
from isoloss.execution.options import RunOptions
from isoloss.execution.plan import Stack
from isoloss.execution.recorder import Event
from isoloss.execution.slurm_queue import Queued, queued
from isoloss.execution.study import run_study
from isoloss.store.tables import load_study
from isoloss.study.study import Study
from isoloss.training.distributed import Ranks
from tests.faults.harness import results_of

Outcome = str
SIGNALS = signal.SIGTERM, signal.SIGUSR1, signal.SIGUSR2
BASE: dict[str, Any] = {"n_layer": 1, "n_embd": 16, "n_head": 2, "block_size": 16, "batch_size": 4, "precision": "fp32"}
BASE |= {"max_iters": 6, "eval_interval": 3, "eval_train_tokens": 64}


class Queue:
    """Trains a job each time it is asked, in the order of submission; `outcomes` are those of the first, if any."""

    def __init__(self, patch: pytest.MonkeyPatch) -> None:
        self.jobs: dict[tuple[str, int], tuple[Queued, tuple[TrainingContext, Stack, Path]]] = {}
        self.patch, self.outcomes, self.arrays, self.commands = patch, list[Outcome](), list[int](), list[list[str]]()
        self.answers = True

    def submit(self, name: str, _: Any, __: int, context: TrainingContext, stacks: Sequence[Stack]) -> None:
        self.arrays.append(len(stacks))
        for index, stack in enumerate(stacks):
            events = context.study.jobs / f"{name}.{index}.jsonl"
            job = Queued(f"{len(self.arrays)}_{index}", "PENDING")
            self.jobs[name, index] = job, (context, stack, events)

    def queued(self) -> dict[tuple[str, int], Queued]:
        if not self.answers:
            raise StoreError("SLURM does not answer")
        for key, (job, work) in self.jobs.items():
            if job.state == "PENDING":
                state = self._train(job, self.outcomes.pop(0) if self.outcomes else "train", *work)
                self.jobs[key] = Queued(job.id, state), work
                break
        return {key: job for key, (job, _) in self.jobs.items()}

    def asked(self, command: Sequence[str]) -> CompletedProcess[str]:
        self.commands.append([*command])
        return CompletedProcess(command, 0, "", "")

    def _train(self, job: Queued, outcome: Outcome, context: TrainingContext, stack: Stack, events: Path) -> str:
        if outcome == "no trace":
            return "FAILED"
        if outcome in ("FAILED", "CANCELLED", "PENDING"):
            with EventWriter(events) as writer:
                writer.write(Event("no run of this job", "done", 0))
            return outcome
        before, train, here = {n: signal.getsignal(n) for n in SIGNALS}, slurm_queue.train_placed, len(self.commands)

        def told(context: TrainingContext, stack: Stack, emit: Any, should_stop: Callable[[], bool]) -> None:
            asked = iter(range(1000))

            def tell() -> bool:
                if next(asked) == (0 if outcome == "time limit at once" else 5):
                    os.kill(os.getpid(), signal.SIGUSR2)
                return should_stop()

            train(context, stack, emit, tell)

        try:
            with self.patch.context() as patch:
                array, _, index = job.id.partition("_")
                patch.setenv("SLURM_ARRAY_JOB_ID", array)
                patch.setenv("SLURM_ARRAY_TASK_ID", index)
                patch.setenv("SLURM_JOB_ID", array)  # so it is for the last job of an array
                patch.setattr(slurm_queue, "train_placed", told if outcome.startswith("time limit") else train)
                slurm_queue.run_job(context, stack, events)
        finally:
            for number, handler in before.items():
                signal.signal(number, handler)
        return "PENDING" if ["scontrol", "requeue", job.id] in self.commands[here:] else "COMPLETED"


class Heard(NullListener):
    def __init__(self) -> None:
        self.events: list[Event] = []

    def emit(self, event: Event) -> None:
        self.events.append(event)

    @property
    def reasons(self) -> list[str]:
        return [event.reason for event in self.events if event.reason]


@pytest.fixture
def queue(monkeypatch: pytest.MonkeyPatch) -> Queue:
    found = Queue(monkeypatch)
    monkeypatch.setattr(slurm_queue, "check_slurm", lambda: None)
    monkeypatch.setattr(slurm, "submit_array", found.submit)
    monkeypatch.setattr(slurm, "queued", found.queued)
    monkeypatch.setattr(slurm_queue, "queued", found.queued)
    for module in (slurm, slurm_queue):
        monkeypatch.setattr(module, "asked", found.asked)
    for limit in ("QUEUE_EVERY_S", "ROUND_S", "SETTLE_S"):
        monkeypatch.setattr(slurm, limit, 0.0)
    monkeypatch.setattr("isoloss.execution.policy.POLL_INTERVAL_S", 0.0)
    return found


@pytest.fixture
def three(text_file: Path) -> Study:
    return Study("three", str(text_file), base=BASE, seeds=(1, 2, 3))


ON = RunOptions(on="slurm", device="cpu", compile="off")


def test_jobs_of_one_array_train_what_a_local_run_does(queue: Queue, three: Study, tmp_path: Path) -> None:
    results = run_study(three, tmp_path / "out", ON)
    assert results.summary()["status"].to_list() == ["done"] * 3 and queue.arrays == [3]
    assert {status.provenance["executor"] for status in results.statuses().values()} == {"slurm"}
    assert all(status.provenance["node"] for status in results.statuses().values())
    assert not list(results.paths.jobs.iterdir())  # what followed the jobs is gone with them
    run_study(three, tmp_path / "local", RunOptions(device="cpu", workers=1, compile="off"))
    assert results_of(tmp_path / "out") == results_of(tmp_path / "local")


def test_a_job_told_of_its_time_limit_saves_and_queues_again(queue: Queue, three: Study, tmp_path: Path) -> None:
    queue.outcomes = ["time limit"]
    heard = Heard()
    assert run_study(three, tmp_path, ON, listener=heard).summary()["status"].to_list() == ["done"] * 3
    assert queue.arrays == [3] and ["scontrol", "requeue", "1_0"] in queue.commands
    assert "stopped" in [event.kind for event in heard.events] and not heard.reasons


def test_a_job_whose_time_limit_is_too_short_for_a_step_does_not_queue_for_ever(
    queue: Queue, three: Study, tmp_path: Path
) -> None:
    queue.outcomes = ["time limit at once", "train", "train", "time limit at once"]
    results = run_study(three, tmp_path, ON)
    assert queue.arrays == [3, 1] and not queue.commands
    assert sorted(results.summary()["status"]) == ["done", "done", "failed"]


def test_the_runs_of_a_job_that_dies_are_submitted_once_more_and_then_fail(
    queue: Queue, three: Study, tmp_path: Path
) -> None:
    queue.outcomes = ["FAILED", "train", "train", "FAILED"]
    heard = Heard()
    results = run_study(three, tmp_path, ON, listener=heard)
    assert queue.arrays == [3, 1] and sorted(results.summary()["status"]) == ["done", "done", "failed"]
    assert heard.reasons[0].startswith("its SLURM job 1_0 failed, its log is ")
    assert heard.reasons[0].endswith("1_0_0_log.err; it is retried")
    assert set(run_study(three, tmp_path, ON).summary()["status"]) == {"done"}


def test_a_job_that_a_person_cancels_is_not_submitted_again(queue: Queue, three: Study, tmp_path: Path) -> None:
    queue.outcomes = ["CANCELLED"]
    results = run_study(three, tmp_path, ON)
    assert queue.arrays == [3] and sorted(results.summary()["status"]) == ["done", "done", "pending"]
    [reason] = [status.reason for status in results.statuses().values() if status.state == "pending"]
    assert reason.startswith("its SLURM job 1_0 was cancelled")


def test_jobs_go_on_without_the_command_and_are_followed_again(queue: Queue, three: Study, tmp_path: Path) -> None:
    queue.outcomes = ["train", "PENDING", "PENDING", "PENDING"]
    heard = Heard()
    with pytest.raises(Interrupted):
        run_study(three, tmp_path, ON, listener=heard, should_stop=lambda: bool(heard.events))
    assert heard.reasons[-1].startswith("2 SLURM jobs go on: the same command follows, scancel --name=isoloss-")
    assert not queue.commands and len(list(tmp_path.glob("jobs/*.json"))) == 1
    queue.outcomes = ["PENDING"]
    assert run_study(three, tmp_path, ON).summary()["status"].to_list() == ["done"] * 3
    assert queue.arrays == [3]  # nothing was submitted anew


def test_a_folder_that_nodes_do_not_see_ends_the_study(queue: Queue, three: Study, tmp_path: Path) -> None:
    queue.outcomes = ["no trace"]
    with pytest.raises(StoreError, match=r"^SLURM job 1_0 failed without a trace in .*jobs: nor in .*an --out and"):
        run_study(three, tmp_path, ON)
    assert queue.commands[0][0] == "scancel" and queue.commands[0][1].startswith("--name=isoloss-")


def test_a_queue_that_does_not_answer_for_a_while_costs_nothing(queue: Queue, three: Study, tmp_path: Path) -> None:
    heard = Heard()
    train = queue.queued

    def restarting() -> Any:
        queue.answers = not queue.answers
        return train()

    queue.patch.setattr(slurm_queue, "queued", restarting)
    assert run_study(three, tmp_path, ON, listener=heard).summary()["status"].to_list() == ["done"] * 3
    assert not heard.reasons


@pytest.mark.usefixtures("queue")
def test_tokens_that_a_node_does_not_see_are_named_with_what_to_do(
    three: Study, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("isoloss.execution.worker.path_exists", lambda path: False)
    results = run_study(three.with_settings({"max_iters": 2}), tmp_path / "here", RunOptions(device="cpu"))
    assert set(results.summary()["status"]) == {"done"}
    with pytest.raises(AllFailedError, match=r"is not on node .*: set ISOLOSS_CACHE to a folder that every node sees"):
        run_study(three, tmp_path / "there", ON)
    assert load_study(tmp_path / "there").summary()["status"].to_list() == ["failed"] * 3


def test_what_cannot_be_is_refused_in_a_line(
    three: Study, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, text_file: Path
) -> None:
    wrong: dict[str, Callable[[], RunOptions]] = {
        "--on lsf: write here, slurm, ray or ray:ADDRESS": lambda: RunOptions(on="lsf"),
        "--slurm is for --on slurm": lambda: RunOptions(slurm="time=1"),
        "--slurm gpu: write NAME=VALUE,NAME=VALUE": lambda: RunOptions(on="slurm", slurm="gpu"),
        "--slurm job_name=mine: isoloss sets job-name itself": lambda: RunOptions(on="slurm", slurm="job_name=mine"),
        "--slurm ntasks=2: isoloss sets ntasks itself": lambda: RunOptions(on="slurm", slurm="ntasks=2"),
        "--slurm a='b c': write NAME=VALUE": lambda: RunOptions(on="slurm", slurm="a='b c'"),
        "--device cuda:1: on a cluster write cuda or cpu": lambda: RunOptions(on="slurm", device="cuda:1"),
    }
    for text, make in wrong.items():
        with pytest.raises(ConfigError, match=text):
            make()
    assert RunOptions(on="slurm", slurm="gpus_per_node=1,time=1-00:00:00").slurm_options() == {
        "gpus-per-node": "1",
        "time": "1-00:00:00",
    }
    refused = {
        "ask for a GPU too, as in --slurm gpus_per_node=1": RunOptions(on="slurm", device="cuda"),
        "asks for GPUs that nothing would use": RunOptions(on="slurm", device="cpu", slurm="gres=gpu:1"),
        "ask for a GPU too": RunOptions(on="slurm", device="cuda", slurm="gres=tmpdisk:1"),
        "sbatch, srun, squeue and scancel are not all here": ON,
    }
    monkeypatch.setenv("PATH", str(tmp_path / "nothing"))
    for text, options in refused.items():
        with pytest.raises(ConfigError, match=text):
            run_study(three, tmp_path / "out", options)
    with pytest.raises(ConfigError, match="sbatch, srun"):  # before a text is read
        run_study(Study("none", str(tmp_path / "none.txt"), base=BASE), tmp_path / "out", ON)
    with pytest.raises(ConfigError, match="start it without torchrun"):
        run_study(three, tmp_path / "out", ON, ranks=Ranks(0, 2))
    monkeypatch.setattr(slurm_queue, "check_slurm", lambda: None)
    with pytest.raises(ConfigError, match="state how many runs train together: --stack N"):
        run_study(three, tmp_path / "out", RunOptions(on="slurm", slurm="gpus=1"))
    left_open = Study("open", str(text_file), base={name: BASE[name] for name in BASE if name != "precision"})
    with pytest.raises(ConfigError, match="state --precision bf16, fp16 or fp32"):
        run_study(left_open, tmp_path / "out", RunOptions(on="slurm", slurm="gpus=1", stack=2))
    assert not (tmp_path / "out" / "study.yaml").exists()


def test_the_queue_is_read_as_squeue_shows_it(monkeypatch: pytest.MonkeyPatch) -> None:
    shown = "isoloss-1|N/A|7|RUNNING\nanother|job|N/A|6|RUNNING\nisoloss-2|0|8_0|PENDING\nisoloss-2|1|8_1|NODE_FAIL\n"
    monkeypatch.setattr(slurm_queue, "asked", lambda command: CompletedProcess(command, 0, shown, ""))
    found = queued()
    assert found["isoloss-1", 0] == Queued("7", "RUNNING") and found["isoloss-2", 1].state == "NODE_FAIL"
    monkeypatch.setattr(slurm_queue, "asked", lambda command: CompletedProcess(command, 1, "", "a\nslurm_load: down\n"))
    with pytest.raises(StoreError, match="SLURM does not answer: slurm_load: down"):
        queued()


def test_events_in_a_file_are_read_once_and_only_whole_ones(tmp_path: Path) -> None:
    path, event = tmp_path / "events", Event("run", "running", 3, 1.5, reason="why")
    reader = EventReader(path)
    assert [*reader.new()] == [] and not reader.seen
    with EventWriter(path) as writer:
        writer.write(event)
        path.write_bytes(path.read_bytes() + b'{"run_id": 1}\nnothing\n{"run_id": "ru')
        assert [*reader.new()] == [event] and reader.seen
        assert [*reader.new()] == []
