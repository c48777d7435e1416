"""The operations of kernels.cpp, fused, for one thread of a CPU, with their backward passes.

Arrays are on the CPU and each member's part is contiguous. What begins the network, and what stands between steps of
plain torch, are autograd Functions, all else `Operation`s; either writes gradients of weights into their `.grad`.
"""

# pyright: reportIncompatibleMethodOverride=false, reportUnknownMemberType=false
# (autograd Functions are declared with any arguments, and their context with none)

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.autograd import Function

from isoloss.model.dropout import Mask
from isoloss.model.library import SIGNATURES, SUFFIXES, library
from isoloss.model.operations import OnBranch, Operation


@dataclass(frozen=True)
class Native:
    """The functions of kernels.cpp for a compute dtype. Raises CompilerError when they cannot be compiled."""

    dtype: torch.dtype

    @cached_property
    def call(self) -> dict[str, Any]:
        """By name, as in SIGNATURES; embeddings are fp32 whatever the dtype."""
        suffixes = {name: "fp32" if name.startswith("embed") else SUFFIXES[self.dtype] for name in SIGNATURES}
        return {name: getattr(library(), f"{name}_{suffix}") for name, suffix in suffixes.items()}

    @property
    def name(self) -> str:
        """Part of a run's numerics: says which source was compiled by what."""
        return f"native {Path(library()._name).stem}"


class Embed(Function):
    """Sum of token and position rows, dropped, fp32 of shape [E, B·T, C]; without positions, of zeros for them."""

    @staticmethod
    def forward(
        ctx: Any, native: Native, tokens_ExBxT: Tensor, wte_ExVxC: Tensor, wpe_ExTxC: Tensor | None, mask: Mask | None
    ) -> Tensor:
        tokens_ExBxT = tokens_ExBxT.contiguous()
        (E, B, T), C = tokens_ExBxT.shape, wte_ExVxC.shape[2]
        if wpe_ExTxC is None:
            wpe_ExTxC = torch.zeros(E, T, C)
            wpe_ExTxC.grad = torch.zeros(E, T, C)
        ctx.native, ctx.tokens_ExBxT, ctx.tables, ctx.mask = native, tokens_ExBxT, (wte_ExVxC, wpe_ExTxC), mask
        x_ExNxC = torch.empty(E, B * T, C)
        for e in range(E):
            tables = at(tokens_ExBxT, e), at(wte_ExVxC, e), at(wpe_ExTxC, e)
            native.call["embed"](B, T, C, *tables, *mask_of(mask, e, T * C), at(x_ExNxC, e))
        return x_ExNxC

    @staticmethod
    def backward(ctx: Any, grad_ExNxC: Tensor) -> tuple[None, ...]:
        (E, B, T), C = ctx.tokens_ExBxT.shape, grad_ExNxC.shape[2]
        grad_ExNxC = grad_ExNxC.contiguous()
        for e in range(E):
            grads = [at(table.grad, e) for table in ctx.tables]
            arrays = at(ctx.tokens_ExBxT, e), at(grad_ExNxC, e)
            ctx.native.call["embed_backward"](B, T, C, *arrays, *mask_of(ctx.mask, e, T * C), *grads)
        return None, None, None, None, None


