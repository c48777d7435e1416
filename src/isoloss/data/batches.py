"""Batches: random contiguous blocks for training, drawn as a pure function of (seed, step), and evaluation windows."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from isoloss.randomness import Purpose, generator, keyed_bits, mix, stream_key

if TYPE_CHECKING:
    from isoloss.data.tokenizer import TokenArray


def windows(data_N: TokenArray, starts_B: NDArray[np.int64], block: int) -> NDArray[np.int64]:
    """Blocks of block + 1 tokens at the given starts, shape [B, T+1]: inputs are [:, :-1], targets [:, 1:]."""
    return data_N[starts_B[:, None] + np.arange(block + 1)].astype(np.int64)


def train_batch(
    data_N: TokenArray,
    seed: int,
    step: int,
    micro: int,
    n_micro: int,
    batch_size: int,
    block: int,
    ends_D: NDArray[np.int64] | None = None,
) -> NDArray[np.int64]:
    """One micro-batch of `n_micro` at a step, shape [B, T+1]: a pure function of its arguments.

    `training.step` draws the same blocks on a device. `ends_D` is where documents end; blocks cross no end.
    """
    ends_D = np.array([len(data_N)]) if ends_D is None else ends_D
    counter_B = (step * n_micro + micro) * batch_size + np.arange(batch_size)
    key_0, key_1 = stream_key(seed, Purpose.BATCH)[:, None]
    bits_B = keyed_bits(key_0, key_1, mix(counter_B.astype(np.int32))).view(np.uint32).astype(np.int64)
    until_D, shift_D = possible_starts(ends_D, block)
    number_B = bits_B * until_D[-1] >> 32
    return windows(data_N, number_B + shift_D[np.searchsorted(until_D, number_B, side="right")], block)


def possible_starts(ends_D: NDArray[np.int64], block: int) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """The positions at which a block with its target can begin within a document, numbered from 0 on.

    Of documents that end at `ends_D`: the number of such positions up to the end of each, and what to add to the number
    of one to have the position. A document that is no longer than a block has none.
    """
    lengths_D = np.diff(ends_D, prepend=0)
    starts_D = np.maximum(lengths_D - block, 0)
    until_D = np.cumsum(starts_D)
    return until_D, (ends_D - lengths_D) - (until_D - starts_D)


def sampled_eval_starts(
    seed: int, step: int, split: int, n: int, ends_D: NDArray[np.int64], block: int
) -> NDArray[np.int64]:
    """Starts of n random evaluation blocks, shape [n], independent of training's. `split` is 0 train, 1 val."""
    until_D, shift_D = possible_starts(ends_D, block)
    number_N = generator(seed, Purpose.SAMPLED_EVAL, step, split).integers(0, until_D[-1], size=n)
    return number_N + shift_D[np.searchsorted(until_D, number_N, side="right")]


def exact_eval_starts(ends_D: NDArray[np.int64], block: int, at_most_tokens: int | None = None) -> NDArray[np.int64]:
    """Starts of non-overlapping windows over the documents of a split, shape [n], without randomness.

    All (length - 1) // block windows of each document, from its beginning on, or as many evenly spaced ones as
    `at_most_tokens` allows (at least one). Where an evaluation slides, these are the stretches of eval_stride tokens
    that count.
    """
    lengths_D = np.diff(ends_D, prepend=0)
    windows_D = (lengths_D - 1) // block
    n_windows = int(windows_D.sum())
    number_N = np.arange(n_windows)
    if at_most_tokens is not None and n_windows * block > at_most_tokens:
        kept = max(1, at_most_tokens // block)
        number_N = np.arange(kept) * n_windows // kept
    until_D = np.cumsum(windows_D)
    document_N = np.searchsorted(until_D, number_N, side="right")
    return (ends_D - lengths_D)[document_N] + (number_N - (until_D - windows_D)[document_N]) * block


def sliding_starts(scored_starts: NDArray[np.int64], scored: int, block: int) -> NDArray[np.int64]:
    """Starts of the windows of `block` tokens that end with given stretches of `scored` ones, in the shape of these.

    A stretch before which there are fewer than block - scored tokens lies inside the window at the split's beginning.
    """
    return np.maximum(scored_starts + (scored - block), 0)
