"""Random sources of symbols whose probabilities are known exactly: what each has, and what they are made of.

A row of UNITS symbols stands for a distribution whose probabilities are multiples of 1/UNITS, and a symbol is drawn
from it by ten random bits. So sources and texts follow from integers alone, and are equal to the bit everywhere.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from isoloss.randomness import derived_key, keyed_bits, mix

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]
Rows = NDArray[np.uint8]
Key = NDArray[np.int32]

UNITS = 1024
MAX_NUMBERS = 1 << 22
"""32 MiB of an array."""


@dataclass(frozen=True)
class EntropyRate:
    """Entropy of a symbol given all before it, in nats, with a 95% interval where it is an estimate."""

    value: float
    low: float
    high: float
    method: str


class Source(ABC):
    """A stationary random process over symbols 0 … symbols − 1."""

    symbols: int

    @abstractmethod
    def text(self, seed: int, tokens: int) -> Iterator[NDArray[np.uint8]]:
        """The first `tokens` symbols of one realisation, in pieces. A longer text begins with the shorter."""

    @abstractmethod
    def losses(self, blocks_BxT1: Ints) -> Floats:
        """−log of the probability of each symbol of a block but the first, given those before it there: [B, T], nats.

        No predictor that sees the same has a lower expected loss.
        """

    @abstractmethod
    def entropy_rate(self) -> EntropyRate:
        """What `losses` are on average where all symbols before are seen."""


def by_parts(losses: Callable[[Ints], Floats], blocks_BxT1: Ints, numbers_a_block: int) -> Floats:
    """The losses of blocks, as many at a time as keep at most MAX_NUMBERS numbers."""
    at_once = max(1, MAX_NUMBERS // numbers_a_block)
    parts = (blocks_BxT1[first : first + at_once] for first in range(0, len(blocks_BxT1), at_once))
    return np.concatenate([losses(part_PxT1) for part_PxT1 in parts])


def random_rows(parents_CxU: Rows, symbols: int, concentration: float, key: Key) -> Rows:
    """A random distribution for each parent, around it: rows of UNITS symbols, [C, U].

    A row has every symbol once; the rest is a Pólya urn (Blackwell & MacQueen 1973), whose shares are those of a
    Dirichlet process of this concentration around the parent.
    """
    drawn_UxC = np.empty((UNITS - symbols, len(parents_CxU)), dtype=np.uint8)
    row_C = np.arange(len(parents_CxU))
    for place in range(len(drawn_UxC)):
        new_C = random_bits(subkey(key, 2 * place), row_C) < concentration / (concentration + place) * 2**32
        which_C = random_bits(subkey(key, 2 * place + 1), row_C)
        of_parent_C = parents_CxU[row_C, which_C * UNITS >> 32]
        drawn_UxC[place] = np.where(new_C, of_parent_C, drawn_UxC[which_C * place >> 32, row_C])
    every_symbol = np.broadcast_to(np.arange(symbols, dtype=np.uint8)[:, None], (symbols, len(row_C)))
    return np.ascontiguousarray(np.concatenate([every_symbol, drawn_UxC]).T)


def uniform_row(symbols: int) -> Rows:
    """The parent of rows that are around nothing in particular, [1, U]."""
    return np.array([np.arange(UNITS) * symbols // UNITS], dtype=np.uint8)


def probabilities(rows_CxU: Rows, symbols: int) -> Floats:
    """The distribution that each row stands for, [C, symbols]."""
    return np.stack([np.bincount(row_U, minlength=symbols) for row_U in rows_CxU]) / UNITS


def subkey(key: Key, number: int) -> Key:
    """The key of a substream."""
    return np.concatenate(derived_key(key[:1], key[1:], np.array([number], dtype=np.int32)))


def random_bits(key: Key, counter_N: Ints) -> Ints:
    """32 random bits for each counter, as a number from 0 to 2^32 − 1."""
    return keyed_bits(key[:1], key[1:], mix(counter_N.astype(np.int32))).view(np.uint32).astype(np.int64)
