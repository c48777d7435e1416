"""This machine: devices, precisions, and the peak FLOP/s by which MFU is computed."""

from __future__ import annotations

import os
import platform
import re
import sys
import time
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from functools import cache
from pathlib import Path
from typing import Any, cast, get_args

import torch

from isoloss.errors import ConfigError
from isoloss.study.config import Precision
from isoloss.training.gpus import gpu
from isoloss.training.state import COMPUTE_DTYPES

A100_PEAK_FLOPS = 312e12
"""The bf16 peak nanoGPT divides by on any device; kept so that published logs compare."""

NOMINAL_PEAKS: Mapping[str, tuple[float, float]] = {
    "B200": (2250, 80),
    "H200": (989, 67),
    "H200 NVL": (835, 60),
    "GH200": (989, 67),
    "H100": (989, 67),
    "H100 NVL": (835, 60),
    "H100 PCIe": (756, 51),
    "H800": (989, 67),
    "H800 PCIe": (756, 51),
    "H20": (148, 44),
    "A100": (312, 19.5),
    "A800": (312, 19.5),
    "A40": (149.7, 37.4),
    "A30": (165, 10.3),
    "A10": (125, 31.2),
    "V100": (125, 15.7),
    "V100 PCIe": (112, 14),
    "L40S": (362, 91.6),
    "L40": (181, 90.5),
    "L4": (121, 30.3),
    "T4": (65, 8.1),
    "RTX 6000 Ada Generation": (364, 91.1),
    "RTX A6000": (154.8, 38.7),
    "RTX 5090": (209.5, 104.8),
    "RTX 5080": (112.6, 56.3),
    "RTX 5070 Ti": (87.9, 43.9),
    "RTX 5070": (61.7, 30.9),
    "RTX 4090": (165, 82.6),
    "RTX 3090": (71, 35.6),
}
"""Dense peaks in TFLOP/s of 16-bit products summed in fp32, and of fp32 outside tensor cores, by a GPU's name.

From NVIDIA's data sheets (half of what they state with sparsity) and, for those with RTX in their name, the appendices
of its Ampere GA102, Ada and RTX Blackwell white papers. B200 is that of its technical brief, at 1,000 W.
"""

_VENDOR_WORDS = {"nvidia", "geforce", "tesla", "quadro"}
_PACKAGE_WORD = re.compile(r"sxm\d?|hbm\de?|\d+gb")
"""Of a GPU's name, words that say how it is mounted or its memory, and nothing of its speed."""


BF16_UNITS = ("amx_bf16", "avx512_bf16", "bf16")
"""Flags of processors that multiply bf16 in hardware, each with roundings of its own."""


_OUT_OF_MEMORY = re.compile(r"OutOfMemoryError|out of memory|cudaErrorMemoryAllocation|\w+_STATUS_ALLOC_FAILED")


@dataclass(frozen=True)
class Peak:
    """Peak FLOP/s, the denominator of MFU, and its source: 'nominal' or 'measured GEMM'."""

    flops: float
    source: str


@dataclass(frozen=True)
class Machine:
    """What a run was trained on: provenance, never part of a run's name."""

    device: str
    device_name: str
    threads: int
    cpu_capability: str
    torch: str
    python: str
    platform: str

    def as_dict(self) -> dict[str, Any]:
        """A JSON object."""
        return asdict(self)


def resolve_device(name: str) -> torch.device:
    """The first of resolve_devices. Raises likewise."""
    return resolve_devices(name)[0]


def resolve_devices(name: str) -> tuple[torch.device, ...]:
    """The devices that auto, cpu, cuda (every GPU; under torchrun one's own), cuda:N or mps stands for.

    Raises ConfigError when the machine has no such device.
    """
    available = ["cpu"]
    if torch.cuda.is_available():
        available.insert(0, "cuda")
    if torch.backends.mps.is_available():
        available.insert(0, "mps")
    if name == "auto":
        name = available[0]
    gpus = [f"cuda:{i}" for i in range(torch.cuda.device_count())] if "cuda" in available else []
    if name not in (*available, *gpus):
        raise ConfigError(f"--device {name}: this machine has {', '.join(sorted([*available, *gpus]))}", ("device",))
    if name == "cuda":
        mine = slice(rank := _local_rank(), rank + 1) if os.environ.get("LOCAL_RANK") else slice(None)
        return tuple(map(torch.device, gpus[mine]))
    return (torch.device(name),)


def _local_rank() -> int:
    """The GPU of this process, as torchrun numbers them. Raises ConfigError."""
    stated, n = os.environ["LOCAL_RANK"], torch.cuda.device_count()
    if not stated.isdecimal() or int(stated) >= n:
        raise ConfigError(
            f"LOCAL_RANK={stated}: it is the number of a GPU, of which this machine has {n}, counted from 0; "
            "start at most one process for each, or unset it"
        )
    return int(stated)


def is_out_of_memory(error: BaseException) -> bool:
    """Whether an error is a lack of memory: of tensors, of a captured graph, or within a library of CUDA's."""
    return isinstance(error, RuntimeError) and bool(_OUT_OF_MEMORY.search(f"{type(error).__name__}: {error}"))


def is_lost(device: torch.device) -> bool:
    """Whether a GPU does no more work for this process, as after an illegal memory access: every call then fails."""
    if device.type != "cuda":
        return False
    try:
        torch.cuda.synchronize(device)
    except RuntimeError as error:
        return not is_out_of_memory(error)
    return False


