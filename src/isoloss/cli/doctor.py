"""What `isoloss doctor` prints: what this machine offers, measured where it can be."""

from __future__ import annotations

import platform

import torch

from isoloss import __version__
from isoloss.data.corpus import CORPORA
from isoloss.execution.study import available_cores
from isoloss.files import cache_dir
from isoloss.training.backend import compiled_kernels
from isoloss.training.device import cpu_name, native_precisions, peak, resolve_device


def kernels_status() -> str:
    """Whether compiled kernels can be had here."""
    said: list[str] = []
    return "fast kernels: compiled for this processor" if compiled_kernels(said.append) else said[0]


def examination() -> str:
    """A short text, one finding a line."""
    device = resolve_device("auto")
    lines = [
        f"isoloss {__version__}, Python {platform.python_version()}, torch {torch.__version__}",
        f"processor: {cpu_name()}, {available_cores()} cores, {torch.backends.cpu.get_cpu_capability()}",
    ]
    if torch.cuda.is_available():
        lines.append(f"accelerator: {torch.cuda.get_device_name()}")
    precisions = native_precisions(device)
    lines.append(f"trains on: {device.type}, by default in {precisions[0]}")
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    for precision in precisions:
        found = peak(device, precision, 1)
        lines.append(f"  {precision}: {found.flops / 1e12:.3f} TFLOP/s ({found.source})")
    torch.set_num_threads(before)
    lines.append(kernels_status())
    cached = [name for name in CORPORA if (cache_dir() / "corpora" / f"{name}.txt").exists()]
    lines.append(f"cache: {cache_dir()} (corpora: {', '.join(cached) or 'none yet'})")
    return "\n".join(lines)
