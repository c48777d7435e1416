"""Every GPU of a host has a worker, and the coordinator uses none: no GPU is needed, CPUs do the work."""

from __future__ import annotations

import os
import signal
from collections.abc import Callable
from dataclasses import replace
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

import pytest
import torch

from isoloss.errors import ConfigError
from isoloss.execution import processes, width
from isoloss.execution.context import TrainingContext
from isoloss.execution.executor import NullListener
from isoloss.execution.options import RunOptions
from isoloss.execution.recorder import Event
from isoloss.execution.study import run_study, worker_count
from isoloss.execution.width import stack_width
from isoloss.study.config import RunConfig
from isoloss.study.study import Study
from isoloss.study.texts import DataFacts
from isoloss.training import gpus
from isoloss.training.device import resolve_devices
from isoloss.training.gpus import Gpu, check_usable, examine

GPUS = tuple(torch.device("cuda", i) for i in range(2))
CPU = torch.device("cpu")
Use = Callable[..., None]


@pytest.fixture
def use(monkeypatch: pytest.MonkeyPatch) -> Use:
    """Makes this a machine with these GPUs."""

    def make(*found: Gpu) -> None:
        monkeypatch.delenv("LOCAL_RANK", raising=False)
        monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
        monkeypatch.setattr(torch.cuda, "device_count", lambda: len(found))
        monkeypatch.setattr(gpus, "_asked", {torch.device("cuda", i): each for i, each in enumerate(found)})
        monkeypatch.setattr(torch.cuda, "_lazy_init", lambda: pytest.fail("the coordinator uses CUDA"))

    return make


FREE = Gpu("NVIDIA L4", multiplies_bf16=True, free_bytes=1 << 34)


def on_a_cpu(pipe: Connection, context: TrainingContext) -> None:
    """A worker that notes its GPU in a file of its process, and trains on the CPU."""
    folder, train = context.study.folder.with_name("set"), processes.train_placed
    torch.cuda.set_device = lambda device: (folder / str(os.getpid())).write_text(str(device))
    processes.train_placed = lambda context, *rest, **how: train(replace(context, device=CPU), *rest, **how)
    processes._worker_main(pipe, context)


class Killer(NullListener):
    """Kills the first worker whose GPU is noted in a folder."""

    def __init__(self, noted: Path) -> None:
        self.noted, self.gpu, self.reasons = noted, "", list[str]()

    def emit(self, event: Event) -> None:
        self.reasons.append(event.reason)
        if not self.gpu:
            victim = next(self.noted.iterdir())
            self.gpu = victim.read_text()
            os.kill(int(victim.name), signal.SIGKILL)


