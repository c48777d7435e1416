"""What is known of a GPU and how its errors are told apart; none is needed."""

from __future__ import annotations

import multiprocessing
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from dataclasses import asdict
from pathlib import Path
from typing import Any
from unittest.mock import Mock

import pytest
import torch

from isoloss.data.token_files import Tokens
from isoloss.errors import ConfigError, DeviceLostError
from isoloss.execution import processes, worker
from isoloss.execution.context import TrainingContext
from isoloss.execution.executor import Inline
from isoloss.execution.options import RunOptions
from isoloss.execution.study import run_study, uses_compiled_kernels
from isoloss.model.functions import Kernels
from isoloss.store.layout import StudyPaths
from isoloss.store.run import read_status
from isoloss.store.tables import load_study
from isoloss.study.config import RunConfig
from isoloss.study.identity import run_id
from isoloss.study.study import Study
from isoloss.training import backend, device, numerics, step
from isoloss.training.backend import kernels_for
from isoloss.training.device import (
    Peak,
    is_lost,
    is_out_of_memory,
    measured_gemm_on_cuda,
    nominal_peaks,
    peak,
    resolve_device,
)
from isoloss.training.distributed import Ranks
from isoloss.training.evaluate import DeviceTokens
from isoloss.training.gpus import Gpu
from isoloss.training.numerics import differences, numerics_here
from isoloss.training.state import StackState, initial_state, stack
from isoloss.training.step import Stepper

Make = Callable[..., RunConfig]
CPU = torch.device("cpu")
ILLEGAL_ACCESS = "CUDA error: an illegal memory access was encountered\nCUDA kernel errors might be reported later"


def raising(error: Exception) -> Callable[..., Any]:
    def raises(*_: Any, **__: Any) -> None:
        raise error

    return raises


@pytest.mark.parametrize(
    ("name", "half"),
    [
        ("NVIDIA A100-SXM4-80GB", 312),
        ("NVIDIA A100 80GB PCIe", 312),
        ("NVIDIA H100 80GB HBM3", 989),
        ("NVIDIA H100 PCIe", 756),
        ("NVIDIA H20", 148),
        ("Tesla V100-SXM2-16GB", 125),
        ("Tesla V100-PCIE-32GB", 112),
        ("NVIDIA L40", 181),
        ("NVIDIA L40S", 362),
        ("NVIDIA L4", 121),
        ("NVIDIA A10", 125),
        ("NVIDIA A10G", None),
        ("NVIDIA RTX A6000", 154.8),
        ("NVIDIA RTX 6000 Ada Generation", 364),
        ("Quadro RTX 6000", None),
        ("NVIDIA GeForce RTX 5070 Ti", 87.9),
        ("NVIDIA GeForce RTX 3090 Ti", None),
        ("NVIDIA GeForce RTX 4090 Laptop GPU", None),
        ("NVIDIA H100 80GB HBM3 MIG 1g.10gb", None),
    ],
)
def test_a_name_says_its_peak_in_whole_words_alone(name: str, half: float | None) -> None:
    peaks = nominal_peaks(name)
    assert (peaks and peaks[0]) == half


def test_an_unknown_gpu_is_measured_by_its_own_clock(monkeypatch: pytest.MonkeyPatch) -> None:
    class Event:
        def __init__(self, *, enable_timing: bool) -> None:
            assert enable_timing

        def record(self) -> None: ...
        def synchronize(self) -> None: ...
        def elapsed_time(self, _: Any) -> float:
            return 2.0  # milliseconds

    for name, fake in (("Event", Event), ("device", lambda device: nullcontext())):
        monkeypatch.setattr(torch.cuda, name, fake)
    rate = measured_gemm_on_cuda(CPU, torch.float32, size=8, seconds=0)
    assert rate == pytest.approx(10 * 2 * 8**3 / 2e-3)
    monkeypatch.setattr(device, "measured_gemm_on_cuda", lambda *_: 7.0)
    for gpu, expected in (("NVIDIA L4", Peak(30.3e12, "nominal")), ("NVIDIA A10G", Peak(7.0, "measured GEMM"))):
        monkeypatch.setattr(device, "gpu", lambda _, gpu=gpu: Gpu(gpu))
        assert peak.__wrapped__(torch.device("cuda", 0), "fp32", 1) == expected


