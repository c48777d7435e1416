"""The random hierarchy model: sentences of one length, derived by random rules of which no two give the same."""

from __future__ import annotations

from collections.abc import Iterator
from typing import cast

import numpy as np
from numpy.typing import NDArray
from scipy.sparse import csr_array

from isoloss.data.derivations import Level, derivation_entropy, derived_text
from isoloss.data.sources import EntropyRate, Floats, Ints, Source, by_parts, random_bits, subkey
from isoloss.randomness import Purpose, stream_key
from isoloss.study.synthetic import Hierarchy


class HierarchySource(Source):
    """That of Cagnetta et al. (2024): `depth` levels of equally likely rules from one symbol to `branching` symbols.

    A sentence begins with any symbol of the first level, and has branching^depth symbols of the last. All levels have
    as many symbols. The right sides of a level's rules are distinct, so that each sentence has one derivation.
    """

    def __init__(self, stated: Hierarchy) -> None:
        self.symbols, self._length = stated.symbols, stated.branching**stated.depth
        key, rules = stream_key(stated.seed, Purpose.SOURCE), stated.rules
        start = Level(np.arange(self.symbols, dtype=np.uint8)[None], np.arange(self.symbols)[None, :, None])
        self._levels = [start]
        rows_CxU = np.tile(np.arange(rules, dtype=np.uint8), (self.symbols, 1))
        for number in range(stated.depth):
            order_N = random_bits(subkey(key, number), np.arange(self.symbols**stated.branching)).argsort(stable=True)
            digits = [order_N // self.symbols**place % self.symbols for place in range(stated.branching)]
            parts = np.stack(digits, axis=1)[: self.symbols * rules]
            self._levels.append(Level(rows_CxU, parts.reshape(self.symbols, rules, stated.branching)))
        self._places = [[*self._places_of(level)] for level in self._levels]

    def _places_of(self, level: Level) -> Iterator[tuple[Ints, csr_array[np.float64]]]:
        """For each place of a level's rules the symbol that each rule has there, [R], and the same as ones, [V, R]."""
        for part_R in level.parts_CxRxP.reshape(-1, level.parts_CxRxP.shape[2]).T:
            of_R = np.arange(len(part_R))
            yield part_R, csr_array((np.ones(len(part_R)), (part_R, of_R)), shape=(self.symbols, len(part_R)))

    def text(self, seed: int, tokens: int) -> Iterator[NDArray[np.uint8]]:
        """As every source's. It begins with a sentence."""
        return derived_text(self._levels, seed, tokens)

    def entropy_rate(self) -> EntropyRate:
        """(ln symbols + rules that are taken · ln rules) over the length of a sentence."""
        rate = derivation_entropy(self._levels)
        return EntropyRate(rate, rate, rate, "exact")

    def losses(self, blocks_BxT1: Ints) -> Floats:
        """By the mean over all places of a sentence at which a block may begin, each as likely before it is seen."""
        return by_parts(self._losses, blocks_BxT1, max(level.rule_CxR.size for level in self._levels))

    def _losses(self, blocks_BxT1: Ints) -> Floats:
        log_p_BxT1 = np.full(blocks_BxT1.shape, -np.inf)  # of all symbols up to each
        for begin in range(self._length):
            of_begin_BxT1 = self._log_probabilities(blocks_BxT1, begin)
            log_p_BxT1 = np.logaddexp(log_p_BxT1, of_begin_BxT1.cumsum(axis=1))
        return -np.diff(log_p_BxT1, axis=1)

    def _log_probabilities(self, blocks_BxT1: Ints, begin: int) -> Floats:
        """Of each symbol, given those before it, where blocks begin at a place of a sentence, [B, T + 1]."""
        end = begin + blocks_BxT1.shape[1]
        whole_BxW = np.pad(blocks_BxT1, ((0, 0), (begin, -end % self._length)), constant_values=-1)
        symbols_WxB = np.ascontiguousarray(whole_BxW.T)
        found_WxB = np.zeros(symbols_WxB.shape)
        for first in range(0, len(symbols_WxB), self._length):
            sentence = slice(first, first + self._length)
            self._observe(0, np.ones((1, len(blocks_BxT1))), symbols_WxB[sentence], found_WxB[sentence])
        return found_WxB.T[:, begin:end]

    def _observe(self, number: int, prior_CxN: Floats, symbols_LxN: Ints, found_LxN: Floats) -> Floats:
        """How likely each category makes the symbols below it, [C, N] up to a factor for each of N blocks.

        Belief propagation in the tree of a derivation (Pearl 1982), its symbols seen from left to right; a symbol −1 is
        not seen. `prior_CxN` is what all before says of the category. Notes log-probabilities of symbols in `found`.
        """
        if (symbols_LxN < 0).all():
            return np.ones_like(prior_CxN)
        if number == len(self._levels):
            seen_N, of_N = symbols_LxN[0] >= 0, np.arange(symbols_LxN.shape[1])
            with np.errstate(divide="ignore"):  # a block that cannot begin at this place
                found_LxN[0] = np.where(seen_N, np.log(prior_CxN[symbols_LxN[0], of_N]), 0)
            return np.where(seen_N, np.arange(self.symbols)[:, None] == symbols_LxN[0], 1.0)
        level = self._levels[number]
        categories, rules, parts = level.parts_CxRxP.shape
        below = zip(np.split(symbols_LxN, parts), np.split(found_LxN, parts), strict=True)
        weight_RxN = (prior_CxN[:, None] * level.rule_CxR[:, :, None]).reshape(categories * rules, -1)
        likely_RxN = np.ones_like(weight_RxN)
        for (part_R, gives_VxR), (symbols_PxN, found_PxN) in zip(self._places[number], below, strict=True):
            prior_VxN = cast("Floats", gives_VxR @ (weight_RxN * likely_RxN))
            part_VxN = self._observe(number + 1, _normal(prior_VxN), symbols_PxN, found_PxN)
            likely_RxN *= part_VxN[part_R]
        likely_CxRxN = likely_RxN.reshape(categories, rules, -1) * level.rule_CxR[:, :, None]
        return _normal(likely_CxRxN.sum(axis=1))


def _normal(weight_CxN: Floats) -> Floats:
    """Columns with a sum of one, or of nothing."""
    total_N = weight_CxN.sum(axis=0)
    return weight_CxN / np.where(total_N > 0, total_N, 1)
