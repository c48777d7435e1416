"""Causal attention over queries, keys and values as projected, in Triton: no scores are stored, no mask is.

One pass keeps running maxima and sums of each query's softmax (Milakov & Gimelshein 2018; Dao et al. 2022); the
backward pass computes the probabilities again from their logarithms.
"""

# pyright: basic, reportMissingImports=false
# ruff: noqa: D103
# (a kernel's arguments are traced, not typed)

from __future__ import annotations

from collections.abc import Sequence

import torch
import triton.language as tl
from torch import Tensor

import triton
from isoloss.model.dropout import Mask
from isoloss.model.operations import OnBranch
from isoloss.model.triton_kernels import multiplier
from isoloss.model.triton_operations import _first, _launch, _mask

MAX_BLOCK_T = 64
"""Queries, or keys, that a program has at a time where a head has at most 32 channels; else half as many."""


@triton.jit
def _rows(array, base, t, d, T, D, stride):
    """Rows t of one head, zeros beyond its T positions and D channels."""
    inside = (t < T)[:, None] & (d < D)[None, :]
    return tl.load(array + base + t[:, None] * stride + d[None, :], mask=inside, other=0.0)


@triton.jit
def _place(T, H, D, C):
    """Of this program's head: member times B plus sequence, head, and where its rows of qkv and of outputs begin."""
    g = tl.program_id(0)
    sequence, h = g // H, g % H
    row = sequence.to(tl.int64) * T
    return sequence, h, row * 3 * C + h * D, row * C + h * D


