"""A Markov chain over symbols whose rows are drawn around those of shorter contexts, as in a language."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from isoloss.data.chains import ChainSource
from isoloss.data.sources import UNITS, EntropyRate, Floats, Ints, probabilities, random_rows, subkey, uniform_row
from isoloss.randomness import Purpose, stream_key
from isoloss.study.synthetic import Markov


class MarkovSource(ChainSource):
    """p(next | last k symbols): a row for each context, drawn around the row of the context without its oldest symbol.

    That is a hierarchical Dirichlet language model (Teh et al. 2006): every symbol of context tells something, the
    latest most. Without context the distribution is uniform over all distributions. A context is a number with the
    symbols as its digits, the latest last.
    """

    def __init__(self, stated: Markov) -> None:
        self.symbols, self._order = stated.symbols, stated.order
        self.states = stated.symbols**stated.order
        key, rows_CxU = stream_key(stated.seed, Purpose.SOURCE), uniform_row(self.symbols)
        for length in range(stated.order + 1):
            parents_CxU = np.tile(rows_CxU, (self.symbols, 1)) if length else rows_CxU
            concentration = stated.concentration if length else self.symbols
            rows_CxU = random_rows(parents_CxU, self.symbols, concentration, subkey(key, length))
        self._flat_rows = rows_CxU.reshape(-1)
        self._next_SxV = probabilities(rows_CxU, self.symbols)

    def advance(self, state_B: Ints, bits_B: Ints) -> Ints:
        """The next context of each copy."""
        drawn_B = self._flat_rows[state_B * UNITS + (bits_B >> 22)]
        return (state_B * self.symbols + drawn_B) % self.states

    def emit(self, state_N: Ints, bits_N: Ints) -> NDArray[np.uint8]:
        """The latest symbol of each context."""
        return (state_N % self.symbols).astype(np.uint8)

    def after(self, share_S: Floats) -> Floats:
        """By the rows of contexts, over the oldest symbol."""
        joint_SxV = share_S[:, None] * self._next_SxV
        return joint_SxV.reshape(self.symbols, -1).sum(axis=0)

    def entropy_rate(self) -> EntropyRate:
        """Σ over contexts of their share times their row's entropy, exact to rounding."""
        row_S = -(self._next_SxV * np.log(self._next_SxV)).sum(axis=1)  # rows have no zeros
        rate = float(self.stationary() @ row_S)
        return EntropyRate(rate, rate, rate, "exact")

    def losses(self, blocks_BxT1: Ints) -> Floats:
        """By a context's row where a block shows all of it; before that by the mean over what it does not show."""
        losses_BxT = np.empty((len(blocks_BxT1), blocks_BxT1.shape[1] - 1))
        share_S, seen_B = self.stationary(), blocks_BxT1[:, 0]
        for place, symbol_B in enumerate(blocks_BxT1[:, 1:].T):
            length = place + 1
            if length < self._order:
                shown_S = share_S.reshape(-1, self.symbols**length).sum(axis=0)
                longer_S = share_S.reshape(-1, self.symbols ** (length + 1)).sum(axis=0)
                p_B = longer_S[seen_B * self.symbols + symbol_B] / shown_S[seen_B]
            else:
                p_B = self._next_SxV[seen_B, symbol_B]
            losses_BxT[:, place] = -np.log(p_B)
            seen_B = (seen_B * self.symbols + symbol_B) % self.states
        return losses_BxT
