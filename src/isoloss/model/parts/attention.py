"""Causal self-attention of a stack whose members may differ in n_head: those of equal n_head go together."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise
from math import sqrt

import torch
from torch import Tensor

from isoloss.model.dropout import Mask
from isoloss.model.functions import Step, dropped
from isoloss.model.native import Attend
from isoloss.model.parts import ForwardPass
from isoloss.study.config import RunConfig


def attention(run: ForwardPass, block: int) -> list[Step]:
    """Queries, keys and values, attention among them, and its projection."""
    enter, leave = run.linear(f"h.{block}.attn.c_attn"), run.linear(f"h.{block}.attn.c_proj")
    mask, groups = run.mask(3 * block + 1), head_groups(run.members)
    if run.kernels.native:
        return [enter, Attend(run.kernels.native, mask, run.n_rows, groups), leave]

    def plain(stream: Tensor, qkv_ExNx3C: Tensor) -> tuple[Tensor, Tensor]:
        parts = qkv_ExNx3C.split([members.stop - members.start for members, _ in groups])
        outputs = [
            _attended(run, part_ExNx3C, mask and mask.of(members), block, n_head)
            for part_ExNx3C, (members, n_head) in zip(parts, groups, strict=True)
        ]
        return stream, torch.cat(outputs)

    return [enter, plain, leave]


def head_groups(members: Sequence[RunConfig]) -> list[tuple[slice, int]]:
    """Slices of neighbouring members that share n_head, with their n_head."""
    starts = [i for i, config in enumerate(members) if i == 0 or config.n_head != members[i - 1].n_head]
    return [(slice(a, b), members[a].n_head) for a, b in pairwise([*starts, len(members)])]


def _attended(run: ForwardPass, qkv_ExNx3C: Tensor, mask: Mask | None, block: int, n_head: int) -> Tensor:
    """Every query's mean of the values at and before it, by the softmax of its scaled products with their keys."""
    E = len(qkv_ExNx3C)
    parts_3xExBxHxTxD = qkv_ExNx3C.view(E, run.n_rows, -1, 3, n_head, run.config.n_embd // n_head).permute(
        3, 0, 1, 4, 2, 5
    )
    q_GxTxD, k_GxTxD, v_GxTxD = parts_3xExBxHxTxD.flatten(1, 3)
    if run.read_before:
        k_GxTxD, v_GxTxD = run.read_before.extended(block, k_GxTxD, v_GxTxD)
    (_, n_new, D), n_all = q_GxTxD.shape, k_GxTxD.shape[1]
    ahead_TxT = torch.full((n_new, n_all), float("-inf"), device=q_GxTxD.device).triu(1 + n_all - n_new)
    scores_GxTxT = torch.bmm(q_GxTxD, k_GxTxD.transpose(1, 2)) * (1 / sqrt(D)) + ahead_TxT
    probs_GxTxT = torch.softmax(scores_GxTxT, dim=-1, dtype=torch.float32)
    probs_GxTxT = dropped(probs_GxTxT, mask, (run.n_rows, n_head, n_new, n_all)).to(run.kernels.dtype)
    y_GxTxD = torch.bmm(probs_GxTxT, v_GxTxD)
    return y_GxTxD.view(E, run.n_rows, n_head, n_new, D).transpose(2, 3).reshape(E, -1, n_head * D)
