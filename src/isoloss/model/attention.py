"""Causal self-attention of a stack whose members may differ in n_head: those of equal n_head go together."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import groupby
from math import sqrt
from typing import NamedTuple

import torch
from torch import Tensor

from isoloss.model.dropout import Mask
from isoloss.model.kernels import Kernels
from isoloss.study.config import RunConfig


class Attended(NamedTuple):
    """What the backward pass needs of one group's attention."""

    qkv_3xGxTxD: Tensor
    probs_GxTxT: Tensor
    dropped_GxTxT: Tensor


def head_groups(members: Sequence[RunConfig]) -> Iterator[tuple[slice, int]]:
    """Slices of neighbouring members that share n_head, with their n_head."""
    start = 0
    for n_head, group in groupby(config.n_head for config in members):
        stop = start + len(list(group))
        yield slice(start, stop), n_head
        start = stop


def attention(
    kernels: Kernels, members: Sequence[RunConfig], qkv_ExBxTx3C: Tensor, mask: Mask | None
) -> tuple[Tensor, list[Attended]]:
    """Attention's output before its projection, shape [E, B, T, C], and what its backward pass needs."""
    outputs: list[Tensor] = []
    saved: list[Attended] = []
    for group, n_head in head_groups(members):
        qkv_3xGxTxD = kernels.split_heads(qkv_ExBxTx3C[group], 3, n_head)
        q_GxTxD, k_GxTxD, v_GxTxD = qkv_3xGxTxD
        scores_GxTxT = torch.bmm(q_GxTxD, k_GxTxD.transpose(1, 2))
        scale = 1 / sqrt(q_GxTxD.shape[2])
        group_mask = None if mask is None else mask.of(group)
        probs_GxTxT, dropped_GxTxT = kernels.softmax(scores_GxTxT, scale, group_mask, qkv_ExBxTx3C.shape[1])
        y_GxTxD = torch.bmm(dropped_GxTxT, v_GxTxD)
        outputs.append(kernels.join_heads(y_GxTxD[None], group.stop - group.start, n_head))
        saved.append(Attended(qkv_3xGxTxD, probs_GxTxT, dropped_GxTxT))
    return _together(outputs), saved


def attention_backward(
    kernels: Kernels, members: Sequence[RunConfig], grad_ExBxTxC: Tensor, saved: list[Attended], mask: Mask | None
) -> Tensor:
    """Gradient of `attention`'s qkv, shape [E, B, T, 3C]."""
    grads: list[Tensor] = []
    for (group, n_head), attended in zip(head_groups(members), saved, strict=True):
        q_GxTxD, k_GxTxD, v_GxTxD = attended.qkv_3xGxTxD
        grad_GxTxD = kernels.split_heads(grad_ExBxTxC[group], 1, n_head)[0]
        grad_qkv_3xGxTxD = torch.empty_like(attended.qkv_3xGxTxD)
        torch.bmm(attended.dropped_GxTxT.transpose(1, 2), grad_GxTxD, out=grad_qkv_3xGxTxD[2])
        grad_GxTxT = torch.bmm(grad_GxTxD, v_GxTxD.transpose(1, 2))
        scale = 1 / sqrt(q_GxTxD.shape[2])
        group_mask = None if mask is None else mask.of(group)
        rows = grad_ExBxTxC.shape[1]
        grad_GxTxT = kernels.softmax_backward(grad_GxTxT, attended.probs_GxTxT, scale, group_mask, rows)
        torch.bmm(grad_GxTxT, k_GxTxD, out=grad_qkv_3xGxTxD[0])
        torch.bmm(grad_GxTxT.transpose(1, 2), q_GxTxD, out=grad_qkv_3xGxTxD[1])
        grads.append(kernels.join_heads(grad_qkv_3xGxTxD, group.stop - group.start, n_head))
    return _together(grads)


def _together(groups: list[Tensor]) -> Tensor:
    return groups[0] if len(groups) == 1 else torch.cat(groups)
