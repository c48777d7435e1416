"""The operations of triton_kernels.py for a GPU, with their backward passes, as native.py has them for a CPU.

The gradients of weights are added to their `.grad`. Nothing here waits for the device, so that a step can be captured.
"""

# pyright: basic, reportMissingImports=false

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from math import log
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

import triton
from isoloss.model import triton_kernels as kernels
from isoloss.model.dropout import Mask
from isoloss.model.operations import OnBranch, Operation

ELEMENTS, ROWS = 512, 16
"""Of a program: of an element-wise operation, and of the backward pass of a norm."""


def name() -> str:
    """Part of a run's numerics: which source, compiled by what."""
    here = Path(__file__)
    sources = b"".join(
        here.with_name(f"triton_{part}.py").read_bytes() for part in ("kernels", "operations", "attention")
    )
    return f"triton {triton.__version__} {hashlib.sha256(sources).hexdigest()[:16]}"


def row_of(length: int) -> dict[str, int]:
    """Elements of a program that holds a row, and how many warps share them: the longer the row, the more."""
    block = triton.next_power_of_2(length)
    return {"BLOCK": block, "num_warps": min(16, max(4, block // 256))}


class AddNorm(Operation):
    """The stream plus the dropped branch, and the norm of that in the branch's dtype, as native.AddNorm."""

    def __init__(
        self,
        dtype: torch.dtype,
        weight_ExC: Tensor,
        bias_ExC: Tensor | None,
        mask: Mask | None,
        n_rows: int,
        eps: float,
        *,
        adds: bool,
        centred: bool,
    ) -> None:
        self._dtype, self._weight_ExC, self._bias_ExC, self._eps = dtype, weight_ExC, bias_ExC, eps
        self._mask, self._n_rows = mask if adds else None, n_rows
        self._options = {"ADDS": adds, "DROPS": self._mask is not None, "CENTRED": centred}
        self._options |= {"BIASED": bias_ExC is not None, **row_of(weight_ExC.shape[1])}

    def forward(self, stream_ExNxC: Tensor, branch_ExNxC: Tensor) -> tuple[Tensor, Tensor]:
        """The sum, and its norm."""
        E, N, C = stream_ExNxC.shape
        sum_ExNxC = torch.empty_like(stream_ExNxC) if self._options["ADDS"] else stream_ExNxC
        out_ExNxC = torch.empty_like(stream_ExNxC, dtype=self._dtype)
        mean_ExN, rstd_ExN = torch.empty(2, E, N, device=stream_ExNxC.device)
        self._kept, weight_ExC = (sum_ExNxC, mean_ExN, rstd_ExN), self._weight_ExC
        first = _first(self._mask, N // self._n_rows * C)
        arrays = stream_ExNxC, branch_ExNxC, *_mask(self._mask, weight_ExC), weight_ExC, _or(self._bias_ExC, weight_ExC)
        arrays += sum_ExNxC, out_ExNxC, mean_ExN, rstd_ExN
        _launch(kernels.add_norm, (E * N,), *arrays, N, C, weight_ExC.stride(0), first, self._eps, **self._options)
        return sum_ExNxC, out_ExNxC

    def backward(self, grad_stream_ExNxC: Tensor | None, grad_ExNxC: Tensor) -> tuple[Tensor, Tensor | None]:
        """The gradient of the sum from what follows, which nothing else reads, becomes that of the stream."""
        sum_ExNxC, mean_ExN, rstd_ExN = self._kept
        (E, N, C), weight_ExC, bias_ExC = sum_ExNxC.shape, self._weight_ExC, self._bias_ExC
        grad_stream_ExNxC = torch.zeros_like(sum_ExNxC) if grad_stream_ExNxC is None else grad_stream_ExNxC
        dropped_ExNxC = torch.empty_like(sum_ExNxC, dtype=grad_ExNxC.dtype) if self._options["ADDS"] else grad_ExNxC
        n_parts = triton.cdiv(N, ROWS)
        weight_parts, bias_parts = torch.empty(2, E, n_parts, C, device=sum_ExNxC.device)
        arrays = grad_ExNxC.contiguous(), sum_ExNxC, mean_ExN, rstd_ExN, weight_ExC, *_mask(self._mask, weight_ExC)
        arrays += grad_stream_ExNxC, dropped_ExNxC, weight_parts, bias_parts
        numbers = N, C, weight_ExC.stride(0), _first(self._mask, N // self._n_rows * C), ROWS
        _launch(kernels.norm_backward, (n_parts, E), *arrays, *numbers, **self._options)
        _grad(weight_ExC).add_(weight_parts.sum(1))
        if bias_ExC is not None:
            _grad(bias_ExC).add_(bias_parts.sum(1))
        return grad_stream_ExNxC, dropped_ExNxC if self._options["ADDS"] else None


class Gelu(OnBranch):
    """Exact GELU, x·Φ(x)."""

    def branch(self, x_ExNxF: Tensor) -> Tensor:
        """x·Φ(x)."""
        self._x_ExNxF, out_ExNxF = x_ExNxF, torch.empty_like(x_ExNxF)
        _launch(
            kernels.gelu, (triton.cdiv(x_ExNxF.numel(), ELEMENTS),), x_ExNxF, out_ExNxF, x_ExNxF.numel(), BLOCK=ELEMENTS
        )
        return out_ExNxF

    def branch_backward(self, grad_ExNxF: Tensor) -> Tensor:
        """The gradient of x, in the memory of `grad_ExNxF`."""
        n = grad_ExNxF.numel()
        _launch(kernels.gelu_backward, (triton.cdiv(n, ELEMENTS),), self._x_ExNxF, grad_ExNxF, n, BLOCK=ELEMENTS)
        return grad_ExNxF


class SwiGlu(OnBranch):
    """SiLU(gate)·hidden, from [E, N, 2F] to [E, N, F]: the gate's channels stand first."""

    def branch(self, x_ExNx2F: Tensor) -> Tensor:
        """SiLU(gate)·hidden."""
        E, N, width = x_ExNx2F.shape
        self._x_ExNx2F, out_ExNxF = x_ExNx2F, x_ExNx2F.new_empty(E, N, width // 2)
        n = out_ExNxF.numel()
        _launch(kernels.swiglu, (triton.cdiv(n, ELEMENTS),), x_ExNx2F, out_ExNxF, n, width // 2, BLOCK=ELEMENTS)
        return out_ExNxF

    def branch_backward(self, grad_ExNxF: Tensor) -> Tensor:
        """The gradient of x, in its memory."""
        n, F = grad_ExNxF.numel(), grad_ExNxF.shape[2]
        arrays = self._x_ExNx2F, grad_ExNxF.contiguous()
        _launch(kernels.swiglu_backward, (triton.cdiv(n, ELEMENTS),), *arrays, n, F, BLOCK=ELEMENTS)
        return self._x_ExNx2F


def cross_entropy(logits_ExNxW: Tensor, targets_ExN: Tensor, vocab_size: int, scale_E: Tensor | None) -> Tensor:
    """Sum over N of each member's losses, fp32 of shape [E]; with a scale the logits become its gradient times that."""
    E, N, W = logits_ExNxW.shape
    losses_ExN = torch.empty(E, N, device=logits_ExNxW.device)
    arrays = logits_ExNxW, targets_ExN.contiguous(), _or(scale_E, losses_ExN), losses_ExN
    options = {"GRADIENT": scale_E is not None, **row_of(W)}
    _launch(kernels.cross_entropy, (E * N,), *arrays, N, W, vocab_size, **options)
    return losses_ExN.sum(1)


def update(
    optimizer: str,
    arrays: Sequence[Tensor],
    factors: Sequence[Tensor],
    low_ExM: Tensor | None,
    ends: tuple[int, int, int],
    matrix_factors: tuple[float, float],
    numbers: tuple[float, float, float],
) -> None:
    """One step of AdamW, Lion or SGD for every member, in one launch, with their low-precision copy.

    `arrays` are weights, gradients and moments [E, P]; `factors` the members' rates, decay, divisors, whether they are
    skipped, and counts, which already count this step; `ends` the first parameter, the end of block matrices and that
    of decay; `numbers` beta1, beta2 and epsilon.
    """
    flat_ExP, grad_ExP, *moments = arrays
    low, (E, P) = _or(low_ExM, flat_ExP), flat_ExP.shape
    logs = {f"LOG_BETA{i}": log(beta) if beta else float("-inf") for i, beta in enumerate(numbers[:2], start=1)}
    options = {"OPTIMIZER": optimizer, "LOW": low_ExM is not None, "BLOCK": ELEMENTS, **logs}
    grid = triton.cdiv(P - ends[0], ELEMENTS), E
    states = flat_ExP, low, grad_ExP, moments[0], moments[-1], *factors
    _launch(kernels.update, grid, *states, P, low.shape[1], *ends, *matrix_factors, *numbers, **options)


def _launch(kernel: Any, grid: tuple[int, ...], *arguments: Any, **options: Any) -> None:
    with torch.cuda.device_of(arguments[0]):  # Triton launches on the current device
        kernel[grid](*arguments, **options)


def _mask(mask: Mask | None, unused: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    return (unused, unused, unused) if mask is None else (mask.key_Ex2, mask.limit_E, mask.scale_E)


def _first(mask: Mask | None, row_elements: int) -> int:
    """The index of the first element given, of 32 bits with a sign."""
    return 0 if mask is None else (mask.first_row * row_elements + 2**31) % 2**32 - 2**31


def _or(tensor: Tensor | None, unused: Tensor) -> Tensor:
    return unused if tensor is None else tensor


def _grad(weight: Tensor) -> Tensor:
    assert weight.grad is not None
    return weight.grad
