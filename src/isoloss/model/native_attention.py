"""Attention's fused operations: queries and keys normed and rotated, and attention itself."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor

from isoloss.model.dropout import Mask
from isoloss.model.native import Native, at, mask_of
from isoloss.model.operations import OnBranch

ROW_MULTIPLE = 16
"""Rows of probabilities are padded to a multiple of so many, as the kernel reads and writes whole vectors of them."""


class Heads(NamedTuple):
    """Members with as many heads of queries, and of keys and values; dropout's mask, and the scale of products."""

    members: slice
    n_head: int
    n_kv_head: int
    mask: Mask | None
    scale: float


class Attend(OnBranch):
    """Causal attention over the last `window` tokens: from rows of queries, keys and values [E, N, R] to [E, N, C].

    N is `n_rows` sequences of T tokens.
    """

    def __init__(self, native: Native, groups: Sequence[Heads], n_rows: int, window: int) -> None:
        self._native, self._groups, self._n_rows, self._window = native, groups, n_rows, window
        self._keeps, self._probs = torch.is_grad_enabled(), list[Tensor]()

    def branch(self, qkv_ExNxR: Tensor) -> Tensor:
        """The heads' outputs side by side."""
        self._qkv_ExNxR = qkv_ExNxR
        (E, N, R), T = qkv_ExNxR.shape, qkv_ExNxR.shape[1] // self._n_rows
        first = self._groups[0]
        C = R // (first.n_head + 2 * first.n_kv_head) * first.n_head
        out_ExNxC = torch.empty(E, N, C, dtype=self._native.dtype)
        for group in self._groups:
            n_members = len(range(E)[group.members])
            n_kept, row = n_members if self._keeps else 0, -(-T // ROW_MULTIPLE) * ROW_MULTIPLE
            probs = torch.empty(n_kept, self._n_rows * group.n_head, T, row, dtype=out_ExNxC.dtype)
            self._probs.append(probs)
            for (shape, e, mask), n in zip(self._calls(group), range(n_members), strict=True):
                kept = at(probs, n) if self._keeps else None
                self._native.call["attend"](*shape, at(qkv_ExNxR, e), at(out_ExNxC, e), kept, *mask)
        return out_ExNxC

    def branch_backward(self, grad_ExNxC: Tensor) -> Tensor:
        """The gradient of queries, keys and values."""
        grad_ExNxC, grad_ExNxR = grad_ExNxC.contiguous(), torch.empty_like(self._qkv_ExNxR)
        for group, probs_MxGxTxT in zip(self._groups, self._probs, strict=True):
            for n, (shape, e, mask) in enumerate(self._calls(group)):
                arrays = at(self._qkv_ExNxR, e), at(probs_MxGxTxT, n), at(grad_ExNxC, e), at(grad_ExNxR, e)
                self._native.call["attend_backward"](*shape, *arrays, *mask)
        return grad_ExNxR

    def _calls(self, group: Heads) -> Iterator[tuple[tuple[Any, ...], int, tuple[Any, ...]]]:
        """For each member the shape and scale, its number and its mask."""
        E, N, R = self._qkv_ExNxR.shape
        T, D = N // self._n_rows, R // (group.n_head + 2 * group.n_kv_head)
        shape = self._n_rows, T, group.n_head, group.n_kv_head, D, self._window, group.scale
        for n, e in enumerate(range(E)[group.members]):
            yield shape, e, mask_of(group.mask, n, group.n_head * T * T)


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
