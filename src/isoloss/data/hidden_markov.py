"""A hidden Markov source: a chain of states that is not seen, each of which emits a symbol."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray
from scipy.sparse import csr_array
from scipy.special import entr

from isoloss.data.chains import ChainSource
from isoloss.data.sources import (
    UNITS,
    EntropyRate,
    Floats,
    Ints,
    Source,
    probabilities,
    random_rows,
    subkey,
    uniform_row,
)
from isoloss.randomness import Purpose, stream_key
from isoloss.study.synthetic import HiddenMarkov

SAMPLE, WINDOW = 1 << 19, 512
"""Symbols from which the entropy rate is estimated, and how they are cut: the second half of each window counts."""
MAX_JOINT = 1 << 22
"""Joint probabilities of contexts and states that bounds of the entropy rate are computed from."""


class HiddenMarkovSource(ChainSource):
    """p(state | last state) and p(symbol | state), every row drawn around the uniform distribution."""

    def __init__(self, stated: HiddenMarkov) -> None:
        self.symbols, self.states, self._seed = stated.symbols, stated.states, stated.seed
        key = stream_key(stated.seed, Purpose.SOURCE)

        transitions_SxU, emissions_SxU = (
            random_rows(np.repeat(uniform_row(values), stated.states, 0), values, stated.concentration, subkey(key, n))
            for n, values in enumerate((stated.states, stated.symbols))
        )
        self._transitions, self._emissions = transitions_SxU.reshape(-1), emissions_SxU.reshape(-1)
        self._next_SxS = probabilities(transitions_SxU, stated.states)
        self._symbol_SxV = probabilities(emissions_SxU, stated.symbols)

    def advance(self, state_B: Ints, bits_B: Ints) -> Ints:
        """The next hidden state of each copy."""
        return self._transitions[state_B * UNITS + (bits_B >> 22)].astype(np.int64)

    def emit(self, state_N: Ints, bits_N: Ints) -> NDArray[np.uint8]:
        """A symbol of each state, by other bits than the state."""
        return self._emissions[state_N * UNITS + (bits_N >> 12 & UNITS - 1)]

    def after(self, share_S: Floats) -> Floats:
        """By the transitions."""
        return share_S @ self._next_SxS

    def losses(self, blocks_BxT1: Ints) -> Floats:
        """By the forward algorithm from the stationary distribution on."""
        return forward_losses(blocks_BxT1, self.stationary(), self._next_SxS, self._symbol_SxV)

    def entropy_rate(self) -> EntropyRate:
        """Estimated, and within exact bounds."""
        found, (least, most) = forward_entropy_rate(self, self._seed, SAMPLE), self.entropy_bounds()
        value, low, high = np.clip([found.value, found.low, found.high], least, most).tolist()
        return EntropyRate(value, low, high, f"{found.method}; exact bounds {least:.4f} and {most:.4f}")

    def entropy_bounds(self) -> tuple[float, float]:
        """The entropy of a symbol given the few before it, with and without the state at their beginning, in nats.

        The rate lies between them (Cover & Thomas 2006, theorem 4.5.1).
        """
        share_S = self.stationary()
        return self._entropy_after(np.diag(share_S)), self._entropy_after(share_S[None])

    def _entropy_after(self, joint_CxS: Floats) -> float:
        """Of a symbol given a context and as many symbols after it as MAX_JOINT allows.

        `joint_CxS` are the probabilities of contexts and the states after them.
        """
        while joint_CxS.size * self.symbols <= MAX_JOINT:
            joint_CxVxS = joint_CxS[:, None] * self._symbol_SxV.T
            joint_CxS = joint_CxVxS.reshape(-1, self.states) @ self._next_SxS
        joint_CxV = joint_CxS @ self._symbol_SxV
        return float(entr(joint_CxV).sum() - entr(joint_CxV.sum(axis=1)).sum())


def forward_losses(
    blocks_BxT1: Ints, share_S: Floats, next_SxS: Floats | csr_array[np.float64], symbol_SxV: Floats
) -> Floats:
    """Losses of hidden states that begin by their shares, by the forward algorithm (Rabiner 1989), [B, T]."""
    losses_BxT1 = np.empty(blocks_BxT1.shape)
    belief_BxS = np.broadcast_to(share_S, (len(blocks_BxT1), len(share_S)))
    for place, symbol_B in enumerate(blocks_BxT1.T):
        joint_BxS = belief_BxS * symbol_SxV[:, symbol_B].T
        p_B = joint_BxS.sum(axis=1)
        losses_BxT1[:, place] = -np.log(p_B)
        belief_BxS = joint_BxS / p_B[:, None] @ next_SxS
    return losses_BxT1[:, 1:]


def forward_entropy_rate(source: Source, seed: int, sample: int) -> EntropyRate:
    """Mean loss over windows of the source's text of `sample` symbols, after half a window."""
    text_N = np.concatenate([*source.text(seed, sample)])
    late_BxL = source.losses(text_N.astype(np.int64).reshape(-1, WINDOW))[:, WINDOW // 2 :]
    mean_B = late_BxL.mean(axis=1)
    rate, half = float(mean_B.mean()), 1.96 * float(mean_B.std(ddof=1)) / len(mean_B) ** 0.5
    return EntropyRate(rate, rate - half, rate + half, f"forward algorithm on {late_BxL.size:,} symbols")