class AddNorm(Operation):
    """The stream plus the dropped branch, and the norm of that in the compute dtype; N is `n_rows` sequences.

    With `adds` False the stream is normed as it is. A norm that is not `centred` is an RMSNorm.
    """

    def __init__(
        self,
        native: Native,
        weight_ExC: Tensor,
        bias_ExC: Tensor | None,
        mask: Mask | None,
        n_rows: int,
        *,
        adds: bool,
        centred: bool,
    ) -> None:
        self._native, self._weight_ExC, self._bias_ExC = native, weight_ExC, bias_ExC
        self._mask, self._n_rows, self._adds, self._centred = mask, n_rows, adds, centred

    def forward(self, stream_ExNxC: Tensor, branch_ExNxC: Tensor) -> tuple[Tensor, Tensor]:
        """The sum, and its norm."""
        E, N, C = stream_ExNxC.shape
        sum_ExNxC = torch.empty_like(stream_ExNxC) if self._adds else stream_ExNxC
        out_ExNxC, statistics_2xExN = torch.empty(E, N, C, dtype=self._native.dtype), torch.empty(2, E, N)
        mean_ExN, rstd_ExN = statistics_2xExN
        self._kept = sum_ExNxC, mean_ExN, rstd_ExN
        for e in range(E):
            self._native.call["add_norm"](
                N, C, self._centred, at(stream_ExNxC, e), at(branch_ExNxC if self._adds else None, e),
                *mask_of(self._mask, e, N // self._n_rows * C), at(self._weight_ExC, e), at(self._bias_ExC, e),
                at(sum_ExNxC, e), at(out_ExNxC, e), at(mean_ExN, e), at(rstd_ExN, e),
            )  # fmt: skip
        return sum_ExNxC, out_ExNxC

    def backward(self, grad_stream_ExNxC: Tensor | None, grad_ExNxC: Tensor) -> tuple[Tensor, Tensor | None]:
        """The gradient of the sum from what follows, which nothing else reads, becomes that of the stream."""
        sum_ExNxC, mean_ExN, rstd_ExN = self._kept
        E, N, C = sum_ExNxC.shape
        grad_stream_ExNxC = torch.zeros_like(sum_ExNxC) if grad_stream_ExNxC is None else grad_stream_ExNxC
        dropped_ExNxC = torch.empty(E, N, C, dtype=self._native.dtype)
        grad_bias_ExC = None if self._bias_ExC is None else self._bias_ExC.grad
        for e in range(E):
            self._native.call["norm_backward"](
                N, C, self._centred, at(grad_ExNxC, e), at(sum_ExNxC, e), at(mean_ExN, e), at(rstd_ExN, e),
                at(self._weight_ExC, e), at(grad_stream_ExNxC, e), at(self._weight_ExC.grad, e),
                at(grad_bias_ExC, e), at(dropped_ExNxC, e), *mask_of(self._mask, e, N // self._n_rows * C),
            )  # fmt: skip
        return grad_stream_ExNxC, dropped_ExNxC if self._adds else None


class Gelu(OnBranch):
    """Exact GELU, x·Φ(x). Its derivative takes the memory of x, which nothing else reads."""

    def __init__(self, native: Native) -> None:
        self._native, self._keeps = native, torch.is_grad_enabled()

    def branch(self, x_ExNxF: Tensor) -> Tensor:
        """x·Φ(x)."""
        self._slope_ExNxF, out_ExNxF = x_ExNxF, torch.empty_like(x_ExNxF)
        address = x_ExNxF.data_ptr()
        self._native.call["gelu"](x_ExNxF.numel(), address, out_ExNxF.data_ptr(), address if self._keeps else None)
        return out_ExNxF

    def branch_backward(self, grad_ExNxF: Tensor) -> Tensor:
        """The gradient of x, in the memory of `grad_ExNxF`."""
        self._native.call["multiply"](grad_ExNxF.numel(), self._slope_ExNxF.data_ptr(), grad_ExNxF.data_ptr())
        return grad_ExNxF


class SwiGlu(OnBranch):
    """SiLU(gate)·hidden, from [E, N, 2F] to [E, N, F]: the gate's channels stand first."""

    def __init__(self, native: Native) -> None:
        self._native = native

    def branch(self, x_ExNx2F: Tensor) -> Tensor:
        """SiLU(gate)·hidden."""
        E, N, width = x_ExNx2F.shape
        self._x_ExNx2F, out_ExNxF = x_ExNx2F, torch.empty(E, N, width // 2, dtype=x_ExNx2F.dtype)
        self._native.call["swiglu"](E * N, width // 2, x_ExNx2F.data_ptr(), out_ExNxF.data_ptr())
        return out_ExNxF

    def branch_backward(self, grad_ExNxF: Tensor) -> Tensor:
        """The gradient of x, in its memory."""
        (E, N, F), address = grad_ExNxF.shape, self._x_ExNx2F.data_ptr()
        self._native.call["swiglu_backward"](E * N, F, grad_ExNxF.data_ptr(), address)
        return self._x_ExNx2F


def cross_entropy(
    native: Native, logits_ExNxW: Tensor, targets_ExN: Tensor, vocab_size: int, scale_E: Tensor | None
) -> Tensor:
    """Sum over N of each member's losses, fp32 of shape [E]; with a scale the logits become its gradient times that."""
    (E, N, W), targets_ExN = logits_ExNxW.shape, targets_ExN.contiguous()
    arrays = [(at(logits_ExNxW, e), at(targets_ExN, e), at(scale_E, e)) for e in range(E)]
    return torch.tensor([native.call["cross_entropy"](N, W, vocab_size, *each) for each in arrays])


def at(tensor: Tensor | None, e: int) -> int | None:
    """Address of one member's part."""
    if tensor is None:
        return None
    return tensor.data_ptr() + (e * tensor.stride(0) * tensor.element_size() if e else 0)


def mask_of(mask: Mask | None, e: int, row_elements: int) -> tuple[int | None, int | None, int | None, int]:
    """Key, limit, scale and first element of one member's mask, as the functions take them."""
    if mask is None:
        return None, None, None, 0
    return at(mask.key_Ex2, e), at(mask.limit_E, e), at(mask.scale_E, e), mask.first_row * row_elements
