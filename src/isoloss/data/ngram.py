"""An n-gram model of bytes with modified Kneser–Ney smoothing, interpolated (Chen & Goodman 1999, section 3)."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Bytes = NDArray[np.uint8]
Codes = NDArray[np.uint64]
Floats = NDArray[np.float64]
Counts = NDArray[np.int64]

MAX_ORDER = 8
"""So many bytes are one 64-bit number, by which n-grams are sorted and found: the oldest byte is the highest."""
MAX_BYTES = 1 << 23
"""So much is read of the end of training and of the beginning of validation: at most some 900 MB of memory."""
MIN_BYTES = 10 * MAX_ORDER
PIECE_BYTES = 1 << 20
FALLBACK = (0.0, 0.5, 1.0, 1.5)
"""Discounts where counts of counts give none: those of `lmplz --discount_fallback` of KenLM (Heafield et al. 2013)."""


@dataclass(frozen=True)
class NgramLoss:
    """What an n-gram model of `order` bytes that was trained on the training split takes on validation."""

    order: int
    bits_per_byte: float


def ngram_loss(train_N: Bytes, val_N: Bytes) -> NgramLoss | None:
    """The loss of the order, 1 to MAX_ORDER, that is best for the last tenth of training once the rest is read.

    Validation decides nothing and is not learnt from; its first bytes are predicted from the last of training. None of
    a split that is too short.
    """
    train_N, val_N = train_N[-MAX_BYTES:], val_N[:MAX_BYTES]
    if len(train_N) < MIN_BYTES or not len(val_N):
        return None
    held_out = len(train_N) // 10
    order = 1 + int(np.argmin([*bits_by_order(train_N[:-held_out], train_N[-held_out:])]))
    return NgramLoss(order, [*bits_by_order(train_N, val_N)][order - 1])


def bits_by_order(train_N: Bytes, text_N: Bytes) -> Iterator[float]:
    """Mean bits per byte of a text that follows a training text, by models of orders 1, 2, … MAX_ORDER."""
    for p_N in probabilities(train_N, text_N):
        yield float(-np.log2(p_N).mean())


def probabilities(train_N: Bytes, text_N: Bytes) -> Iterator[Floats]:
    """Probability of each byte of a text, given those before it, by models of orders 1, 2, … MAX_ORDER, [N].

    All models share their lower levels, in which an n-gram counts how many different bytes stand before it; the highest
    of each has plain counts.
    """
    seen_N = np.concatenate([train_N[1 - MAX_ORDER :], text_N])
    p_N = np.full(len(text_N), 1 / 256)
    counted = _counted(_codes(train_N, 1))
    for order in range(1, MAX_ORDER + 1):
        yield _Level(*counted).mixed_into(p_N, seen_N, order)
        if order < MAX_ORDER:
            counted = longer_G, _ = _counted(_codes(train_N, order + 1))
            p_N = _Level(*_counted(longer_G & np.uint64((1 << 8 * order) - 1))).mixed_into(p_N, seen_N, order)


class _Level:
    """Discounted counts of all n-grams of one order, and what of each context's total is left to lower orders."""

    def __init__(self, ngrams_G: Codes, counts_G: Counts) -> None:
        discount_G = discounts(counts_G)[np.minimum(counts_G, 3)]
        self._ngrams_G, self._left_G = ngrams_G, counts_G - discount_G
        self._contexts_C, first_C = np.unique(ngrams_G >> np.uint64(8), return_index=True)
        self._totals_C, self._taken_C = (np.add.reduceat(each_G, first_C) for each_G in (counts_G, discount_G))

    def mixed_into(self, lower_N: Floats, seen_N: Bytes, order: int) -> Floats:
        """Probabilities of the last N bytes, from those of the order below; these stay where a context is new."""
        p_N = lower_N.copy()
        before = len(seen_N) - len(p_N)
        for first in range(0, len(p_N), PIECE_BYTES):
            piece_P = p_N[first : first + PIECE_BYTES]
            codes_P = _codes(seen_N[before + first + 1 - order : before + first + len(piece_P)], order)
            ngram_P, known_P = _places(self._ngrams_G, codes_P)
            context_P, seen_P = _places(self._contexts_C, codes_P >> np.uint64(8))
            mixed_P = np.where(known_P, self._left_G[ngram_P], 0) + self._taken_C[context_P] * piece_P
            piece_P[seen_P] = (mixed_P / self._totals_C[context_P])[seen_P]
        return p_N


def discounts(counts_G: Counts) -> Floats:
    """What is taken from a count of 0, 1, 2, and 3 or more, by how many n-grams occur once to four times, [4].

    Equation 26 of Chen & Goodman 1999. FALLBACK where some never occur so often, or more than a count would be taken.
    """
    n = [int((counts_G == times).sum()) for times in range(5)]
    if min(n[1:]):
        share = n[1] / (n[1] + 2 * n[2])
        found = [times - (times + 1) * share * n[times + 1] / n[times] for times in (1, 2, 3)]
        if all(0 < each <= times for times, each in enumerate(found, 1)):
            return np.array([0.0, *found])
    return np.array(FALLBACK)


def _codes(text_N: Bytes, order: int) -> Codes:
    """All n-grams of a text as numbers, [N − order + 1]."""
    n = len(text_N) - order + 1
    codes_N = np.zeros(n, dtype=np.uint64)
    for place in range(order):
        codes_N = codes_N << np.uint64(8) | text_N[place : place + n]
    return codes_N


def _counted(codes_N: Codes) -> tuple[Codes, Counts]:
    """The distinct ones, ascending, and how often each occurs."""
    return np.unique(codes_N, return_counts=True)


def _places(sorted_G: Codes, codes_P: Codes) -> tuple[NDArray[np.intp], NDArray[np.bool_]]:
    """Where codes stand among sorted ones, or some place of a code that is not there, and whether it is there."""
    place_P = np.minimum(np.searchsorted(sorted_G, codes_P), len(sorted_G) - 1)
    return place_P, sorted_G[place_P] == codes_P
