"""Stacks as tasks of Ray's actors, by a Ray that has them in this process: what is asked of it, and deaths."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from isoloss.errors import ConfigError, Interrupted
from isoloss.execution.executor import NullListener
from isoloss.execution.options import RunOptions
from isoloss.execution.recorder import Event
from isoloss.execution.study import run_study
from isoloss.study.study import Study
from tests.faults.harness import results_of

BASE: dict[str, Any] = {"n_layer": 1, "n_embd": 16, "n_head": 2, "block_size": 16, "batch_size": 4, "precision": "fp32"}
BASE |= {"max_iters": 6, "eval_interval": 3, "eval_train_tokens": 64}
ON = RunOptions(on="ray", device="cpu", compile="off")


class RayError(Exception): ...


class Handle:
    """An actor: calls of it are made at once, and its answers come one by one."""

    def __init__(self, ray: FakeRay, trainer: Any) -> None:
        self.ray, self.trainer, self.alive = ray, trainer, True
        self.train = SimpleNamespace(options=lambda **how: SimpleNamespace(remote=self._train))
        self.stop = SimpleNamespace(remote=trainer.stop)

    def _train(self, stack: Any) -> Iterator[Any]:
        if self.ray.deaths and self.ray.deaths.pop(0):
            yield RayError("\nThe actor died unexpectedly\nmore")
            return
        yield from self.trainer.train(stack)


class FakeRay:
    """As much of Ray as is used; `deaths` says which of the first calls end in one."""

    exceptions = SimpleNamespace(RayError=RayError)

    def __init__(self, **resources: int) -> None:
        self.resources, self.deaths, self.options, self.killed = resources, list[bool](), list[Any](), list[Any]()
        self.initialized, self.asked = False, dict[str, Any]()

    def is_initialized(self) -> bool:
        return self.initialized

    def init(self, **how: Any) -> None:
        self.initialized, self.asked = True, how

    def cluster_resources(self) -> dict[str, int]:
        return self.resources

    def remote(self, kind: Any) -> Any:
        def options(**how: Any) -> Any:
            self.options.append(how)
            return SimpleNamespace(remote=lambda context: Handle(self, kind(context)))

        return SimpleNamespace(options=options)

    def wait(self, answers: list[Any], timeout: float) -> tuple[list[Any], list[Any]]:
        return answers, []

    def get(self, answer: Any) -> Any:
        if isinstance(answer, RayError):
            raise answer
        return answer

    def kill(self, handle: Handle) -> None:
        self.killed.append(handle)


@pytest.fixture
def ray(monkeypatch: pytest.MonkeyPatch) -> FakeRay:
    fake = FakeRay(CPU=2)
    monkeypatch.setitem(sys.modules, "ray", fake)  # pyright: ignore[reportArgumentType]
    return fake


@pytest.fixture
def three(text_file: Path) -> Study:
    return Study("three", str(text_file), base=BASE, seeds=(1, 2, 3))


class Heard(NullListener):
    def __init__(self) -> None:
        self.events: list[Event] = []

    def emit(self, event: Event) -> None:
        self.events.append(event)


def test_actors_train_what_a_local_run_does(ray: FakeRay, three: Study, tmp_path: Path) -> None:
    results = run_study(three, tmp_path / "out", ON)
    assert results.summary()["status"].to_list() == ["done"] * 3
    assert {status.provenance["executor"] for status in results.statuses().values()} == {"ray"}
    assert len(ray.options) == len({*map(id, ray.killed)}) == 2  # as many as there is room for
    assert ray.options[0]["num_cpus"] == 1
    assert ray.options[0]["num_gpus"] == 0 and ray.options[0]["max_restarts"] == 0
    assert "address" not in ray.asked and ray.asked["runtime_env"] == {"env_vars": {"PYTHONSAFEPATH": "1"}}
    run_study(three, tmp_path / "local", RunOptions(device="cpu", workers=1, compile="off"))
    assert results_of(tmp_path / "out") == results_of(tmp_path / "local")


def test_the_runs_of_an_actor_that_dies_are_tried_once_more_and_then_fail(
    ray: FakeRay, three: Study, tmp_path: Path
) -> None:
    heard, ray.deaths = Heard(), [True, False, False, True]
    results = run_study(three, tmp_path, RunOptions(on="ray", device="cpu", compile="off", workers=1), listener=heard)
    reasons = [event.reason for event in heard.events if event.reason]
    assert reasons[0] == "its Ray actor died: The actor died unexpectedly; it is retried"
    assert sorted(results.summary()["status"]) == ["done", "done", "failed"]
    assert reasons[-1] == "its Ray actor died: The actor died unexpectedly"
    assert set(run_study(three, tmp_path, ON).summary()["status"]) == {"done"}


def test_a_stop_is_saved_and_gone_on_from(ray: FakeRay, three: Study, tmp_path: Path) -> None:
    heard = Heard()
    with pytest.raises(Interrupted):
        run_study(three, tmp_path, ON, listener=heard, should_stop=lambda: bool(heard.events))
    assert len(ray.killed) >= len(ray.options)
    assert run_study(three, tmp_path, ON).summary()["status"].to_list() == ["done"] * 3


def test_gpus_are_asked_for_and_counted(ray: FakeRay, three: Study, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="--device cuda: this Ray cluster has no GPU"):
        run_study(three, tmp_path, RunOptions(on="ray", device="cuda", stack=1))
    ray.resources = {"CPU": 2, "GPU": 1}
    from isoloss.execution.engines import engine
    from isoloss.execution.placement import training_device

    options = RunOptions(on="ray:auto", device="cuda")
    made: Any = engine(options, training_device(options))
    assert made.workers == 1 and made._resources == {"num_cpus": 1, "num_gpus": 1}


def test_what_cannot_be_reached_is_named_in_a_line(
    three: Study, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    fake = FakeRay(CPU=1)
    monkeypatch.setitem(sys.modules, "ray", fake)  # pyright: ignore[reportArgumentType]
    with pytest.raises(ConfigError, match=r"^--on ray:127.0.0.1:1: not reachable \(.*refused\); `ray start --head`"):
        run_study(three, tmp_path, RunOptions(on="ray:127.0.0.1:1", device="cpu"))
    monkeypatch.setattr(fake, "init", lambda **how: (_ for _ in ()).throw(ConnectionError("no cluster\nmore")))
    with pytest.raises(ConfigError, match=r"^--on ray:auto: not reachable \(no cluster\); "):
        run_study(three, tmp_path, RunOptions(on="ray:auto", device="cpu"))
    monkeypatch.setitem(sys.modules, "ray", None)  # pyright: ignore[reportArgumentType]
    with pytest.raises(ConfigError, match=r"pip install 'isoloss\[ray\]'"):
        run_study(three, tmp_path, ON)
    assert not (tmp_path / "study.yaml").exists()
