"""Layers over a leading member axis E: each member multiplies by its own weights, in one call for all."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from math import prod, sqrt
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from isoloss.randomness import Purpose, generator
from isoloss.spec.config import RunConfig

LN_EPS = 1e-5


class _StackedLinear(torch.autograd.Function):
    """y = x·Wᵀ for every member. Written out so that W's gradient comes contiguous, not as a transposed view."""

    @staticmethod
    def forward(ctx: Any, x_ExNxI: Tensor, weight_ExOxI: Tensor) -> Tensor:  # pyright: ignore[reportIncompatibleMethodOverride]
        ctx.save_for_backward(x_ExNxI, weight_ExOxI)
        return _product(x_ExNxI, weight_ExOxI.transpose(1, 2))

    @staticmethod
    def backward(ctx: Any, grad_ExNxO: Tensor) -> tuple[Tensor, Tensor]:  # pyright: ignore[reportIncompatibleMethodOverride]
        x_ExNxI, weight_ExOxI = ctx.saved_tensors
        return _product(grad_ExNxO, weight_ExOxI), _product(grad_ExNxO.transpose(1, 2), x_ExNxI)


def _product(a_ExNxK: Tensor, b_ExKxM: Tensor) -> Tensor:
    """a·b for every member; one member's product goes to mm, which oneDNN multiplies faster than a batch of one."""
    return torch.bmm(a_ExNxK, b_ExKxM) if len(a_ExNxK) > 1 else torch.mm(a_ExNxK[0], b_ExKxM[0])[None]


def linear(x_ExNxI: Tensor, weight_ExOxI: Tensor, bias_ExO: Tensor | None = None) -> Tensor:
    """x·Wᵀ + b for every member, shape [E, N, O], in x's dtype."""
    y_ExNxO: Tensor = _StackedLinear.apply(x_ExNxI, weight_ExOxI)  # pyright: ignore[reportAssignmentType]
    return y_ExNxO if bias_ExO is None else y_ExNxO + bias_ExO[:, None].to(y_ExNxO.dtype)


def layer_norm(x_ExNxC: Tensor, weight_ExC: Tensor, bias_ExC: Tensor | None = None) -> Tensor:
    """Layer norm over C with each member's own scale and shift, shape [E, N, C]."""
    y_ExNxC = F.layer_norm(x_ExNxC, x_ExNxC.shape[-1:], eps=LN_EPS) * weight_ExC[:, None]
    return y_ExNxC if bias_ExC is None else y_ExNxC + bias_ExC[:, None]


def embedding(tokens_ExBxT: Tensor, weight_ExVxC: Tensor) -> Tensor:
    """Rows of each member's own table, shape [E, B, T, C]."""
    n_members, vocab_size, width = weight_ExVxC.shape
    first_row_E = torch.arange(n_members, device=tokens_ExBxT.device) * vocab_size
    return F.embedding(tokens_ExBxT + first_row_E[:, None, None], weight_ExVxC.reshape(-1, width))


def causal_attention(qkv_ExBxTx3C: Tensor, n_head: int, dropout_mask: Tensor | None) -> Tensor:
    """Causal self-attention of members that share n_head, shape [E, B, T, C].

    `dropout_mask` multiplies the attention weights, shape [E, B, H, T, T]. Softmax is taken in fp32.
    """
    E, B, T, C3 = qkv_ExBxTx3C.shape
    head_size = C3 // 3 // n_head
    heads = qkv_ExBxTx3C.view(E, B, T, 3, n_head, head_size).permute(3, 0, 1, 4, 2, 5)
    q_GxTxD, k_GxTxD, v_GxTxD = heads.reshape(3, E * B * n_head, T, head_size).unbind(0)
    above_diagonal_TxT = torch.full((T, T), float("-inf"), dtype=q_GxTxD.dtype, device=q_GxTxD.device).triu(1)
    scores_GxTxT = torch.baddbmm(above_diagonal_TxT, q_GxTxD, k_GxTxD.transpose(1, 2), alpha=1 / sqrt(head_size))
    attention_GxTxT = torch.softmax(scores_GxTxT, dim=-1, dtype=torch.float32)
    if dropout_mask is not None:
        attention_GxTxT = attention_GxTxT * dropout_mask.view(-1, T, T)
    y_GxTxD = torch.bmm(attention_GxTxT.to(v_GxTxD.dtype), v_GxTxD)
    return y_GxTxD.view(E, B, n_head, T, head_size).transpose(2, 3).reshape(E, B, T, C3 // 3)


@dataclass(frozen=True)
class Dropout:
    """The dropout masks of one micro-batch: a pure function of each member's seed, the step and the place.

    `rows` picks the sequences of the micro-batch that this process trains; masks are drawn for all of them, so
    that several ranks together drop what one process would.
    """

    members: Sequence[RunConfig]
    step: int
    micro: int
    rows: slice
    device: torch.device

    def mask(self, place: int, shape: tuple[int, ...], members: slice = slice(None)) -> Tensor | None:
        """Multipliers 0 or 1/(1-p), fp32 of shape [E, B, *shape]; None when no member drops anything."""
        chosen = self.members[members]
        if not any(config.dropout for config in chosen):
            return None
        masks = [self._member_mask(config, place, shape) for config in chosen]
        return torch.from_numpy(np.stack(masks) if len(masks) > 1 else masks[0][None]).to(self.device)

    def _member_mask(
        self, config: RunConfig, place: int, shape: tuple[int, ...]
    ) -> np.ndarray[Any, np.dtype[np.float32]]:
        whole = (config.batch_size, *shape)
        bits = generator(config.seed, Purpose.DROPOUT, self.step, self.micro, place).bit_generator.random_raw(
            -(-prod(whole) // 4)
        )
        # Sixteen bits an element: the rate is exact to 1/65536, and the scale is that of the rate really used.
        threshold = min(round(config.dropout * 65536), 65535)
        kept = bits.view(np.uint16)[: prod(whole)].reshape(whole)[self.rows] >= threshold
        return np.multiply(kept, np.float32(65536 / (65536 - threshold)), dtype=np.float32)
