"""Random sources of symbols whose probabilities are known exactly: how they are made, and how their text is drawn.

All probabilities are multiples of 1/UNITS: a row of UNITS symbols stands for a distribution, and a symbol is drawn from
it by ten random bits. So sources and texts follow from integers alone, and are equal to the bit everywhere.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from isoloss.randomness import Purpose, derived_key, keyed_bits, mix, stream_key

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]
Rows = NDArray[np.uint8]
Key = NDArray[np.int32]

UNITS = 1024
LANES, STEPS = 1024, 2048
"""A piece of text is this many stretches of so many symbols, drawn side by side."""


@dataclass(frozen=True)
class EntropyRate:
    """Entropy of a symbol given all before it, in nats, with a 95% interval where it is an estimate."""

    value: float
    low: float
    high: float
    method: str


class Source(ABC):
    """A stationary random process over symbols 0 … symbols − 1, driven by a finite number of states."""

    symbols: int

    @abstractmethod
    def advance(self, state_B: Ints, bits_B: Ints) -> Ints:
        """The next state of each of B copies of the process, by 32 random bits each."""

    @abstractmethod
    def emit(self, state_N: Ints, bits_N: Ints) -> NDArray[np.uint8]:
        """The symbol that belongs to having come to a state by these bits."""

    @abstractmethod
    def losses(self, blocks_BxT1: Ints) -> Floats:
        """−log of the probability of each symbol of a block but the first, given those before it there: [B, T], nats.

        No predictor that sees the same has a lower expected loss.
        """

    @abstractmethod
    def entropy_rate(self) -> EntropyRate:
        """What `losses` are on average where all symbols before are seen."""


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


def text_of(source: Source, seed: int, tokens: int) -> Iterator[NDArray[np.uint8]]:
    """The first `tokens` symbols of a source, in pieces: one realisation, whose beginning in state 0 is soon forgotten.

    A longer text begins with the shorter.
    """
    key, state = stream_key(seed, Purpose.TEXT), 0
    for first in range(0, tokens, LANES * STEPS):
        bits_N = random_bits(key, np.arange(first, first + LANES * STEPS))
        states_N = _path(source, state, bits_N)
        state = int(states_N[-1])
        yield source.emit(states_N, bits_N)[: tokens - first]


def _path(source: Source, state: int, bits_N: Ints) -> Ints:
    """The states that a source takes from one on by so many random bits, [N].

    It is taken by LANES stretches side by side, of which each begins as if the one before it ended in `state`. Then
    those that began in another state than their predecessor's last are taken again, up to where both agree: from there
    they go on alike, for their bits are the same.
    """
    bits_LxB = np.ascontiguousarray(bits_N.reshape(LANES, -1).T)
    states_LxB = np.full(bits_LxB.shape, -1, dtype=np.int64)
    begun_B = np.full(LANES, state)
    again = np.arange(LANES)
    while len(again):
        state_B = begun_B[again]
        for step, bits_B in enumerate(bits_LxB[:, again]):
            state_B = source.advance(state_B, bits_B)
            if (states_LxB[step, again] == state_B).all():
                break
            states_LxB[step, again] = state_B
        ends_B = np.concatenate([[state], states_LxB[-1, :-1]])
        again, begun_B = np.flatnonzero(begun_B != ends_B), ends_B
    return states_LxB.T.reshape(-1)
