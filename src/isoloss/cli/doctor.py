"""What `isoloss doctor` prints: what this machine offers, measured where it can be."""

from __future__ import annotations

import platform
from typing import Any

import torch

from isoloss import __version__
from isoloss.data.known import CORPORA
from isoloss.files import cache_dir
from isoloss.training.backend import compiled_kernels
from isoloss.training.device import available_cores, cpu_name, native_precisions, peak, resolve_device


def examine() -> dict[str, Any]:
    """What this machine offers, as plain values; peaks are in FLOP/s, of one thread."""
    device = resolve_device("auto")
    said: list[str] = []
    kernels = "fast kernels: compiled for this processor" if compiled_kernels(said.append) else said[0]
    precisions = native_precisions(device)
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    peaks = {precision: peak(device, precision, 1) for precision in precisions}
    torch.set_num_threads(before)
    return {
        "isoloss": __version__,
        "python": platform.python_version(),
        "torch": torch.__version__,
        "processor": cpu_name(),
        "cores": available_cores(),
        "instructions": torch.backends.cpu.get_cpu_capability(),
        "accelerator": torch.cuda.get_device_name() if torch.cuda.is_available() else None,
        "device": device.type,
        "precision": precisions[0],
        "peaks": {
            precision: {"flops_per_s": found.flops, "source": found.source} for precision, found in peaks.items()
        },
        "kernels": kernels,
        "cache": str(cache_dir()),
        "corpora": [name for name in CORPORA if (cache_dir() / "corpora" / f"{name}.txt").exists()],
    }


def findings_as_text(found: dict[str, Any]) -> str:
    """What `examine` found, a line each."""
    lines = [
        f"isoloss {found['isoloss']}, Python {found['python']}, torch {found['torch']}",
        f"processor: {found['processor']}, {found['cores']} cores, {found['instructions']}",
        f"trains on: {found['device']}, by default in {found['precision']}",
        *(
            f"  {name}: {peak['flops_per_s'] / 1e12:.3f} TFLOP/s ({peak['source']})"
            for name, peak in found["peaks"].items()
        ),
        found["kernels"],
        f"cache: {found['cache']} (corpora: {', '.join(found['corpora']) or 'none yet'})",
    ]
    if found["accelerator"]:
        lines.insert(2, f"accelerator: {found['accelerator']}")
    return "\n".join(lines)
