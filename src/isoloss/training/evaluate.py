"""Evaluation: exact (all of val, a fixed part of train) or sampled as nanoGPT does. Never touches training."""

from __future__ import annotations

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from isoloss.data.batches import exact_eval_starts, sampled_eval_starts, windows
from isoloss.data.tokens import Tokens
from isoloss.model import gpt
from isoloss.spec.config import RunConfig
from isoloss.training.distributed import Ranks
from isoloss.training.state import StackState

CHUNK_TOKENS = 4096
"""Tokens in one forward pass over all members: enough for the GEMMs, little enough for the cache."""


def evaluate(stack: StackState, tokens: Tokens, ranks: Ranks) -> tuple[list[float], list[float]]:
    """Train and val loss of every member at the stack's step, in nats a token."""
    losses: list[list[float]] = []
    for split, data_N in enumerate((tokens.train_N, tokens.val_M)):
        starts = [_starts(config, stack.step, split, len(data_N)) for config in stack.members]
        losses.append(_mean_loss(stack, data_N, np.stack(starts), ranks).tolist())
    return losses[0], losses[1]


def _starts(config: RunConfig, step: int, split: int, length: int) -> NDArray[np.int64]:
    if config.eval == "sampled":
        n = config.eval_iters * config.batch_size
        return sampled_eval_starts(config.seed, step, split, n, length, config.block_size)
    return exact_eval_starts(length, config.block_size, config.eval_train_tokens if split == 0 else None)


@torch.no_grad()
def _mean_loss(stack: StackState, data_N: NDArray[np.uint16], starts_ExW: NDArray[np.int64], ranks: Ranks) -> Tensor:
    """Mean loss over windows, fp64 of shape [E]; the ranks share the windows between them."""
    n_windows, block = starts_ExW.shape[1], stack.members[0].block_size
    chunk = max(1, CHUNK_TOKENS // (block * len(stack.members)))
    mine_ExW = starts_ExW[:, ranks.rank :: ranks.world]
    total_E = torch.zeros(len(stack.members), dtype=torch.float64)
    for first in range(0, mine_ExW.shape[1], chunk):
        part_ExW = mine_ExW[:, first : first + chunk]
        blocks = np.stack([windows(data_N, starts_W, block) for starts_W in part_ExW])
        blocks_ExWxT1 = torch.from_numpy(blocks).to(stack.exp_avg_ExP.device)
        total_E += gpt.loss(stack.parameters, stack.members, blocks_ExWxT1).cpu().double() * part_ExW.shape[1]
    return ranks.sum(total_E) / n_windows
