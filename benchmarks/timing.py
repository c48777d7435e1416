"""Samples of a quantity with their median and spread, and the machine they were taken on."""

from __future__ import annotations

import platform
import statistics
import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch

from isoloss.training.device import available_cores, cpu_name


@dataclass(frozen=True)
class Samples:
    """Repeated measurements of one quantity."""

    values: tuple[float, ...]

    @property
    def median(self) -> float:
        """Their median."""
        return statistics.median(self.values)

    def __str__(self) -> str:
        return f"{self.median:.4g} ({min(self.values):.4g} to {max(self.values):.4g})"

    def as_dict(self) -> dict[str, Any]:
        """A JSON object."""
        return {"median": self.median, "low": min(self.values), "high": max(self.values), "n": len(self.values)}


def samples(values: Sequence[float]) -> Samples:
    """Samples of these values."""
    return Samples(tuple(values))


def machine(device: torch.device) -> dict[str, Any]:
    """What a table of figures has to be read with."""
    name = torch.cuda.get_device_name(device) if device.type == "cuda" else cpu_name()
    return {
        "device": f"{name} ({device.type})",
        "cores": available_cores(),
        "torch": torch.__version__,
        "python": platform.python_version(),
        "system": platform.platform(),
        "cpu_capability": torch.backends.cpu.get_cpu_capability(),
        "date": time.strftime("%Y-%m-%d"),
    }


def table(header: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """A Markdown table."""
    lines = ["| " + " | ".join(cells) + " |" for cells in (header, ["---"] * len(header), *rows)]
    return "\n".join(lines)
