"""Rotary position embedding: channels of queries and keys rotated by their position (Su et al. 2021)."""

from __future__ import annotations

import torch
from torch import Tensor

ROPE_BASE = 10_000.0
"""The longest wavelength is this times 2π tokens."""


def rope(positions_T: Tensor, channels: int) -> Tensor:
    """Cosines and sines of each position's angles, position / ROPE_BASE^(2i/D), fp32 of shape [2, T, D/2]."""
    half = channels // 2
    angles_TxD = torch.outer(positions_T, ROPE_BASE ** -(torch.arange(half, device=positions_T.device) / half))
    return torch.stack((angles_TxD.cos(), angles_TxD.sin()))


def rotated(x_GxTxD: Tensor, rotation_2xTxD: Tensor) -> Tensor:
    """Queries or keys with channels i and i + D/2 rotated by angle i, as in Llama's code."""
    (first, second), (cosine, sine) = x_GxTxD.float().chunk(2, dim=-1), rotation_2xTxD
    return torch.cat((first * cosine - second * sine, second * cosine + first * sine), dim=-1).to(x_GxTxD.dtype)
