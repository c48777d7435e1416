"""This machine: devices, precisions, and the peak FLOP/s by which MFU is computed."""

from __future__ import annotations

import os
import platform
import re
import sys
import time
from dataclasses import asdict, dataclass
from functools import cache
from pathlib import Path
from typing import Any, cast, get_args

import torch

from isoloss.errors import ConfigError
from isoloss.study.config import Precision
from isoloss.training.state import COMPUTE_DTYPES

A100_PEAK_FLOPS = 312e12
"""The bf16 peak nanoGPT divides by on any device; kept so that published logs compare."""

# Dense peaks in TFLOP/s from the vendors' data sheets: 16-bit with fp32 accumulation, fp32 outside tensor cores.
NOMINAL_PEAKS: tuple[tuple[str, float, float], ...] = (
    ("H200", 989, 67),
    ("H100 PCIe", 756, 51),
    ("H100", 989, 67),
    ("A100", 312, 19.5),
    ("V100", 125, 15.7),
    ("L40S", 362, 91.6),
    ("L4", 121, 30.3),
    ("A10", 125, 31.2),
    ("T4", 65, 8.1),
    ("RTX 4090", 165, 82.6),
    ("RTX 3090", 71, 35.6),
)


BF16_UNITS = ("amx_bf16", "avx512_bf16", "bf16")
"""Flags of processors that multiply bf16 in hardware, each with roundings of its own."""


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
    """The torch device for auto, cpu, cuda or mps. Raises ConfigError when the machine has no such device."""
    available = ["cpu"]
    if torch.cuda.is_available():
        available.insert(0, "cuda")
    if torch.backends.mps.is_available():
        available.insert(0, "mps")
    if name == "auto":
        name = available[0]
    if name not in available:
        raise ConfigError(f"--device {name}: this machine has {', '.join(sorted(available))}")
    local_rank = os.environ.get("LOCAL_RANK")
    return torch.device("cuda", int(local_rank)) if name == "cuda" and local_rank else torch.device(name)


def native_precisions(device: torch.device) -> tuple[Precision, ...]:
    """Precisions that can be trained on a device, fastest first; bf16 only where the hardware multiplies it."""
    if device.type == "cuda":
        return ("bf16", "fp16", "fp32") if torch.cuda.is_bf16_supported(including_emulation=False) else ("fp16", "fp32")
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
        device_name=torch.cuda.get_device_name(device) if device.type == "cuda" else cpu_name(),
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
    """Peak FLOP/s: nominal for known accelerators, else a GEMM measured with `threads` threads (0.3 s, cached)."""
    if device.type == "cuda":
        name = torch.cuda.get_device_name(device)
        for known, half, single in NOMINAL_PEAKS:
            if known in name:
                return Peak((single if precision == "fp32" else half) * 1e12, "nominal")
    return Peak(
        measured_gemm(device, COMPUTE_DTYPES[precision]),
        f"measured GEMM, {threads} thread{'s' if threads > 1 else ''}",
    )


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
