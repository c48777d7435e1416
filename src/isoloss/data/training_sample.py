"""What the merges of a byte-level BPE are learnt from: the training split, of a long one stretches drawn by a seed."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence

import numpy as np

from isoloss.randomness import Purpose, derived_key, keyed_bits, stream_key

MAX_CHARACTERS = 100_000_000
"""Merges are learnt from no more; of several texts from an equal part of it each."""
STRETCH_CHARACTERS = 1 << 16
SEED = 1
"""Part of what a tokenizer is, as `TRAINING_RULE` is."""


def training_sample(pieces: Iterable[tuple[int, str]], lengths: Sequence[int]) -> Iterator[str]:
    """What merges are learnt from, of texts with training splits of these lengths in characters.

    `pieces` are those of all texts in order, each with its text's number. Stretches of a longer split are drawn without
    replacement, so that its end counts as much as its beginning.
    """
    most, places = MAX_CHARACTERS // len(lengths), [0] * len(lengths)
    chosen = [_chosen(length, most, number) for number, length in enumerate(lengths)]
    for number, piece in pieces:
        if number >= len(lengths):
            return
        first = places[number]
        places[number] = end = first + len(piece)
        for stretch in range(first // STRETCH_CHARACTERS, -(-end // STRETCH_CHARACTERS)):
            if stretch in chosen[number]:
                start = stretch * STRETCH_CHARACTERS
                stop = min(start + STRETCH_CHARACTERS, lengths[number])
                yield piece[max(0, start - first) : max(0, stop - first)]


def _chosen(length: int, most: int, number: int) -> set[int] | range:
    """The stretches of a text that are read: all, or whole ones by the order of random bits."""
    if length <= most:
        return range(-(-length // STRETCH_CHARACTERS))
    key_0, key_1 = stream_key(SEED, Purpose.MERGES)[:, None]
    key_0, key_1 = derived_key(key_0, key_1, np.array([number], np.int32))
    bits_S = keyed_bits(key_0, key_1, np.arange(max(1, length // STRETCH_CHARACTERS), dtype=np.int32))
    return {*np.argsort(bits_S, kind="stable")[: max(1, most // STRETCH_CHARACTERS)].tolist()}
