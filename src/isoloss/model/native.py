"""The operations of kernels.cpp, fused, for one thread of a CPU, with their backward passes.

Arrays are on the CPU and each member's part is contiguous. What begins the network, and what stands between steps of
plain torch, are autograd Functions, all else `Operation`s; either writes gradients of weights into their `.grad`.
"""

# pyright: reportIncompatibleMethodOverride=false, reportUnknownMemberType=false
# (autograd Functions are declared with any arguments, and their context with none)

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, NamedTuple

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
            tables = _at(tokens_ExBxT, e), _at(wte_ExVxC, e), _at(wpe_ExTxC, e)
            native.call["embed"](B, T, C, *tables, *_mask(mask, e, T * C), _at(x_ExNxC, e))
        return x_ExNxC

    @staticmethod
    def backward(ctx: Any, grad_ExNxC: Tensor) -> tuple[None, ...]:
        (E, B, T), C = ctx.tokens_ExBxT.shape, grad_ExNxC.shape[2]
        grad_ExNxC = grad_ExNxC.contiguous()
        for e in range(E):
            grads = [_at(table.grad, e) for table in ctx.tables]
            arrays = _at(ctx.tokens_ExBxT, e), _at(grad_ExNxC, e)
            ctx.native.call["embed_backward"](B, T, C, *arrays, *_mask(ctx.mask, e, T * C), *grads)
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
                N, C, self._centred, _at(stream_ExNxC, e), _at(branch_ExNxC if self._adds else None, e),
                *_mask(self._mask, e, N // self._n_rows * C), _at(self._weight_ExC, e), _at(self._bias_ExC, e),
                _at(sum_ExNxC, e), _at(out_ExNxC, e), _at(mean_ExN, e), _at(rstd_ExN, e),
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
                N, C, self._centred, _at(grad_ExNxC, e), _at(sum_ExNxC, e), _at(mean_ExN, e), _at(rstd_ExN, e),
                _at(self._weight_ExC, e), _at(grad_stream_ExNxC, e), _at(self._weight_ExC.grad, e),
                _at(grad_bias_ExC, e), _at(dropped_ExNxC, e), *_mask(self._mask, e, N // self._n_rows * C),
            )  # fmt: skip
        return grad_stream_ExNxC, dropped_ExNxC if self._adds else None


class Kept(NamedTuple):
    """What attention's backward pass needs; G is members, then sequences, then heads."""

    q_GxTxD: Tensor
    k_GxTxD: Tensor
    v_GxTxD: Tensor
    probs_GxTxT: Tensor
    dropped_GxTxT: Tensor


@dataclass(frozen=True)
class Softmax:
    """Attention's probabilities under dropout, for `n_rows` sequences of each member, over the last `window` tokens."""

    native: Native
    mask: Mask | None
    n_rows: int
    window: int
    scale: float

    def attend(self, q_GxTxD: Tensor, k_GxTxD: Tensor, v_GxTxD: Tensor) -> tuple[Tensor, Kept]:
        """The heads' outputs [G, T, D]."""
        scores_GxTxT = torch.bmm(q_GxTxD, k_GxTxD.transpose(1, 2))
        G, T, _ = scores_GxTxT.shape
        probs_GxTxT = torch.empty_like(scores_GxTxT)
        dropped_GxTxT = probs_GxTxT if self.mask is None else torch.empty_like(scores_GxTxT)
        for e, part in enumerate(_by_member(self.mask, G)):
            scores, probs, dropped = (each[part].data_ptr() for each in (scores_GxTxT, probs_GxTxT, dropped_GxTxT))
            n, mask = part.stop - part.start, _mask(self.mask, e, (part.stop - part.start) // self.n_rows * T * T)
            self.native.call["softmax"](n, T, self.window, scores, self.scale, probs, dropped, *mask)
        return torch.bmm(dropped_GxTxT, v_GxTxD), Kept(q_GxTxD, k_GxTxD, v_GxTxD, probs_GxTxT, dropped_GxTxT)

    def attend_backward(self, grad_GxTxD: Tensor, kept: Kept) -> Tensor:
        """Gradients of queries, keys and values, [3, G, T, D]."""
        grad_qkv_3xGxTxD = torch.empty(3, *grad_GxTxD.shape, dtype=grad_GxTxD.dtype)
        torch.bmm(kept.dropped_GxTxT.transpose(1, 2), grad_GxTxD, out=grad_qkv_3xGxTxD[2])
        grad_GxTxT = torch.bmm(grad_GxTxD, kept.v_GxTxD.transpose(1, 2))
        G, T, _ = grad_GxTxD.shape
        for e, part in enumerate(_by_member(self.mask, G)):
            grad, probs = grad_GxTxT[part].data_ptr(), kept.probs_GxTxT[part].data_ptr()
            n, mask = part.stop - part.start, _mask(self.mask, e, (part.stop - part.start) // self.n_rows * T * T)
            self.native.call["softmax_backward"](n, T, grad, probs, self.scale, *mask)
        torch.bmm(grad_GxTxT, kept.k_GxTxD, out=grad_qkv_3xGxTxD[0])
        torch.bmm(grad_GxTxT.transpose(1, 2), kept.q_GxTxD, out=grad_qkv_3xGxTxD[1])
        return grad_qkv_3xGxTxD


class Attend(OnBranch):
    """Attention whose queries and keys are as projected: from [E, N, 3C] to [E, N, C], by members of equal n_head."""

    def __init__(self, groups: Sequence[tuple[slice, int, Softmax]]) -> None:
        self._groups = groups
        self._native, self._n_rows = groups[0][2].native, groups[0][2].n_rows
        self._kept: list[Kept] = []

    def branch(self, qkv_ExNx3C: Tensor) -> Tensor:
        """The heads' outputs side by side."""
        outputs: list[Tensor] = []
        for members, n_head, softmax in self._groups:
            part_ExNx3C = qkv_ExNx3C[members]
            y_GxTxD, kept = softmax.attend(*_split(self._native, part_ExNx3C, self._n_rows, 3, n_head))
            self._kept.append(kept)
            outputs.append(_join(self._native, y_GxTxD[None], len(part_ExNx3C), self._n_rows, n_head))
        return outputs[0] if len(outputs) == 1 else torch.cat(outputs)

    def branch_backward(self, grad_ExNxC: Tensor) -> Tensor:
        """The gradient of queries, keys and values."""
        grads: list[Tensor] = []
        for (members, n_head, softmax), kept in zip(self._groups, self._kept, strict=True):
            part_ExNxC = grad_ExNxC[members]
            [grad_GxTxD] = _split(self._native, part_ExNxC, self._n_rows, 1, n_head)
            grad_qkv_3xGxTxD = softmax.attend_backward(grad_GxTxD, kept)
            grads.append(_join(self._native, grad_qkv_3xGxTxD, len(part_ExNxC), self._n_rows, n_head))
        return grads[0] if len(grads) == 1 else torch.cat(grads)


class AttendPrepared(Function):
    """Attention of queries and keys that plain torch has prepared, [G, T, D]."""

    @staticmethod
    def forward(ctx: Any, softmax: Softmax, q_GxTxD: Tensor, k_GxTxD: Tensor, v_GxTxD: Tensor) -> Tensor:
        ctx.softmax = softmax
        y_GxTxD, ctx.kept = softmax.attend(q_GxTxD, k_GxTxD, v_GxTxD)
        return y_GxTxD

    @staticmethod
    def backward(ctx: Any, grad_GxTxD: Tensor) -> tuple[Tensor | None, ...]:
        return None, *ctx.softmax.attend_backward(grad_GxTxD.contiguous(), ctx.kept)


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


def cross_entropy(
    native: Native, logits_ExNxW: Tensor, targets_ExN: Tensor, vocab_size: int, scale_E: Tensor | None
) -> Tensor:
    """Sum over N of each member's losses, fp32 of shape [E]; with a scale the logits become its gradient times that."""
    (E, N, W), targets_ExN = logits_ExNxW.shape, targets_ExN.contiguous()
    arrays = [(_at(logits_ExNxW, e), _at(targets_ExN, e), _at(scale_E, e)) for e in range(E)]
    return torch.tensor([native.call["cross_entropy"](N, W, vocab_size, *each) for each in arrays])


def _split(native: Native, joined_ExNxSHD: Tensor, n_rows: int, n_parts: int, n_head: int) -> Tensor:
    """From [E, B·T, S·H·D] to [S, E·B·H, T, D]."""
    E, N, width = joined_ExNxSHD.shape
    split_SxGxTxD = torch.empty(
        n_parts, E * n_rows * n_head, N // n_rows, width // n_parts // n_head, dtype=native.dtype
    )
    arrays = joined_ExNxSHD.data_ptr(), split_SxGxTxD.data_ptr()
    native.call["split_heads"](E * n_rows, N // n_rows, n_parts, n_head, split_SxGxTxD.shape[3], *arrays, False)
    return split_SxGxTxD


def _join(native: Native, split_SxGxTxD: Tensor, n_members: int, n_rows: int, n_head: int) -> Tensor:
    """From [S, E·B·H, T, D] to [E, B·T, S·H·D]."""
    S, _, T, D = split_SxGxTxD.shape
    joined_ExNxSHD = torch.empty(n_members, n_rows * T, S * n_head * D, dtype=native.dtype)
    arrays = split_SxGxTxD.data_ptr(), joined_ExNxSHD.data_ptr()
    native.call["split_heads"](n_members * n_rows, T, S, n_head, D, *arrays, True)
    return joined_ExNxSHD


def _at(tensor: Tensor | None, e: int) -> int | None:
    """Address of one member's part."""
    if tensor is None:
        return None
    return tensor.data_ptr() + (e * tensor.stride(0) * tensor.element_size() if e else 0)


def _mask(mask: Mask | None, e: int, row_elements: int) -> tuple[int | None, int | None, int | None, int]:
    if mask is None:
        return None, None, None, 0
    return _at(mask.key_Ex2, e), _at(mask.limit_E, e), _at(mask.scale_E, e), mask.first_row * row_elements


def _by_member(mask: Mask | None, length: int) -> list[slice]:
    """A slice for each member of a mask, or one for all."""
    n = 1 if mask is None else len(mask.limit_E)
    return [slice(e * length // n, (e + 1) * length // n) for e in range(n)]
