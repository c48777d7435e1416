"""Batches: random contiguous blocks for training, drawn as a pure function of (seed, step), and evaluation windows."""

from __future__ import annotations

from itertools import pairwise
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from isoloss.randomness import Ints, Purpose, derived_key, generator, keyed_bits, mix, stream_key
from isoloss.study.mixtures import Parts

if TYPE_CHECKING:
    from isoloss.data.tokenizer import TokenArray

_PART = 1
"""The substream of a batch's by which the text of a mixture is drawn that a row begins in."""


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
    parts: Parts | None = None,
) -> NDArray[np.int64]:
    """One micro-batch of `n_micro` at a step, shape [B, T+1]: a pure function of its arguments.

    `training.step` draws the same blocks on a device. Of a mixture `parts` are those of the data.
    """
    counter_B = ((step * n_micro + micro) * batch_size + np.arange(batch_size)).astype(np.int32)
    key_0, key_1 = stream_key(seed, Purpose.BATCH)[:, None]
    bits_B = keyed_bits(key_0, key_1, mix(counter_B)).astype(np.int64)
    starts_B = block_starts(bits_B, len(data_N), block)
    if parts:
        bits_of_part_B = keyed_bits(*part_key(key_0, key_1, np.ones_like(key_0)), mix(counter_B)).astype(np.int64)
        starts_B = mixed_starts(bits_B, bits_of_part_B, parts, block)
    return windows(data_N, starts_B, block)


def part_key(key_0: Ints, key_1: Ints, ones: Ints) -> tuple[Ints, Ints]:
    """The key by which the text is drawn that each row begins in, from that of batches; all int32 of one shape."""
    return derived_key(key_0, key_1, ones * _PART)


def block_starts(bits: Ints, length: int, block: int) -> Ints:
    """Starts of blocks in a text of `length` tokens, by 32 random bits each; int64."""
    return (bits & 0xFFFFFFFF) * n_starts(length, block) >> 32


def mixed_starts(bits: Ints, bits_of_part: Ints, parts: Parts, block: int) -> Ints:
    """The same in texts that lie one behind the other: of 2^32 values of `bits_of_part` each has its share."""
    starts: Any = 0
    offset, drawn = 0, bits_of_part & 0xFFFFFFFF
    edges = [0, *(round(2**32 * sum(parts.shares[:number])) for number in range(1, len(parts.shares))), 2**32]
    for length, (low, high) in zip(parts.lengths, pairwise(edges), strict=True):
        starts = starts + ((drawn >= low) & (drawn < high)) * (offset + block_starts(bits, length, block))
        offset += length
    return starts


def n_starts(length: int, block: int) -> int:
    """Number of positions at which a block with its target can begin in a text of `length` tokens."""
    return length - block


def sampled_eval_starts(
    seed: int, step: int, split: int, n: int, length: int, block: int, parts: Parts | None = None
) -> NDArray[np.int64]:
    """Starts of n random evaluation blocks, shape [n], independent of training's. `split` is 0 train, 1 val.

    Of a mixture they begin in its `parts` by their shares.
    """
    random = generator(seed, Purpose.SAMPLED_EVAL, step, split)
    if parts:
        bits_n, bits_of_part_n = random.integers(0, 2**32, size=(2, n))
        return mixed_starts(bits_n, bits_of_part_n, parts, block)
    return random.integers(0, n_starts(length, block), size=n)


def exact_eval_starts(
    length: int, block: int, at_most_tokens: int | None = None, parts: Parts | None = None
) -> NDArray[np.int64]:
    """Starts of non-overlapping windows over a split, shape [n], without randomness.

    All (length - 1) // block windows, or as many evenly spaced ones as `at_most_tokens` allows (at least one). Of a
    mixture as many as its `parts` allow without any being read beyond its share, to a window.
    """
    if parts:
        return _exact_starts_of(parts, block, at_most_tokens)
    n_windows = (length - 1) // block
    if at_most_tokens is None or n_windows * block <= at_most_tokens:
        return np.arange(n_windows, dtype=np.int64) * block
    kept = max(1, at_most_tokens // block)
    return (np.arange(kept, dtype=np.int64) * n_windows // kept) * block


def _exact_starts_of(parts: Parts, block: int, at_most_tokens: int | None) -> NDArray[np.int64]:
    there = [(length - 1) // block for length in parts.lengths]
    total = min(int(windows / share + 1e-9) for windows, share in zip(there, parts.shares, strict=True))
    if at_most_tokens is not None:
        total = min(total, at_most_tokens // block)
    total = max(1, total)
    edges = [round(total * sum(parts.shares[:number])) for number in range(len(parts.shares))]
    counts = np.diff([*edges, total])
    found: list[NDArray[np.int64]] = []
    for offset, n_windows, count in zip(np.cumsum([0, *parts.lengths]), there, counts, strict=False):
        kept = min(int(count), n_windows)
        found.append(offset + np.arange(kept, dtype=np.int64) * n_windows // max(1, kept) * block)
    return np.concatenate(found)
