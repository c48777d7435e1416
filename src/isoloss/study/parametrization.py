"""What follows from a model's width and depth in a parametrization: initialisation, multipliers, rates and decay.

Standard is GPT-2's. mup is the maximal update parametrization for Adam (Yang et al. 2022, table 8, in the form of Dey
et al. 2024 with a multiplier before the head). completep adds depth (Dey et al. 2025, table 1, with alpha 1; how it
scales AdamW's epsilon is left out). m is n_embd / base_n_embd, d is n_layer / base_n_layer.
"""

from __future__ import annotations

from dataclasses import dataclass
from math import sqrt

from isoloss.study.config import RunConfig

INIT_STD = 0.02
MUP_HEAD_SIZE = 64
"""Channels of a head for which mup's attention scale, ∝ 1/D, is the usual 1/√D."""


@dataclass(frozen=True)
class Scales:
    """Factors of a model; those of a standard one are 1, and std as GPT-2's."""

    matrix_std: float
    """Of the initial matrices of blocks."""
    projection_std: float
    """Of those that write to the residual stream."""
    attention: float
    """What products of queries and keys are multiplied by."""
    residual: float = 1.0
    """What each block's branches are multiplied by."""
    logits: float = 1.0
    matrix_rate: float = 1.0
    """Of the learning rate, for matrices of blocks; Muon's update is of that scale already."""
    matrix_decay: float = 1.0
    """Of the weight decay, likewise."""


def scales(config: RunConfig) -> Scales:
    """The factors of a run's model."""
    size, deep = config.n_embd // config.n_head, sqrt(2 * config.n_layer)
    if config.parametrization == "standard" or config.base_n_embd is None:
        return Scales(INIT_STD, INIT_STD / deep, 1 / sqrt(size))
    m = config.n_embd / config.base_n_embd
    std, attention = INIT_STD / sqrt(m), sqrt(MUP_HEAD_SIZE) / size
    if config.parametrization == "mup":
        return Scales(std, std / deep, attention, logits=1 / m, matrix_rate=1 / m)
    d = config.n_layer / (config.base_n_layer or config.n_layer)
    return Scales(std, std, attention, residual=1 / d, logits=1 / m, matrix_rate=1 / m, matrix_decay=m)
