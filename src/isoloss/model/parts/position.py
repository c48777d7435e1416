"""Where in a sequence a token stands: a learned table, rotated queries and keys, or nothing but causality."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from isoloss.model.functions import dropped, read
from isoloss.model.native import Embed
from isoloss.model.parts import ForwardPass

ROPE_BASE = 10_000.0
"""The longest wavelength is this times 2π tokens (Su et al. 2021)."""


def embed(run: ForwardPass) -> Tensor:
    """The tokens' rows and, if learned, their positions', dropped, fp32 of shape [E, B·T, C]."""
    tokens_ExBxT, wte_ExVxC = run.tokens_ExBxT, run.weights["wte.weight"]
    wpe_ExTxC = run.weights.get("wpe.weight")
    if run.kernels.native:
        return Embed.apply(run.kernels.native, tokens_ExBxT, wte_ExVxC, wpe_ExTxC, run.mask(0))  # type: ignore[return-value]
    x_ExBxTxC = torch.stack([F.embedding(t, w) for t, w in zip(tokens_ExBxT, read(wte_ExVxC), strict=True)])
    if wpe_ExTxC is not None:
        x_ExBxTxC = x_ExBxTxC + read(wpe_ExTxC)[:, None, run.positions]
    return dropped(x_ExBxTxC, run.mask(0), tuple(x_ExBxTxC.shape[1:])).flatten(1, 2)


def rotated(run: ForwardPass, x_GxTxD: Tensor) -> Tensor:
    """Queries or keys with channels i and i + D/2 rotated by position / ROPE_BASE^(2i/D), as in Llama's code."""
    positions_T, half = (
        torch.arange(run.positions.start, run.positions.stop, device=x_GxTxD.device),
        x_GxTxD.shape[2] // 2,
    )
    exponents = torch.arange(half, device=x_GxTxD.device) / half
    angles_TxD = torch.outer(positions_T, ROPE_BASE**-exponents).repeat(1, 2)
    first, second = x_GxTxD.float().chunk(2, dim=-1)
    turned_GxTxD = torch.cat((-second, first), dim=-1)
    return (x_GxTxD * angles_TxD.cos() + turned_GxTxD * angles_TxD.sin()).to(x_GxTxD.dtype)