def test_every_gpu_has_a_worker_and_a_new_one_after_its_death(
    use: Use, text_file: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    use(FREE, FREE)
    (tmp_path / "set").mkdir()
    monkeypatch.setattr(processes, "_worker_main", on_a_cpu)
    base: dict[str, Any] = {"n_layer": 1, "n_embd": 16, "n_head": 2, "block_size": 16, "batch_size": 4}
    base |= {"max_iters": 150, "eval_interval": 75, "eval_train_tokens": 64, "precision": "fp32"}
    killer = Killer(tmp_path / "set")
    tiny = Study("tiny", str(text_file), base=base, seeds=(1, 2, 3, 4))
    results = run_study(tiny, tmp_path / "out", RunOptions(device="cuda"), listener=killer)
    assert results.summary()["status"].to_list() == ["done"] * 4
    assert any(reason.endswith("it is retried") for reason in killer.reasons)
    used = [path.read_text() for path in (tmp_path / "set").iterdir()]
    assert sorted(used) == sorted(["cuda:0", "cuda:1", killer.gpu])
    assert {status.provenance["stack_width"] for status in results.statuses().values()} == {2}
    assert not torch.cuda.is_initialized()


def test_which_gpus_are_meant(use: Use) -> None:
    use(FREE, FREE)
    assert resolve_devices("cuda") == resolve_devices("auto") == GPUS
    assert resolve_devices("cuda:1") == GPUS[1:]
    with pytest.raises(ConfigError, match="--device cuda:2: this machine has cpu, cuda, cuda:0, cuda:1"):
        resolve_devices("cuda:2")
    with pytest.raises(ConfigError, match="--device gpu: write auto, cpu, cuda, cuda:N or mps"):
        RunOptions(device="gpu")
    assert [worker_count(RunOptions(device="cuda", workers=n), GPUS[0]) for n in (None, 1)] == [2, 1]
    assert worker_count(RunOptions(device="cuda:1"), GPUS[1]) == 1
    with pytest.raises(ConfigError, match="--workers 3: a worker needs a GPU, there are 2"):
        worker_count(RunOptions(device="cuda", workers=3), GPUS[0])


def test_stacks_are_no_wider_than_runs_for_each_gpu(
    use: Use, make: Callable[..., RunConfig], monkeypatch: pytest.MonkeyPatch
) -> None:
    configs, data = [make(seed=seed) for seed in range(5)], DataFacts("", 65, 20_000, 4_000)
    for found, expected in ((1, 5), (2, 3), (8, 1)):
        use(*[FREE] * found)
        assert stack_width(RunOptions(device="cuda"), configs, GPUS[0], data) == expected
    use(replace(FREE, free_bytes=1 << 20))
    with pytest.raises(ConfigError, match=r"needs about .* of memory, cuda:0 \(NVIDIA L4\) has 1.05 MB free"):
        stack_width(RunOptions(device="cuda"), configs, GPUS[0], data)
    monkeypatch.setattr(width, "gpu", lambda _: pytest.fail("a stated width is taken"))
    assert stack_width(RunOptions(device="cuda", stack=4), configs, GPUS[0], data) == 4


@pytest.mark.parametrize(
    ("error", "told"),
    [
        ("CUDA error: CUDA-capable device(s) is/are busy or unavailable\n", "is in exclusive mode and another process"),
        ("CUDA error: out of memory\nCUDA kernel errors might", "has no memory left for another process"),
        (
            "CUDA error: uncorrectable ECC error encountered\nx",
            "does not work: CUDA error: uncorrectable ECC error enc",
        ),
    ],
)
def test_a_gpu_that_cannot_be_used_is_named_with_those_that_can(
    use: Use, monkeypatch: pytest.MonkeyPatch, error: str, told: str
) -> None:
    def fails(_: torch.device) -> Any:
        raise RuntimeError(error)

    monkeypatch.setattr(torch.cuda, "get_device_name", lambda device: "NVIDIA L4")
    monkeypatch.setattr(torch.cuda, "device", fails)
    [found] = examine(GPUS[:1])
    use(found, FREE)
    with pytest.raises(ConfigError) as raised:
        check_usable(GPUS)
    text = str(raised.value)
    assert text.startswith(f"--device cuda:0 (NVIDIA L4) {told}") and text.endswith("train on others: --device cuda:1")
    assert "\n" not in text


def test_gpus_of_two_kinds_are_not_mixed(use: Use) -> None:
    use(FREE, replace(FREE, name="NVIDIA H100 PCIe"))
    with pytest.raises(ConfigError, match=r"cuda:0 \(NVIDIA L4\) and cuda:1 \(NVIDIA H100 PCIe\) are not of one kind"):
        check_usable(GPUS)
    check_usable(GPUS[:1])


def test_gpus_are_asked_once_in_another_process(use: Use, monkeypatch: pytest.MonkeyPatch) -> None:
    use(FREE, FREE)
    monkeypatch.setattr(gpus, "_asked", {})
    asked = list[Any]()
    monkeypatch.setattr(gpus, "in_another_process", lambda ask, devices: asked.append(devices) or [FREE] * len(devices))
    check_usable(GPUS)
    assert gpus.gpu(GPUS[1]) == FREE and asked == [list(GPUS)]
