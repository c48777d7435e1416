"""Fractions of two-level designs: by which products of factors the generated ones are set (Box and Hunter 1961).

A product of factors is a word: its bits are the numbers of the factors.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from functools import cache

from isoloss.errors import ConfigError
from isoloss.wording import counted

MAX_TRIED = 100_000
"""Of generators, at each resolution: half a second."""


@cache
def generators(factors: int, generated: int) -> tuple[int, ...]:
    """For each of the last factors the earlier ones whose product it is set to, as bits, of the highest resolution.

    It is the highest that MAX_TRIED words tried show to be there. The resolution is the length of the shortest product
    of factors that is constant (Box and Hunter 1961). Raises ConfigError where too few factors are left.
    """
    base = factors - generated
    every = sorted(range(1, 1 << max(base, 0)), key=lambda word: (-word.bit_count(), word))
    for resolution in range(factors, 2, -1):
        candidates = [word for word in every if word.bit_count() >= resolution - 1]
        found = _independent(candidates, generated, base, resolution, (), (0,), iter(range(MAX_TRIED)))
        if found is not None:
            return found
    fraction = f"1/{1 << generated} of the combinations of {counted(factors, 'factor')}"
    text = f"design: with no {fraction} can main effects be told apart"
    raise ConfigError(text, ("design",))


def _independent(
    candidates: Sequence[int],
    more: int,
    base: int,
    resolution: int,
    chosen: tuple[int, ...],
    group: tuple[int, ...],
    tries: Iterator[int],
) -> tuple[int, ...] | None:
    """`more` further words for which no product of defining words is shorter than the resolution; the first found."""
    if not more:
        return chosen
    for at, word in enumerate(candidates):
        if next(tries, None) is None:
            return None
        defining = word | 1 << (base + len(chosen))
        grown = tuple(each ^ defining for each in group)
        if min(each.bit_count() for each in grown) >= resolution:
            found = _independent(
                candidates[at + 1 :], more - 1, base, resolution, (*chosen, word), (*group, *grown), tries
            )
            if found is not None:
                return found
    return None


def constant_products(factors: int, generated: int) -> list[int]:
    """All products of factors that are the same in every cell, as bits; without the empty one."""
    group = [0]
    for place, word in enumerate(generators(factors, generated), factors - generated):
        group += [each ^ word ^ 1 << place for each in group]
    return group[1:]
