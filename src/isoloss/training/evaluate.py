"""Evaluation: exact (all of val, a fixed part of train) or sampled as nanoGPT does. Never touches training."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from math import log

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from isoloss.data.batches import exact_eval_starts, sampled_eval_starts
from isoloss.data.tokens import Tokens
from isoloss.model import gpt
from isoloss.model.parameters import Parameters
from isoloss.study.config import RunConfig
from isoloss.study.mixtures import Parts
from isoloss.training.distributed import Ranks
from isoloss.training.state import StackState
from isoloss.training.step import gather_windows, on_device

MAX_CPU_CHUNK_TOKENS = 2048
"""Tokens of a member in one forward pass on a CPU: enough for the GEMMs and few enough for the cache.

Of a member, not of the stack: the rounding of a mean must not depend on the stack's width.
"""

MAX_ACCELERATOR_CHUNK_BYTES = 2 << 30
"""Estimated memory of the widest arrays of one forward pass on an accelerator."""


class DeviceTokens:
    """Both splits of a text on the training device, and how many bytes each token stands for."""

    def __init__(self, tokens: Tokens, device: torch.device) -> None:
        self.train_N = on_device(tokens.train_N, device)
        self.val_N = on_device(tokens.val_N, device)
        self.train_parts, self.val_parts = tokens.train_parts, tokens.val_parts
        self.bytes_V = torch.from_numpy(tokens.tokenizer.bytes_of_tokens()).to(device)


@dataclass(frozen=True)
class Evaluated:
    """What one member was evaluated at: losses in nats a token, and of the validation split in bits a byte.

    Bits are those of the targets that were scored, over the bytes of UTF-8 that these targets stand for.
    """

    train_loss: float
    val_loss: float
    val_bpb: float


def evaluate(
    stack: StackState, texts: DeviceTokens, ranks: Ranks, goes_on: Callable[[], bool] = lambda: True
) -> list[Evaluated] | None:
    """The losses of every member at the stack's step.

    `goes_on` is asked after each chunk; where it says no, the evaluation is given up and there are no losses.
    """
    return _evaluated(stack.parameters, stack.members, stack.step, texts, ranks, goes_on)


def evaluate_averages(
    stack: StackState, texts: DeviceTokens, ranks: Ranks, goes_on: Callable[[], bool] = lambda: True
) -> list[Evaluated] | None:
    """The same of the averages of the stack's `averaged` members."""
    parameters = Parameters(stack.layout, stack.averages_AxP, stack.parameters.kernels)
    return _evaluated(parameters, [stack.members[e] for e in stack.averaged], stack.step, texts, ranks, goes_on)


def _evaluated(
    parameters: Parameters,
    members: Sequence[RunConfig],
    step: int,
    texts: DeviceTokens,
    ranks: Ranks,
    goes_on: Callable[[], bool],
) -> list[Evaluated] | None:
    losses: list[tuple[list[float], list[float]]] = []
    for split in range(2):
        found = split_loss(parameters, members, step, texts, split, ranks, goes_on)
        if found is None:
            return None
        losses.append((found[0].tolist(), found[1].tolist()))
    (train_losses, _), (val_losses, val_bpb) = losses
    return [*map(Evaluated, train_losses, val_losses, val_bpb)]


def split_loss(
    parameters: Parameters,
    members: Sequence[RunConfig],
    step: int,
    texts: DeviceTokens,
    split: int,
    ranks: Ranks,
    goes_on: Callable[[], bool],
) -> tuple[Tensor, Tensor] | None:
    """Every member's loss on the training split, 0, or that of validation, 1, in nats a token and in bits a byte.

    Both are fp64 of shape [E]. None if given up.
    """
    text_N = texts.val_N if split else texts.train_N
    parts = texts.val_parts if split else texts.train_parts
    starts = [_starts(config, step, split, len(text_N), parts) for config in members]
    return _mean_loss(parameters, members, text_N, np.stack(starts), texts.bytes_V, ranks, goes_on)


def _starts(config: RunConfig, step: int, split: int, length: int, parts: Parts | None) -> NDArray[np.int64]:
    if config.eval == "sampled":
        n = config.eval_iters * config.batch_size
        return sampled_eval_starts(config.seed_of_data, step, split, n, length, config.block_size, parts)
    at_most = config.eval_val_tokens if split else config.eval_train_tokens
    return exact_eval_starts(length, config.block_size, at_most or None, parts)


def _chunk_tokens(members: Sequence[RunConfig], device: torch.device) -> int:
    """Tokens of each member in one forward pass; scores, logits and activations count at 4 bytes."""
    if device.type == "cpu":
        return MAX_CPU_CHUNK_TOKENS
    config = max(members, key=lambda config: config.n_head)
    widths = 4 * config.n_head * config.block_size + 3 * config.vocab_size + 12 * config.n_embd
    return MAX_ACCELERATOR_CHUNK_BYTES // (4 * widths * len(members))


@torch.no_grad()
def _mean_loss(
    parameters: Parameters,
    members: Sequence[RunConfig],
    text_N: Tensor,
    starts_ExB: NDArray[np.int64],
    bytes_V: Tensor,
    ranks: Ranks,
    goes_on: Callable[[], bool],
) -> tuple[Tensor, Tensor] | None:
    """Mean loss over windows in nats a token and in bits a byte, fp64 of shape [E]; None if given up.

    The ranks share the windows between them.
    """
    n_windows, block_size, device = starts_ExB.shape[1], members[0].block_size, text_N.device
    chunk = max(1, _chunk_tokens(members, device) // block_size)
    mine_ExB = torch.from_numpy(starts_ExB[:, ranks.rank :: ranks.world]).to(device)
    sums = [torch.zeros(len(members), device=device)]
    bytes_E = torch.zeros(len(members), dtype=torch.int64, device=device)
    for first in range(0, mine_ExB.shape[1], chunk):
        part_ExB = mine_ExB[:, first : first + chunk]
        blocks_ExBxT1 = gather_windows(text_N, part_ExB, block_size)
        sums.append(gpt.loss(parameters, members, blocks_ExBxT1) * part_ExB.shape[1])
        bytes_E += bytes_V[blocks_ExBxT1[..., 1:]].sum(dim=(1, 2))
        if not goes_on():
            return None
    loss_E = ranks.sum(torch.stack(sums).cpu().double().sum(dim=0)) / n_windows
    return loss_E, loss_E * (n_windows * block_size / log(2)) / ranks.sum(bytes_E.cpu().double())
