"""Attention's fused operations: queries and keys normed and rotated, softmax under dropout, and the heads' products."""

# pyright: reportIncompatibleMethodOverride=false, reportUnknownMemberType=false
# (autograd Functions are declared with any arguments, and their context with none)

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.autograd import Function

from isoloss.model.dropout import Mask
from isoloss.model.native import Native, at, mask_of
from isoloss.model.operations import OnBranch


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
            n, mask = part.stop - part.start, mask_of(self.mask, e, (part.stop - part.start) // self.n_rows * T * T)
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
            n, mask = part.stop - part.start, mask_of(self.mask, e, (part.stop - part.start) // self.n_rows * T * T)
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


class NormRotate(OnBranch):
    """Queries and keys over their root mean squares, and rotated, in place; the first heads of each token's row.

    `groups` are members of equal n_head with how many heads those are, their channels D, and cosines and sines of the
    angles [2, T, D/2], if they are to be rotated.
    """

    def __init__(self, native: Native, groups: Sequence[tuple[slice, int, int, Tensor | None]], *, norm: bool) -> None:
        self._native, self._groups, self._norm = native, groups, norm

    def branch(self, qkv_ExNxR: Tensor) -> Tensor:
        """The same rows."""
        self._qkv_ExNxR, self._rstds = qkv_ExNxR, list[Tensor | None]()
        for shape, turn, n_heads, members in self._shapes(qkv_ExNxR):
            rstd = torch.empty(*qkv_ExNxR[members].shape[:2], n_heads) if self._norm else None
            self._rstds.append(rstd)
            self._native.call["norm_rotate"](*shape, turn, qkv_ExNxR[members].data_ptr(), at(rstd, 0))
        return qkv_ExNxR

    def branch_backward(self, grad_ExNxR: Tensor) -> Tensor:
        """The gradient of the rows as they were, in the memory of `grad_ExNxR`."""
        for (shape, turn, _, members), rstd in zip(self._shapes(grad_ExNxR), self._rstds, strict=True):
            arrays = self._qkv_ExNxR[members].data_ptr(), at(rstd, 0), grad_ExNxR[members].data_ptr()
            self._native.call["norm_rotate_backward"](*shape, turn, *arrays)
        return grad_ExNxR

    def _shapes(self, rows_ExNxR: Tensor) -> Iterator[tuple[tuple[int, ...], int | None, int, slice]]:
        E, N, R = rows_ExNxR.shape
        for members, n_heads, D, turn_2xTxD in self._groups:
            n_members = len(range(E)[members])
            T = N if turn_2xTxD is None else turn_2xTxD.shape[1]
            yield (n_members * N, T, n_heads, D, R), at(turn_2xTxD, 0), n_heads, members


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


def _by_member(mask: Mask | None, length: int) -> list[slice]:
    """A slice for each member of a mask, or one for all."""
    n = 1 if mask is None else len(mask.limit_E)
    return [slice(e * length // n, (e + 1) * length // n) for e in range(n)]