def pinned_copy(tensor: torch.Tensor) -> torch.Tensor:
    """A copy of a GPU's tensor on the host that is only begun: the current stream has it, and nothing waits for it."""
    return torch.empty(tensor.shape, dtype=tensor.dtype, pin_memory=True).copy_(tensor, non_blocking=True)


def native_precisions(device: torch.device) -> tuple[Precision, ...]:
    """Precisions that can be trained on a device, fastest first; bf16 only where the hardware multiplies it."""
    if device.type == "cuda":
        return ("bf16", "fp16", "fp32") if gpu(device).multiplies_bf16 else ("fp16", "fp32")
    if device.type == "cpu":
        return ("bf16", "fp32") if _cpu_multiplies_bf16() else ("fp32", "bf16")
    return ("fp32",)


def resolve_precision(name: str, device: torch.device) -> Precision:
    """The precision for auto or a name. Raises ConfigError naming what the device has."""
    native = native_precisions(device)
    if name == "auto":
        return native[0]
    if name not in get_args(Precision) or name not in native:
        raise ConfigError(f"precision {name}: {device.type} on this machine has {', '.join(native)}")
    return cast("Precision", name)


def describe(device: torch.device) -> Machine:
    """The machine as it is now."""
    return Machine(
        device=device.type,
        device_name=gpu(device).name if device.type == "cuda" else cpu_name(),
        threads=torch.get_num_threads(),
        cpu_capability=torch.backends.cpu.get_cpu_capability(),
        torch=torch.__version__,
        python=platform.python_version(),
        platform=platform.platform(),
    )


def available_cores() -> int:
    """Cores this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def machine_memory_bytes() -> int:
    """Memory of the machine; where the system does not say, sys.maxsize."""
    return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") if hasattr(os, "sysconf") else sys.maxsize


@cache
def peak(device: torch.device, precision: Precision, threads: int) -> Peak:
    """Peak FLOP/s: nominal for known GPUs, else of products measured with `threads` threads (0.3 s, cached)."""
    if device.type == "cuda":
        known = nominal_peaks(gpu(device).name)
        if known is not None:
            return Peak(known[precision == "fp32"] * 1e12, "nominal")
        return Peak(measured_gemm_on_cuda(device, COMPUTE_DTYPES[precision]), "measured GEMM")
    return Peak(
        measured_gemm(device, COMPUTE_DTYPES[precision]),
        f"measured GEMM, {threads} thread{'s' if threads > 1 else ''}",
    )


def nominal_peaks(device_name: str) -> tuple[float, float] | None:
    """The entry of NOMINAL_PEAKS that a GPU's name says in whole words, however it is mounted.

    None where it says anything else: a slice (MIG), a laptop's, "Ti". Example: "NVIDIA A100-PCIE-40GB" is A100.
    """
    words = [word for word in device_name.replace("-", " ").lower().split() if word not in _VENDOR_WORDS]
    words = [word for word in words if not _PACKAGE_WORD.fullmatch(word)]
    names = {name.lower(): peaks for name, peaks in NOMINAL_PEAKS.items()}
    return names.get(" ".join(words)) or names.get(" ".join(word for word in words if word != "pcie"))


def cpu_name() -> str:
    """The processor's name as the system gives it."""
    info = Path("/proc/cpuinfo")
    found = re.search(r"model name\s*:\s*(.+)", info.read_text()) if info.exists() else None
    return found[1].strip() if found else platform.processor() or platform.machine()


def cpu_flags() -> set[str]:
    """The processor's feature flags, empty where the system does not list them."""
    info = Path("/proc/cpuinfo")
    return set(re.findall(r"[a-z0-9_]+", info.read_text().lower())) if info.exists() else set[str]()


def _cpu_multiplies_bf16() -> bool:
    return bool(cpu_flags() & set(BF16_UNITS))


def measured_gemm(device: torch.device, dtype: torch.dtype, size: int = 512, seconds: float = 0.3) -> float:
    """Best rate in FLOP/s of square GEMMs, each of about a millisecond, so that some run undisturbed by other load."""
    a = torch.ones(size, size, device=device, dtype=dtype)
    best, end = float("inf"), time.perf_counter() + seconds
    while best == float("inf") or time.perf_counter() < end:
        start = time.perf_counter()
        product = a @ a
        product[0, 0].item()
        best = min(best, time.perf_counter() - start)
    return 2 * size**3 / best


def measured_gemm_on_cuda(device: torch.device, dtype: torch.dtype, size: int = 4096, seconds: float = 0.3) -> float:
    """Best rate in FLOP/s of ten square GEMMs in a row, large enough to fill a GPU, by its own clock."""
    a = torch.randn(size, size, device=device, dtype=dtype)
    best_ms, end = float("inf"), time.perf_counter() + seconds
    with torch.cuda.device(device):
        while best_ms == float("inf") or time.perf_counter() < end:
            first, last = (torch.cuda.Event(enable_timing=True) for _ in range(2))
            first.record()
            for _ in range(10):
                torch.mm(a, a)
            last.record()
            last.synchronize()
            best_ms = min(best_ms, first.elapsed_time(last))
    return 10 * 2 * size**3 / (best_ms / 1e3)
