"""Causal self-attention of a stack whose members may differ in n_head: those of equal n_head go together."""

from __future__ import annotations

from math import frexp, ldexp

import torch
from torch import Tensor

from isoloss.model.dropout import Mask
from isoloss.model.functions import Step, dropped
from isoloss.model.native import Native
from isoloss.model.native_attention import Attend, Heads, NormRotate
from isoloss.model.parts import ForwardPass
from isoloss.model.parts.norm import rms_norm
from isoloss.model.parts.rotation import rotated
from isoloss.study.compute import attended_length
from isoloss.study.config import RunConfig
from isoloss.study.parts import position_of

MAX_TRITON_D = 128
"""Channels of a head that fit into the registers of one program in Triton."""


def attention(run: ForwardPass, block: int) -> list[Step]:
    """Queries, keys and values, attention among them, and its projection."""
    enter, leave = run.linear(f"h.{block}.attn.c_attn"), run.linear(f"h.{block}.attn.c_proj")
    mask, groups, config = run.mask(3 * block + 1), run.head_groups, run.config
    prepare = _norm_rotate(run, run.kernels.native) if run.kernels.native else []
    if run.kernels.native and not run.read_before and position_of(config.position).bias is None:
        heads = [
            Heads(members, first.n_head, first.n_kv_head or first.n_head, mask and mask.of(members), scale)
            for members, first, scale in groups
        ]
        return [enter, *prepare, Attend(run.kernels.native, heads, run.n_rows, attended_length(config)), leave]

    plainly_projected = not (run.rotations or config.qk_norm or config.n_kv_head or run.read_before)
    if run.kernels.triton and plainly_projected and config.n_embd // min(c.n_head for c in run.members) <= MAX_TRITON_D:
        from isoloss.model.triton_attention import Attend as TritonAttend

        by_heads = [(members, c.n_head, scale, mask and mask.of(members)) for members, c, scale in groups]
        return [enter, TritonAttend(by_heads, run.n_rows, attended_length(config)), leave]

    def plain(stream: Tensor, qkv_ExNxR: Tensor) -> tuple[Tensor, Tensor]:
        parts = qkv_ExNxR.split([members.stop - members.start for members, *_ in groups])
        outputs = [
            _attended(run, part_ExNxR, mask and mask.of(members), block, first, scale)
            for part_ExNxR, (members, first, scale) in zip(parts, groups, strict=True)
        ]
        return stream, outputs[0] if len(outputs) == 1 else torch.cat(outputs)

    return [enter, *prepare, plain, leave]


def _norm_rotate(run: ForwardPass, native: Native) -> list[Step]:
    """What becomes of queries and keys before their products; no step where nothing does."""
    if not run.rotations and not run.config.qk_norm:
        return []
    groups = [
        (members, first.n_head + (first.n_kv_head or first.n_head), D, run.rotations.get(D))
        for members, first, _ in run.head_groups
        for D in [first.n_embd // first.n_head]
    ]
    return [NormRotate(native, groups, norm=run.config.qk_norm)]


def _attended(
    run: ForwardPass, qkv_ExNxR: Tensor, mask: Mask | None, block: int, config: RunConfig, scale: float
) -> Tensor:
    """The heads' outputs side by side, [E, N, C], from R rows of queries, keys and values."""
    E, n_head, n_kv_head = len(qkv_ExNxR), config.n_head, config.n_kv_head or config.n_head
    D = config.n_embd // n_head
    heads_ExBxHxTxD = qkv_ExNxR.view(E, run.n_rows, -1, n_head + 2 * n_kv_head, D).transpose(2, 3)
    queries_keys_values = heads_ExBxHxTxD.split((n_head, n_kv_head, n_kv_head), dim=2)
    q_GxTxD, k_GxTxD, v_GxTxD = (part.reshape(-1, *part.shape[3:]) for part in queries_keys_values)
    if config.qk_norm and not run.kernels.native:
        q_GxTxD, k_GxTxD = (rms_norm(each.float()).to(each.dtype) for each in (q_GxTxD, k_GxTxD))
    if run.rotations and not run.kernels.native:
        q_GxTxD, k_GxTxD = (rotated(each, run.rotations[D]) for each in (q_GxTxD, k_GxTxD))
    if run.read_before:
        k_GxTxD, v_GxTxD = run.read_before.extended(block, k_GxTxD, v_GxTxD)
    if n_kv_head != n_head:
        k_GxTxD, v_GxTxD = (_shared(each, n_head // n_kv_head) for each in (k_GxTxD, v_GxTxD))
    y_GxTxD = _attend(run, q_GxTxD, k_GxTxD, v_GxTxD, mask, config.n_head, scale)
    return y_GxTxD.view(E, run.n_rows, n_head, -1, D).transpose(2, 3).reshape(E, -1, n_head * D)


def _attend(
    run: ForwardPass,
    q_GxTxD: Tensor,
    k_GxTxD: Tensor,
    v_GxTxD: Tensor,
    mask: Mask | None,
    n_head: int,
    scale: float,
) -> Tensor:
    """Every query's mean of the values at and before it, by the softmax of its scaled products with their keys."""
    n_new, n_all, window = q_GxTxD.shape[1], k_GxTxD.shape[1], attended_length(run.config)
    bias_HxTxT = run.score_bias(n_head, n_all)
    ahead_TxT = torch.full((n_new, n_all), float("-inf"), device=q_GxTxD.device).triu(1 + n_all - n_new)
    if window < n_all:
        ahead_TxT = ahead_TxT + torch.full_like(ahead_TxT, float("-inf")).tril(n_all - n_new - window)
    mantissa, exponent = frexp(scale)  # the power of two comes first, and changes no rounding: else fp16 overflows
    scores_GxTxT = torch.bmm(q_GxTxD * ldexp(1, exponent - 1), k_GxTxD.transpose(1, 2))
    if mantissa != 0.5:
        scores_GxTxT = scores_GxTxT * (2 * mantissa)
    if bias_HxTxT is not None:
        scores_GxTxT = (scores_GxTxT.unflatten(0, (-1, n_head)) + bias_HxTxT).flatten(0, 1)
    scores_GxTxT = scores_GxTxT + ahead_TxT
    probs_GxTxT = torch.softmax(scores_GxTxT, dim=-1, dtype=torch.float32)
    probs_GxTxT = dropped(probs_GxTxT, mask, (run.n_rows, n_head, n_new, n_all))
    return torch.bmm(probs_GxTxT.to(run.kernels.dtype), v_GxTxD)


def _shared(x_GxTxD: Tensor, n_queries: int) -> Tensor:
    """Keys or values once for each of the query heads that share them."""
    return x_GxTxD[:, None].expand(-1, n_queries, -1, -1).flatten(0, 1)
