"""Batches: random contiguous blocks for training, drawn as a pure function of (seed, step), and evaluation windows."""

from __future__ import annotations

from dataclasses import dataclass
from itertools import pairwise
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from isoloss.randomness import Ints, Purpose, derived_key, generator, keyed_bits, mix, stream_key
from isoloss.study.mixtures import Parts, kept_windows

if TYPE_CHECKING:
    from isoloss.data.tokenizer import TokenArray

_PART = 1
"""The substream of a batch's by which the text of a mixture is drawn that a row begins in."""
_MASK, _RANGE = 0xFFFFFFFF, 1 << 32


@dataclass(frozen=True)
class Layout:
    """How a split is divided: where its documents end, the last at its own end, and the texts of a mixture.

    Each text of a mixture ends with one of the documents.
    """

    ends_D: NDArray[np.int64]
    parts: Parts | None = None

    @property
    def firsts_D(self) -> NDArray[np.int64]:
        """Where documents begin."""
        return self.ends_D - self.lengths_D

    @property
    def lengths_D(self) -> NDArray[np.int64]:
        """The length of each document in tokens."""
        return np.diff(self.ends_D, prepend=0)

    @property
    def texts(self) -> list[NDArray[np.int64]]:
        """Where the documents of each text end, from its beginning on."""
        ends_P = np.cumsum(self.parts.lengths) if self.parts else self.ends_D[-1:]
        firsts_P = [0, *ends_P[:-1].tolist()]
        of_texts = np.split(self.ends_D, np.searchsorted(self.ends_D, ends_P)[:-1] + 1)
        return [of_text - first for of_text, first in zip(of_texts, firsts_P, strict=True)]

    def by_text(self, count_D: NDArray[np.int64]) -> NDArray[np.int64]:
        """Sums over the documents of each text; of the whole split where nothing is mixed."""
        if self.parts is None:
            return np.array([count_D.sum()])
        last_P = np.searchsorted(self.ends_D, np.cumsum(self.parts.lengths))
        return np.diff(np.cumsum(count_D)[last_P], prepend=0)


def undivided(length: int) -> Layout:
    """The layout of a split that is one text and one document."""
    return Layout(np.array([length]))


@dataclass(frozen=True)
class Starts:
    """The places at which a block with its target can begin within a document, numbered from 0 on.

    There are `until_D` of them up to the end of each document, and `shift_D` is what to add to the number of one to
    have its place. A document that is no longer than a block has none. `n_texts` are in each text of a mixture, which
    is drawn by the values of 32 random bits from one of `edges` to the next.
    """

    until_D: NDArray[np.int64]
    shift_D: NDArray[np.int64]
    n_texts: tuple[int, ...]
    edges: tuple[int, ...]

    def drawn(self, bits: Ints, bits_of_text: Ints) -> Ints:
        """The number of a place by 32 random bits, and by as many its text; int64, of numpy or torch."""
        numbers: Any = 0
        before, drawn = 0, bits_of_text & _MASK
        for n, (low, high) in zip(self.n_texts, pairwise(self.edges), strict=True):
            numbers = numbers + ((drawn >= low) & (drawn < high)) * (before + ((bits & _MASK) * n >> 32))
            before += n
        return numbers

    def places(self, numbers: NDArray[np.int64]) -> NDArray[np.int64]:
        """The places with these numbers."""
        return numbers + self.shift_D[np.searchsorted(self.until_D, numbers, side="right")]


def possible_starts(layout: Layout, block: int) -> Starts:
    """Where blocks can begin in a split."""
    starts_D = np.maximum(layout.lengths_D - block, 0)
    until_D = np.cumsum(starts_D)
    shares = layout.parts.shares if layout.parts else (1.0,)
    edges = (0, *(round(_RANGE * sum(shares[:number])) for number in range(1, len(shares))), _RANGE)
    n_texts = tuple(layout.by_text(starts_D).tolist())
    return Starts(until_D, layout.firsts_D - (until_D - starts_D), n_texts, edges)


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
    layout: Layout | None = None,
) -> NDArray[np.int64]:
    """One micro-batch of `n_micro` at a step, shape [B, T+1]: a pure function of its arguments.

    `training.step` draws the same blocks on a device.
    """
    counter_B = mix(((step * n_micro + micro) * batch_size + np.arange(batch_size)).astype(np.int32))
    key_0, key_1 = stream_key(seed, Purpose.BATCH)[:, None]
    bits_B = keyed_bits(key_0, key_1, counter_B).astype(np.int64)
    of_text_B = keyed_bits(*text_key(key_0, key_1, np.ones_like(key_0)), counter_B).astype(np.int64)
    starts = possible_starts(layout or undivided(len(data_N)), block)
    return windows(data_N, starts.places(starts.drawn(bits_B, of_text_B)), block)


def text_key(key_0: Ints, key_1: Ints, ones: Ints) -> tuple[Ints, Ints]:
    """The key by which the text is drawn that each row begins in, from that of batches; all int32 of one shape."""
    return derived_key(key_0, key_1, ones * _PART)


def sampled_eval_starts(seed: int, step: int, split: int, n: int, layout: Layout, block: int) -> NDArray[np.int64]:
    """Starts of n random evaluation blocks, shape [n], independent of training's. `split` is 0 train, 1 val."""
    random, starts = generator(seed, Purpose.SAMPLED_EVAL, step, split), possible_starts(layout, block)
    if layout.parts is None:
        return starts.places(random.integers(0, starts.until_D[-1], size=n))
    bits_n, of_text_n = random.integers(0, _RANGE, size=(2, n))
    return starts.places(starts.drawn(bits_n, of_text_n))


def exact_eval_starts(
    layout: Layout, block: int, at_most_tokens: int | None = None, *, longer_than: int = 0
) -> NDArray[np.int64]:
    """Starts of non-overlapping windows over the documents `longer_than` a length, shape [n], without randomness.

    All (length - 1) // block windows of each document, from its beginning on, or as many evenly spaced ones as
    `at_most_tokens` allows (at least one); of a mixture as many as its texts allow without any being read beyond its
    share, to a window. Where an evaluation slides, these are the stretches of eval_stride tokens that count.
    """
    windows_D = (layout.lengths_D - 1) // block * (layout.lengths_D > longer_than)
    there = layout.by_text(windows_D).tolist()
    kept = kept_windows(there, layout.parts, None if at_most_tokens is None else at_most_tokens // block)
    before = np.cumsum([0, *there])
    number_N = np.concatenate([b + np.arange(k) * n // max(1, k) for b, n, k in zip(before, there, kept, strict=False)])
    until_D = np.cumsum(windows_D)
    document_N = np.searchsorted(until_D, number_N, side="right")
    return layout.firsts_D[document_N] + (number_N - (until_D - windows_D)[document_N]) * block


def sliding_starts(scored_starts: NDArray[np.int64], scored: int, block: int, layout: Layout) -> NDArray[np.int64]:
    """Starts of the windows of `block` tokens that end with given stretches of `scored` ones, in the shape of these.

    A stretch before which there are fewer than block - scored tokens lies inside the window at its document's
    beginning. That of a document no longer than a block reaches beyond it, where nothing counts.
    """
    first = layout.firsts_D[np.searchsorted(layout.ends_D, scored_starts, side="right")]
    return np.maximum(scored_starts + (scored - block), first)
