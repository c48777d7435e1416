"""Muon (Jordan et al. 2024): orthogonalised momentum for the matrices of blocks, AdamW for all else.

Queries, keys and values are orthogonalised each by itself, and so are the gate and the hidden channels of a gated MLP.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator
from math import sqrt

import torch
from torch import Tensor

from isoloss.model.parameters import Layout
from isoloss.study.config import RunConfig
from isoloss.study.parts import mlp_of
from isoloss.study.shapes import hidden_width
from isoloss.training.optimizers import adamw
from isoloss.training.optimizers.update import Update

MOMENTUM = 0.95
NEWTON_SCHULZ_STEPS = 5
COEFFICIENTS = 3.4445, -4.7750, 2.0315
EPS = 1e-7


def step(update: Update) -> None:
    """Update every member. The matrices' rate follows learning_rate's schedule, from muon_learning_rate."""
    parameters, end = update.parameters, update.parameters.layout.matrix_end
    weight_ExM, momentum_ExM = parameters.flat_ExP[:, :end], update.moments["exp_avg"][:, :end]
    grad_ExM = update.grad_ExP[:, :end] / update.divisor_E[:, None]
    update.put(momentum_ExM, momentum_ExM.lerp(grad_ExM, 1 - MOMENTUM))
    nesterov_ExM = grad_ExM.lerp(momentum_ExM, MOMENTUM)
    shares = [(c.muon_learning_rate or 0.0) / c.learning_rate for c in update.members]
    lr_Ex1 = torch.stack([lr * share for lr, share in zip(update.lr_E, shares, strict=True)])[:, None]
    change_ExM = torch.empty_like(nesterov_ExM)
    for (rows, columns), starts in _matrices(parameters.layout, update.members[0]).items():
        parts = [slice(start, start + rows * columns) for start in starts]
        stacked_KExRxC = torch.cat([nesterov_ExM[:, part].unflatten(1, (rows, columns)) for part in parts])
        flat_KExN = orthogonalised(stacked_KExRxC).flatten(1).float() * sqrt(max(1.0, rows / columns))
        for part, flat_ExN in zip(parts, flat_KExN.split(len(update.members)), strict=True):
            change_ExM[:, part] = flat_ExN
    kept_Ex1 = 1 - lr_Ex1 * update.decay_E[:, None]
    update.put(weight_ExM, weight_ExM * kept_Ex1 - lr_Ex1 * change_ExM)
    if parameters.low_precision:
        parameters.low_ExM[:, :end].copy_(weight_ExM)
    adamw.step(update, first=end)


def orthogonalised(x_KxRxC: Tensor) -> Tensor:
    """Each matrix with its singular values near 1, in bfloat16: the quintic Newton-Schulz iteration of Jordan et al."""
    a, b, c = COEFFICIENTS
    tall = x_KxRxC.shape[1] > x_KxRxC.shape[2]
    x = x_KxRxC.bfloat16()
    x = x.transpose(1, 2) if tall else x
    x = x / torch.linalg.matrix_norm(x, keepdim=True).clamp(min=EPS)
    for _ in range(NEWTON_SCHULZ_STEPS):
        gram = x @ x.transpose(1, 2)
        x = torch.baddbmm(x, torch.baddbmm(gram, gram, gram, beta=b, alpha=c), x, beta=a)
    return x.transpose(1, 2) if tall else x


def _matrices(layout: Layout, config: RunConfig) -> dict[tuple[int, int], list[int]]:
    """Starts in the flat order of the matrices that are orthogonalised, by their rows and columns."""
    found: dict[tuple[int, int], list[int]] = defaultdict(list)
    for slot in layout.slots:
        if slot.stop <= layout.matrix_end:
            start = slot.start
            for rows in _rows_of(slot.name, slot.shape[0], config):
                found[rows, slot.shape[1]].append(start)
                start += rows * slot.shape[1]
    return found


def _rows_of(name: str, rows: int, config: RunConfig) -> Iterator[int]:
    """Rows of the matrices that one of the layout holds."""
    if name.endswith("c_attn.weight"):
        yield from (config.n_embd, (rows - config.n_embd) // 2, (rows - config.n_embd) // 2)
    elif name.endswith("c_fc.weight") and mlp_of(config.mlp).gated:
        yield from (hidden_width(config), hidden_width(config))
    else:
        yield rows
