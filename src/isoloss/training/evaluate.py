"""Evaluation: exact (all of val, a fixed part of train), sliding over the same, or sampled as nanoGPT does.

Never touches training.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import pairwise
from math import isfinite, log

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from isoloss.data.batches import Layout, exact_eval_starts, sampled_eval_starts, sliding_starts
from isoloss.data.token_files import Tokens
from isoloss.model import gpt
from isoloss.model.parameters import Parameters
from isoloss.study.config import RunConfig
from isoloss.training.distributed import Ranks
from isoloss.training.state import StackState
from isoloss.training.step import on_device, tokens_at

MAX_CPU_CHUNK_TOKENS = 2048
"""Tokens of a member in one forward pass on a CPU: enough for the GEMMs and few enough for the cache.

Of a member, not of the stack: the rounding of a mean must not depend on the stack's width.
"""

MAX_ACCELERATOR_CHUNK_BYTES = 2 << 30
"""Estimated memory of the widest arrays of one forward pass on an accelerator."""


class DeviceTokens:
    """Both splits of a text on the training device, where documents end, and how many bytes each token stands for."""

    def __init__(self, tokens: Tokens, device: torch.device) -> None:
        self.train_N = on_device(tokens.train_N, device)
        self.val_N = on_device(tokens.val_N, device)
        self.layouts = tokens.layouts
        self.bytes_V = torch.from_numpy(tokens.tokenizer.bytes_of_tokens()).to(device)


@dataclass(frozen=True)
class Evaluated:
    """What one member was evaluated at: losses in nats a token, and of the validation split in bits a byte.

    Bits are those of the targets that were scored, over the bytes of UTF-8 that these targets stand for.
    """

    train_loss: float
    val_loss: float
    val_bpb: float
    val_loss_by_position: dict[str, float | None] | None = None
    """Mean losses of targets by how many tokens of their window stand before them, where that was asked for.

    None, too, where windows slide over documents that are no longer than a window.
    The keys are the most tokens of each bin: 1, 2, 4 (3 or 4 tokens), 8 and so on to block_size.
    """


def evaluate(
    stack: StackState,
    texts: DeviceTokens,
    ranks: Ranks,
    goes_on: Callable[[], bool] = lambda: True,
    *,
    by_position: bool = False,
) -> list[Evaluated] | None:
    """The losses of every member at the stack's step.

    `goes_on` is asked after each chunk; where it says no, the evaluation is given up and there are no losses.
    """
    return _evaluated(stack.parameters, stack.members, stack.step, texts, ranks, goes_on, by_position=by_position)


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
    *,
    by_position: bool = False,
) -> list[Evaluated] | None:
    size = len(members), members[0].block_size
    by_position = by_position and _within_documents(members[0], texts.layouts[1])
    at_positions_ExT = torch.zeros(size, device=texts.val_N.device) if by_position else None
    train = split_loss(parameters, members, step, texts, 0, ranks, goes_on)
    val = train and split_loss(parameters, members, step, texts, 1, ranks, goes_on, at_positions_ExT)
    if train is None or val is None:
        return None
    binned = [None] * len(members) if at_positions_ExT is None else _binned(ranks.sum(at_positions_ExT.cpu().double()))
    return [*map(Evaluated, train[0].tolist(), val[0].tolist(), val[1].tolist(), binned)]


def _within_documents(config: RunConfig, layout: Layout) -> bool:
    """Whether no window reaches beyond the end of its document."""
    read_D = layout.lengths_D[layout.lengths_D > config.eval_scored]
    return bool((read_D > config.block_size).all())


def _binned(at_positions_ExT: Tensor) -> list[dict[str, float | None]]:
    """Means over bins of positions that double; None where one is not finite."""
    block = at_positions_ExT.shape[1]
    ends = [0, *(2**k for k in range(block.bit_length()) if 2**k < block), block]
    return [
        {
            str(last): mean if isfinite(mean := at_T[first:last].mean().item()) else None
            for first, last in pairwise(ends)
        }
        for at_T in at_positions_ExT
    ]


def split_loss(
    parameters: Parameters,
    members: Sequence[RunConfig],
    step: int,
    texts: DeviceTokens,
    split: int,
    ranks: Ranks,
    goes_on: Callable[[], bool],
    at_positions_ExT: Tensor | None = None,
) -> tuple[Tensor, Tensor] | None:
    """Every member's loss on the training split, 0, or that of validation, 1, in nats a token and in bits a byte.

    Both are fp64 of shape [E]. None if given up. `at_positions_ExT` becomes this rank's share of the mean losses at
    each position of the windows, in nats: of all that are read, where they overlap too.
    """
    text_N = texts.val_N if split else texts.train_N
    layout = texts.layouts[split]
    starts = np.stack([_starts(config, step, split, layout) for config in members])
    return _mean_loss(parameters, members, text_N, layout, starts, texts.bytes_V, ranks, goes_on, at_positions_ExT)


def _starts(config: RunConfig, step: int, split: int, layout: Layout) -> NDArray[np.int64]:
    """Where the stretches of `eval_scored` tokens begin that count: each is a window, or the end of one."""
    if config.eval == "sampled":
        n = config.eval_iters * config.batch_size
        return sampled_eval_starts(config.seed_of_data, step, split, n, layout, config.block_size)
    if split:
        return exact_eval_starts(layout, config.eval_scored, config.eval_val_tokens or None)
    at_most = config.eval_train_tokens or None
    return exact_eval_starts(layout, config.eval_scored, at_most, longer_than=config.block_size)  # what is trained on


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
    layout: Layout,
    scored_starts_ExB: NDArray[np.int64],
    bytes_V: Tensor,
    ranks: Ranks,
    goes_on: Callable[[], bool],
    at_positions_ExT: Tensor | None,
) -> tuple[Tensor, Tensor] | None:
    """Mean loss over what counts in nats a token and in bits a byte, fp64 of shape [E]; None if given up.

    The ranks share the windows between them.
    """
    n_windows, block_size, scored = scored_starts_ExB.shape[1], members[0].block_size, members[0].eval_scored
    device = text_N.device
    chunk = max(1, _chunk_tokens(members, device) // block_size)
    starts_ExB = sliding_starts(scored_starts_ExB, scored, block_size, layout)
    mine_2xExB = np.stack([starts_ExB, scored_starts_ExB - starts_ExB])[:, :, ranks.rank :: ranks.world]
    at_2xExB = torch.from_numpy(mine_2xExB).to(device)
    sums = [torch.zeros(len(members), device=device)]
    bytes_E = torch.zeros(len(members), dtype=torch.int64, device=device)
    for first in range(0, at_2xExB.shape[2], chunk):
        part_ExB, before_ExB = at_2xExB[:, :, first : first + chunk]
        places_ExBxT1 = part_ExB[..., None] + torch.arange(block_size + 1, device=device)
        blocks_ExBxT1 = tokens_at(text_N, places_ExBxT1.clamp_(max=len(text_N) - 1))  # beyond it nothing counts
        targets_ExBxS = blocks_ExBxT1[..., 1:]
        scored_ExBxS = None
        if scored < block_size:
            scored_ExBxS = before_ExB[..., None] + torch.arange(scored, device=device)
            targets_ExBxS = targets_ExBxS.gather(2, scored_ExBxS)
        sums.append(gpt.loss(parameters, members, blocks_ExBxT1, scored_ExBxS, at_positions_ExT) * part_ExB.shape[1])
        bytes_E += bytes_V[targets_ExBxS].sum(dim=(1, 2))
        if not goes_on():
            return None
    if at_positions_ExT is not None:
        at_positions_ExT /= n_windows
    loss_E = ranks.sum(torch.stack(sums).cpu().double().sum(dim=0)) / n_windows
    return loss_E, loss_E * (n_windows * scored / log(2)) / ranks.sum(bytes_E.cpu().double())
