"""Numerics: what a run's bits depend on besides its configuration. On a CPU equal numerics give equal bits."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

import torch

from isoloss.training.device import BF16_UNITS, cpu_flags, cpu_name
from isoloss.training.gpus import gpu

NUMERICS_VERSION = 1
"""Raised with every change of isoloss that changes a rounding."""


@dataclass(frozen=True)
class Numerics:
    """Everything outside a configuration that a rounding may depend on. `stack` is the width planned with.

    On an accelerator the processor and its threads do not count; `instructions` are how CUDA's products may round.
    """

    isoloss: int
    torch: str
    device: str
    instructions: str
    threads: int
    kernels: str
    stack: int
    ranks: int


def numerics_here(device: torch.device, kernels: str, *, threads: int, stack: int, ranks: int) -> Numerics:
    """The numerics of training on a device of this machine."""
    on_cpu, on_cuda = device.type == "cpu", device.type == "cuda"
    return Numerics(
        isoloss=NUMERICS_VERSION,
        torch=f"{torch.__version__} ({str(torch.version.git_version)[:8]})",
        device=gpu(device).name if on_cuda else device.type,
        instructions=_instructions() if on_cpu else _reductions() if on_cuda else "",
        threads=threads if on_cpu else 0,
        kernels=kernels,
        stack=stack,
        ranks=ranks,
    )


def differences(before: Mapping[str, Any], now: Numerics) -> list[str]:
    """How a run's recorded numerics differ from the present ones, in words; empty when they are equal."""
    changed = [(name, before.get(name), value) for name, value in asdict(now).items() if before.get(name) != value]
    return [f"{name} was {then}, is now {value}" for name, then, value in changed]


def _instructions() -> str:
    """The instruction set torch uses, the vendor's own (BLAS libraries choose by it), and its unit for bf16."""
    flags = cpu_flags()
    unit = next((flag for flag in BF16_UNITS if flag in flags), "no bf16")
    return f"{torch.backends.cpu.get_cpu_capability()} {unit}, {cpu_name().partition(' ')[0]}"


def _reductions() -> str:
    """What torch allows of products on CUDA: sums of partial results in 16 bits, and TF32 for fp32."""
    matmul = torch.backends.cuda.matmul
    of_16_bits = {
        "bf16": matmul.allow_bf16_reduced_precision_reduction,
        "fp16": matmul.allow_fp16_reduced_precision_reduction,
    }
    reduced = [name for name, allowed in of_16_bits.items() if allowed]
    return f"sums in {' and '.join(reduced) or 'fp32 alone'}, fp32 products {torch.get_float32_matmul_precision()}"