@pytest.fixture
def two_gpus(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)


@pytest.mark.usefixtures("two_gpus")
def test_a_process_has_the_gpu_of_its_local_rank(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("LOCAL_RANK", raising=False)
    assert resolve_device("auto") == torch.device("cuda", 0)
    monkeypatch.setenv("LOCAL_RANK", "1")
    assert resolve_device("cuda") == torch.device("cuda", 1)
    for wrong in ("2", "-1", "one"):
        monkeypatch.setenv("LOCAL_RANK", wrong)
        with pytest.raises(ConfigError, match=f"LOCAL_RANK={wrong}: .* of which this machine has 2"):
            resolve_device("cuda")
        assert resolve_device("cpu") == CPU


def test_how_products_round_on_cuda_is_part_of_the_numerics(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(numerics, "gpu", lambda device: Gpu("NVIDIA L4"))
    devices = torch.device("cuda", 0), CPU
    before = [numerics_here(device, "", threads=1, stack=4, ranks=1) for device in devices]
    assert before[0].instructions == "sums in bf16 and fp16, fp32 products highest"
    torch.backends.cuda.matmul.allow_bf16_reduced_precision_reduction = False
    try:
        on_cuda, on_cpu = (numerics_here(device, "", threads=1, stack=4, ranks=1) for device in devices)
    finally:
        torch.backends.cuda.matmul.allow_bf16_reduced_precision_reduction = True
    assert on_cpu == before[1]
    assert differences(asdict(before[0]), on_cuda) == [
        f"instructions was {before[0].instructions}, is now sums in fp16, fp32 products highest"
    ]


def test_lack_of_memory_is_told_from_other_errors() -> None:
    lacks = [
        torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB."),
        RuntimeError("CUDA error: out of memory"),
        RuntimeError("CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling `cublasCreate(handle)`"),
        RuntimeError("cudaErrorMemoryAllocation: graph could not be instantiated"),
    ]
    others = [RuntimeError(ILLEGAL_ACCESS), RuntimeError("CUDA error: CUBLAS_STATUS_EXECUTION_FAILED"), KeyError("x")]
    assert [is_out_of_memory(error) for error in [*lacks, *others]] == [True] * 4 + [False] * 3


def test_a_gpu_is_lost_when_it_refuses_to_go_on(monkeypatch: pytest.MonkeyPatch) -> None:
    cuda = torch.device("cuda", 0)
    monkeypatch.setattr(torch.cuda, "synchronize", raising(RuntimeError(ILLEGAL_ACCESS)))
    assert is_lost(cuda) and not is_lost(CPU)
    monkeypatch.setattr(torch.cuda, "synchronize", raising(RuntimeError("CUDA error: out of memory")))
    assert not is_lost(cuda)
    monkeypatch.setattr(torch.cuda, "synchronize", lambda device: None)
    assert not is_lost(cuda)


def test_a_lost_gpu_fails_its_stack_and_no_other(
    text_file: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    base = {"n_layer": 1, "n_embd": 16, "n_head": 2, "block_size": 16, "batch_size": 4, "max_iters": 2}
    study = Study("lost", str(text_file), base={**base, "eval_interval": 2, "eval_train_tokens": 64}, seeds=(1, 2, 3))
    options = RunOptions(device="cpu", precision="fp32", compile="off", stack=2)
    with monkeypatch.context() as lost:
        lost.setattr(worker, "train", raising(RuntimeError(ILLEGAL_ACCESS)))
        lost.setattr(worker, "is_lost", lambda device: True)
        with pytest.raises(DeviceLostError, match=r"^cpu does no more work .* illegal memory access .*; 2 runs failed"):
            run_study(study, tmp_path, options, executor=Inline())
    results = load_study(tmp_path)
    states = [read_status(results.paths.run(run_id(config))).state for config in results.configs]
    assert sorted(states) == ["failed", "failed", "pending"]
    assert set(run_study(study, tmp_path, options, executor=Inline()).summary()["status"]) == {"done"}


def test_a_worker_that_lost_its_gpu_ends(make: Make, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(processes, "train_placed", raising(DeviceLostError("")))
    monkeypatch.setattr("isoloss.execution.processes.signal.signal", lambda *_: None)
    monkeypatch.setattr(processes, "prepare_process", lambda context: None)
    ours, theirs = multiprocessing.Pipe()
    ours.send((make(),))
    processes._worker_main(theirs, TrainingContext(StudyPaths(tmp_path), {}, CPU, threads=1))
    assert not ours.poll()  # it did not say that the stack has ended


def test_triton_fuses_on_a_gpu_where_it_is_installed(make: Make, monkeypatch: pytest.MonkeyPatch) -> None:
    cuda, said = torch.device("cuda", 0), list[str]()
    monkeypatch.setattr(backend, "find_spec", lambda name: None)
    assert not uses_compiled_kernels(RunOptions(), [make()], cuda, said.append)
    assert len(said) == 1 and said[0].startswith("Triton is not installed: ") and "isoloss[triton]" in said[0]
    assert kernels_for(torch.bfloat16, cuda, compiled=True) == Kernels(torch.bfloat16)
    monkeypatch.setattr(backend, "find_spec", lambda name: name)
    assert uses_compiled_kernels(RunOptions(), [make()], cuda, said.append)
    assert not uses_compiled_kernels(RunOptions(compile="off"), [make()], cuda, said.append)
    assert kernels_for(torch.bfloat16, cuda, compiled=True) == Kernels(torch.bfloat16, triton=True)
    assert kernels_for(torch.bfloat16, cuda, compiled=False) == Kernels(torch.bfloat16)
    assert not kernels_for(torch.float16, CPU, compiled=True).triton and len(said) == 1


@pytest.mark.parametrize("world", [1, 2])
def test_a_step_is_captured_and_replayed_on_its_own_gpu(
    make: Make, tokens: Tokens, monkeypatch: pytest.MonkeyPatch, world: int
) -> None:
    """A graph that is captured while another device is current is empty, without an error.

    Other threads may use the device meanwhile: one that saves a checkpoint, or NCCL's that watches over ranks.
    """
    stacked, current, done = stack([initial_state(make())], CPU), [0], list[tuple[str, int]]()
    stepper = Stepper(stacked, DeviceTokens(tokens, CPU).train_N, Ranks())
    stepper.take(1)
    stepper._ranks = Ranks(0, world)

    @contextmanager
    def entered(chosen: torch.device) -> Iterator[None]:
        before, current[0] = current[0], chosen.index
        yield
        current[0] = before

    class Graph:
        def replay(self) -> None:
            done.append(("replay", current[0]))

    @contextmanager
    def capture(_: Graph, capture_error_mode: str) -> Iterator[None]:
        assert capture_error_mode == "thread_local"
        done.append(("capture", current[0]))
        yield

    monkeypatch.setattr(StackState, "device", property(lambda self: torch.device("cuda", 3)))
    monkeypatch.setattr(Stepper, "step", lambda self: done.append(("step", current[0])))
    for name, fake in (("device", entered), ("CUDAGraph", Graph), ("graph", capture), ("Event", Mock)):
        monkeypatch.setattr(torch.cuda, name, fake)
    monkeypatch.setattr(step, "pinned_copy", torch.clone)
    stepper.take(4)
    assert [what for what, _ in done] == ["step", "step", "capture", "step", "replay", "replay"]
    assert {where for _, where in done} == {3} and current == [0]
