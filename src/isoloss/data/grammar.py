"""A probabilistic context-free grammar of limited depth, as the hidden Markov chain that it is."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import pairwise

import numpy as np
from numpy.typing import NDArray
from scipy.sparse import csr_array, eye_array, vstack

from isoloss.data.derivations import Level, derivation_entropy, derived_text
from isoloss.data.hidden_markov import SAMPLE, WINDOW, forward_entropy_rate, forward_losses
from isoloss.data.sources import (
    EntropyRate,
    Floats,
    Ints,
    Source,
    by_parts,
    random_bits,
    random_rows,
    subkey,
    uniform_row,
)
from isoloss.randomness import Purpose, stream_key
from isoloss.study.synthetic import LONGEST_RULE, Grammar

MAX_BELIEFS = 1 << 28
"""Of the forward algorithm when the entropy rate is estimated: symbols times states."""


class GrammarSource(Source):
    """Each category of a level has `rules` to one to three categories of the next, or symbols on the last.

    How likely a rule is and what it gives is random. Sentences follow each other, and nothing tells where they end.
    """

    def __init__(self, stated: Grammar) -> None:
        self.symbols, self._seed = stated.symbols, stated.seed
        key = stream_key(stated.seed, Purpose.SOURCE)
        sizes = [1, *[stated.categories] * (stated.depth - 1), stated.symbols]
        self._levels = [
            _random_level(size, after, stated.rules, stated.concentration, subkey(key, number))
            for number, (size, after) in enumerate(pairwise(sizes))
        ]
        self._share_S, self._next_SxS, symbol_S = as_chain(self._levels)
        self._symbol_SxV = (symbol_S[:, None] == np.arange(self.symbols)).astype(float)

    def text(self, seed: int, tokens: int) -> Iterator[NDArray[np.uint8]]:
        """As every source's. It begins with a sentence."""
        return derived_text(self._levels, seed, tokens)

    def losses(self, blocks_BxT1: Ints) -> Floats:
        """By the forward algorithm over all places of all derivations."""

        def of_part(part_PxT1: Ints) -> Floats:
            return forward_losses(part_PxT1, self._share_S, self._next_SxS, self._symbol_SxV)

        return by_parts(of_part, blocks_BxT1, len(self._share_S))

    def entropy_rate(self) -> EntropyRate:
        """Estimated, and at most the entropy of a derivation, which is more where a text has several."""
        sample = min(SAMPLE, MAX_BELIEFS // len(self._share_S) // WINDOW * WINDOW)
        found, most = forward_entropy_rate(self, self._seed, sample), derivation_entropy(self._levels)
        return EntropyRate(
            min(found.value, most),
            min(found.low, most),
            min(found.high, most),
            f"{found.method}; at most {most:.4f}, the entropy of its derivations",
        )


def _random_level(size: int, after: int, rules: int, concentration: float, key: NDArray[np.int32]) -> Level:
    """Rules for as many categories, to those of a level after it."""
    rows_CxU = random_rows(np.repeat(uniform_row(rules), size, 0), rules, concentration, subkey(key, 0))
    shape = (size, rules, LONGEST_RULE)
    parts_CxRxP = random_bits(subkey(key, 1), np.arange(np.prod(shape))).reshape(shape) * after >> 32
    last_CxR = random_bits(subkey(key, 2), np.arange(size * rules)).reshape(size, rules) * LONGEST_RULE >> 32
    return Level(rows_CxU, np.where(np.arange(LONGEST_RULE) <= last_CxR[:, :, None], parts_CxRxP, -1))


def as_chain(levels: list[Level]) -> tuple[Floats, csr_array[np.float64], Ints]:
    """The chain whose states are the symbols of all derivations: their shares, transitions, and which symbol each is.

    A state is a path from the start to a symbol: a rule and a place in it on each level. It comes once in a sentence
    that takes its rules, so its share of time follows from their probabilities.
    """
    part_K, reach_K = np.zeros(1, dtype=np.int64), np.ones(1)  # of the nodes of a level: category, probability of it
    tables: list[tuple[Ints, Ints, NDArray[np.bool_], Floats]] = []
    for level in levels:
        length_KxR = level.length_CxR[part_K]
        parent_M, rule_M, place_M = np.nonzero(np.arange(level.parts_CxRxP.shape[2]) < length_KxR[:, :, None])
        chosen_M = level.rule_CxR[part_K[parent_M], rule_M]
        last_M = place_M == length_KxR[parent_M, rule_M] - 1
        tables.append((parent_M, place_M, last_M, chosen_M))
        part_K, reach_K = level.parts_CxRxP[part_K[parent_M], rule_M, place_M], reach_K[parent_M] * chosen_M
    opened = [csr_array(eye_array(len(part_K)))]  # from each node to the states that it may begin with
    for parent_M, place_M, _, chosen_M in reversed(tables):
        first_M = np.flatnonzero(place_M == 0)
        n_parents = int(parent_M[-1]) + 1
        begin_KxM = csr_array((chosen_M[first_M], (parent_M[first_M], first_M)), shape=(n_parents, len(parent_M)))
        opened.insert(0, csr_array(begin_KxM @ opened[0]))
    after = opened[0]  # from each node to the states that come after it
    for (parent_M, _, last_M, _), opened_MxS in zip(tables, opened[1:], strict=True):
        own = np.arange(len(parent_M)) + 1
        after = csr_array(vstack([opened_MxS, after]))[np.where(last_M, len(parent_M) + parent_M, own)]
    return reach_K / reach_K.sum(), csr_array(after), part_K
