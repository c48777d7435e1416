"""Texts of sentences that are derived level by level from a start, each category by one of its rules (Booth 1969)."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

from isoloss.data.sources import Floats, Ints, Rows, probabilities, random_bits, subkey
from isoloss.randomness import Purpose, stream_key

SENTENCES = 1 << 12
"""So many at a time."""


@dataclass(frozen=True)
class Level:
    """The rules of the C categories of a level, R of each: which is taken how often, and what it gives.

    `rows_CxU` are U rules for each category, each equally likely. `parts_CxRxP` has up to P categories of the next
    level, or symbols on the last, from left to right, and −1 after them.
    """

    rows_CxU: Rows
    parts_CxRxP: Ints

    @cached_property
    def rule_CxR(self) -> Floats:
        """The probability of each rule of each category."""
        return probabilities(self.rows_CxU, self.parts_CxRxP.shape[1])

    @cached_property
    def length_CxR(self) -> Ints:
        """How many parts each rule gives."""
        return (self.parts_CxRxP >= 0).sum(axis=2)


def derived_text(levels: Sequence[Level], seed: int, tokens: int) -> Iterator[NDArray[np.uint8]]:
    """The first symbols of sentences that follow each other, in pieces; each begins with category 0 of the first level.

    The n-th use of a level takes its rule by the n-th bits of that level, so a longer text begins with the shorter.
    """
    key, used, made = stream_key(seed, Purpose.TEXT), [0] * len(levels), 0
    while made < tokens:
        part_N = np.zeros(SENTENCES, dtype=np.int64)
        for number, level in enumerate(levels):
            bits_N = random_bits(subkey(key, number), np.arange(used[number], used[number] + len(part_N)))
            used[number] += len(part_N)
            rule_N = level.rows_CxU[part_N, bits_N * level.rows_CxU.shape[1] >> 32]
            parts_NxP = level.parts_CxRxP[part_N, rule_N]
            part_N = parts_NxP[parts_NxP >= 0]
        yield part_N[: tokens - made].astype(np.uint8)
        made += len(part_N)


def derivation_entropy(levels: Sequence[Level]) -> float:
    """Entropy of a sentence's derivation over its expected length, in nats a symbol.

    That is the entropy rate where every text has one derivation, and else more than it.
    """
    uses_C, entropy = np.array([1.0]), 0.0
    for level, after in zip(levels, [*(len(each.rule_CxR) for each in levels[1:]), 1], strict=True):
        entropy -= float((uses_C[:, None] * level.rule_CxR * np.log(level.rule_CxR)).sum())
        given = (level.parts_CxRxP >= 0) * (uses_C[:, None] * level.rule_CxR)[:, :, None]
        uses_C = np.bincount(level.parts_CxRxP.reshape(-1) + 1, weights=given.reshape(-1), minlength=after + 1)[1:]
    return entropy / float(uses_C.sum())
