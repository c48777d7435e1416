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
    data_N: TokenArray, seed: int, step: int, micro: int, n_micro: int, batch_size: int, block: int
) -> NDArray[np.int64]:
    """One micro-batch of `n_micro` at a step, shape [B, T+1]: a pure function of its arguments.

    `training.step` draws the same blocks on a device.
    """
    counter_B = (step * n_micro + micro) * batch_size + np.arange(batch_size)
    key_0, key_1 = stream_key(seed, Purpose.BATCH)[:, None]
    bits_B = keyed_bits(key_0, key_1, mix(counter_B.astype(np.int32))).view(np.uint32).astype(np.int64)
    return windows(data_N, bits_B * n_starts(len(data_N), block) >> 32, block)


def n_starts(length: int, block: int) -> int:
    """Number of positions at which a block with its target can begin in a text of `length` tokens."""
    return length - block


def sampled_eval_starts(seed: int, step: int, split: int, n: int, length: int, block: int) -> NDArray[np.int64]:
    """Starts of n random evaluation blocks, shape [n], independent of training's. `split` is 0 train, 1 val."""
    return generator(seed, Purpose.SAMPLED_EVAL, step, split).integers(0, n_starts(length, block), size=n)


def exact_eval_starts(length: int, block: int, at_most_tokens: int | None = None) -> NDArray[np.int64]:
    """Starts of non-overlapping windows over a split, shape [n], without randomness.

    All (length - 1) // block windows, or as many evenly spaced ones as `at_most_tokens` allows (at least one). Where
    an evaluation slides, these are the stretches of eval_stride tokens that count.
    """
    n_windows = (length - 1) // block
    if at_most_tokens is None or n_windows * block <= at_most_tokens:
        return np.arange(n_windows, dtype=np.int64) * block
    kept = max(1, at_most_tokens // block)
    return (np.arange(kept, dtype=np.int64) * n_windows // kept) * block


def sliding_starts(scored_starts: NDArray[np.int64], scored: int, block: int) -> NDArray[np.int64]:
    """Starts of the windows of `block` tokens that end with given stretches of `scored` ones, in the shape of these.

    A stretch before which there are fewer than block - scored tokens lies inside the window at the split's beginning.
    """
    return np.maximum(scored_starts + (scored - block), 0)
