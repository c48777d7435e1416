"""Sources that are driven by a finite chain of states, and how their text is drawn."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Iterator

import numpy as np
from numpy.typing import NDArray

from isoloss.data.sources import Floats, Ints, Source, random_bits
from isoloss.randomness import Purpose, stream_key

LANES, STEPS = 1024, 2048
"""A piece of text is this many stretches of so many symbols, drawn side by side."""


class ChainSource(Source):
    """A process whose next state and symbol depend on its state alone."""

    states: int

    @abstractmethod
    def advance(self, state_B: Ints, bits_B: Ints) -> Ints:
        """The next state of each of B copies of the process, by 32 random bits each."""

    @abstractmethod
    def emit(self, state_N: Ints, bits_N: Ints) -> NDArray[np.uint8]:
        """The symbol that belongs to having come to a state by these bits."""

    @abstractmethod
    def after(self, share_S: Floats) -> Floats:
        """The shares of the states a step after these, [S]."""

    def stationary(self) -> Floats:
        """The share of time that the chain spends in each state, [S]."""
        share_S = np.full(self.states, 1 / self.states)
        while True:
            after_S = self.after(share_S)
            if np.abs(after_S - share_S).sum() < 1e-13:
                return after_S
            share_S = after_S

    def text(self, seed: int, tokens: int) -> Iterator[NDArray[np.uint8]]:
        """As every source's. It begins in state 0, which is soon forgotten."""
        key, state = stream_key(seed, Purpose.TEXT), 0
        for first in range(0, tokens, LANES * STEPS):
            bits_N = random_bits(key, np.arange(first, first + LANES * STEPS))
            states_N = self._path(state, bits_N)
            state = int(states_N[-1])
            yield self.emit(states_N, bits_N)[: tokens - first]

    def _path(self, state: int, bits_N: Ints) -> Ints:
        """The states that the chain takes from one on by so many random bits, [N].

        It is taken by LANES stretches side by side, of which each begins as if the one before it ended in `state`. Then
        those that began in another state than their predecessor's last are taken again, up to where both agree: from
        there they go on alike, for their bits are the same.
        """
        bits_LxB = np.ascontiguousarray(bits_N.reshape(LANES, -1).T)
        states_LxB = np.full(bits_LxB.shape, -1, dtype=np.int64)
        begun_B = np.full(LANES, state)
        again = np.arange(LANES)
        while len(again):
            state_B = begun_B[again]
            for step, bits_B in enumerate(bits_LxB[:, again]):
                state_B = self.advance(state_B, bits_B)
                if (states_LxB[step, again] == state_B).all():
                    break
                states_LxB[step, again] = state_B
            ends_B = np.concatenate([[state], states_LxB[-1, :-1]])
            again, begun_B = np.flatnonzero(begun_B != ends_B), ends_B
        return states_LxB.T.reshape(-1)
