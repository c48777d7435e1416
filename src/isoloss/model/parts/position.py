"""Tokens embedded, and positions where they are rows; rotated queries and keys and biased scores are attention's."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from isoloss.model.functions import dropped, read
from isoloss.model.native import Embed
from isoloss.model.parts import ForwardPass


def embed(run: ForwardPass) -> Tensor:
    """The tokens' rows and, if there are such, their positions', dropped, fp32 of shape [E, B·T, C]."""
    tokens_ExBxT, wte_ExVxC = run.tokens_ExBxT, run.weights["wte.weight"]
    wpe_ExTxC, rows_TxC = run.weights.get("wpe.weight"), run.position_rows
    if run.kernels.native and rows_TxC is None:
        return Embed.apply(run.kernels.native, tokens_ExBxT, wte_ExVxC, wpe_ExTxC, run.mask(0))  # type: ignore[return-value]
    x_ExBxTxC = torch.stack([F.embedding(t, w) for t, w in zip(tokens_ExBxT, read(wte_ExVxC), strict=True)])
    if rows_TxC is not None:
        x_ExBxTxC = x_ExBxTxC + rows_TxC
    if wpe_ExTxC is not None:
        x_ExBxTxC = x_ExBxTxC + read(wpe_ExTxC)[:, None, run.positions]
    return dropped(x_ExBxTxC, run.mask(0), tuple(x_ExBxTxC.shape[1:])).flatten(1, 2)