@triton.jit
def forward(
    qkv, out, logs, key, limit, scale_of_mask, B, T, H, D, C, window, first, scale,
    DROPS: tl.constexpr, BLOCK_T: tl.constexpr, BLOCK_D: tl.constexpr,
):  # fmt: skip
    sequence, h, base, out_base = _place(T, H, D, C)
    i0, d = tl.program_id(1) * BLOCK_T, tl.arange(0, BLOCK_D)
    i = i0 + tl.arange(0, BLOCK_T)
    q = _rows(qkv, base, i, d, T, D, 3 * C)
    most, total = tl.full((BLOCK_T,), -1e30, tl.float32), tl.zeros((BLOCK_T,), tl.float32)
    mean = tl.zeros((BLOCK_T, BLOCK_D), tl.float32)
    for j0 in range(tl.maximum(0, i0 - window + 1) // BLOCK_T * BLOCK_T, i0 + BLOCK_T, BLOCK_T):
        j = j0 + tl.arange(0, BLOCK_T)
        k = _rows(qkv, base + C, j, d, T, D, 3 * C)
        scores = tl.dot(q, tl.trans(k), input_precision="ieee") * scale
        seen = (j[None, :] <= i[:, None]) & (j[None, :] > i[:, None] - window)
        rises = tl.maximum(most, tl.max(tl.where(seen, scores, -1e30), 1))
        powers = tl.where(seen, tl.exp(scores - rises[:, None]), 0.0)
        shrinks = tl.exp(most - rises)
        total, most = total * shrinks + tl.sum(powers, 1), rises
        if DROPS:
            index = first + ((sequence % B * H + h) * T + i[:, None]) * T + j[None, :]
            powers = powers * multiplier(key, limit, scale_of_mask, sequence // B, index)
        v = _rows(qkv, base + 2 * C, j, d, T, D, 3 * C)
        mean = mean * shrinks[:, None] + tl.dot(powers.to(v.dtype), v, input_precision="ieee")
    mean = mean / total[:, None]
    at = out + out_base + i[:, None] * C + d[None, :]
    tl.store(at, mean.to(out.dtype.element_ty), mask=(i < T)[:, None] & (d < D)[None, :])
    tl.store(logs + tl.program_id(0) * T + i, most + tl.log(total), mask=i < T)


@triton.jit
def _of_scores(q, k, v, grad, delta, log, i, j, place, first, key, limit, scale_of_mask, e, T, window, scale, DROPS: tl.constexpr):  # fmt: skip  # noqa: E501
    """Probabilities after dropout, and the gradient of the scores before they are scaled."""
    seen = (j[None, :] <= i[:, None]) & (j[None, :] > i[:, None] - window)
    scores = tl.dot(q, tl.trans(k), input_precision="ieee") * scale
    probs = tl.where(seen, tl.exp(scores - log[:, None]), 0.0)
    of_dropped = tl.dot(grad, tl.trans(v), input_precision="ieee")
    dropped = probs
    if DROPS:
        times = multiplier(key, limit, scale_of_mask, e, first + (place * T + i[:, None]) * T + j[None, :])
        dropped, of_dropped = probs * times, of_dropped * times
    return dropped, probs * (of_dropped - delta[:, None]) * scale


@triton.jit
def backward(
    qkv, out, grad, logs, grad_qkv, key, limit, scale_of_mask, B, T, H, D, C, window, first, scale,
    DROPS: tl.constexpr, OF_QUERIES: tl.constexpr, BLOCK_T: tl.constexpr, BLOCK_D: tl.constexpr,
):  # fmt: skip
    """The gradient of a block of queries, or that of a block of keys and values."""
    sequence, h, base, out_base = _place(T, H, D, C)
    e, place, d = sequence // B, sequence % B * H + h, tl.arange(0, BLOCK_D)
    own0 = tl.program_id(1) * BLOCK_T
    own = own0 + tl.arange(0, BLOCK_T)
    first_sum, second_sum = tl.zeros((BLOCK_T, BLOCK_D), tl.float32), tl.zeros((BLOCK_T, BLOCK_D), tl.float32)
    if OF_QUERIES:
        begin, end = tl.maximum(0, own0 - window + 1) // BLOCK_T * BLOCK_T, own0 + BLOCK_T
    else:
        begin, end = own0, tl.minimum(T, own0 + BLOCK_T + window - 1)
    for other0 in range(begin, end, BLOCK_T):
        other = other0 + tl.arange(0, BLOCK_T)
        i, j = (own, other) if OF_QUERIES else (other, own)
        q = _rows(qkv, base, i, d, T, D, 3 * C)
        k = _rows(qkv, base + C, j, d, T, D, 3 * C)
        v = _rows(qkv, base + 2 * C, j, d, T, D, 3 * C)
        g = _rows(grad, out_base, i, d, T, D, C)
        delta = tl.sum(g.to(tl.float32) * _rows(out, out_base, i, d, T, D, C).to(tl.float32), 1)
        log = tl.load(logs + tl.program_id(0) * T + i, mask=i < T, other=0.0)
        dropped, of_scores = _of_scores(
            q, k, v, g, delta, log, i, j, place, first, key, limit, scale_of_mask, e, T, window, scale, DROPS
        )
        if OF_QUERIES:
            first_sum += tl.dot(of_scores.to(k.dtype), k, input_precision="ieee")
        else:
            first_sum += tl.dot(tl.trans(of_scores).to(q.dtype), q, input_precision="ieee")
            second_sum += tl.dot(tl.trans(dropped).to(g.dtype), g, input_precision="ieee")
    inside = (own < T)[:, None] & (d < D)[None, :]
    at = grad_qkv + base + own[:, None] * 3 * C + d[None, :]
    if OF_QUERIES:
        tl.store(at, first_sum.to(grad_qkv.dtype.element_ty), mask=inside)
    else:
        tl.store(at + C, first_sum.to(grad_qkv.dtype.element_ty), mask=inside)
        tl.store(at + 2 * C, second_sum.to(grad_qkv.dtype.element_ty), mask=inside)


def blocks_of(n_positions: int, channels: int) -> dict[str, int]:
    """How much a program has at a time, and how many warps share it: so that no register is spilled (tests/triton)."""
    most = MAX_BLOCK_T if channels <= 32 else MAX_BLOCK_T // 2
    block_t = max(16, min(most, triton.next_power_of_2(n_positions)))
    return {"BLOCK_T": block_t, "BLOCK_D": max(16, triton.next_power_of_2(channels)), "num_warps": block_t // 8}


class Attend(OnBranch):
    """From [E, N, 3C] to [E, N, C], by groups of members of equal n_head: their slice, n_head, scale and mask."""

    def __init__(self, groups: Sequence[tuple[slice, int, float, Mask | None]], n_rows: int, window: int) -> None:
        self._groups, self._n_rows, self._window = groups, n_rows, window

    def branch(self, qkv_ExNx3C: Tensor) -> Tensor:
        """The heads' outputs side by side."""
        E, N, width = qkv_ExNx3C.shape
        self._qkv_ExNx3C, self._out_ExNxC = qkv_ExNx3C, qkv_ExNx3C.new_empty(E, N, width // 3)
        self._logs = [
            torch.empty(len(qkv_ExNx3C[members]), self._n_rows, n_head, N // self._n_rows, device=qkv_ExNx3C.device)
            for members, n_head, *_ in self._groups
        ]
        for (members, n_head, scale, mask), logs in zip(self._groups, self._logs, strict=True):
            arrays = qkv_ExNx3C[members], self._out_ExNxC[members], logs
            self._launch(forward, arrays, n_head, scale, mask)
        return self._out_ExNxC

    def branch_backward(self, grad_ExNxC: Tensor) -> Tensor:
        """The gradient of queries, keys and values."""
        grad_ExNxC, grad_qkv_ExNx3C = grad_ExNxC.contiguous(), torch.empty_like(self._qkv_ExNx3C)
        for (members, n_head, scale, mask), logs in zip(self._groups, self._logs, strict=True):
            arrays = (
                *(x[members] for x in (self._qkv_ExNx3C, self._out_ExNxC, grad_ExNxC)),
                logs,
                grad_qkv_ExNx3C[members],
            )
            for of_queries in (True, False):
                self._launch(backward, arrays, n_head, scale, mask, OF_QUERIES=of_queries)
        return grad_qkv_ExNx3C

    def _launch(
        self, kernel: object, arrays: Sequence[Tensor], n_head: int, scale: float, mask: Mask | None, **options: bool
    ) -> None:
        E, N, width = arrays[0].shape
        B, C = self._n_rows, width // 3
        T, D = N // B, C // n_head
        blocks = blocks_of(T, D)
        numbers = B, T, n_head, D, C, self._window, _first(mask, n_head * T * T), scale
        grid = E * B * n_head, triton.cdiv(T, blocks["BLOCK_T"])  # the first axis may be long
        _launch(kernel, grid, *arrays, *_mask(mask, arrays[0]), *numbers, DROPS=mask is not None, **blocks, **options)
