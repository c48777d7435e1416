"""Which effects a fraction of a two-level design cannot tell apart."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import combinations

from isoloss.diagnostic import Diagnostic
from isoloss.study.cells import Fraction
from isoloss.study.fractions import constant_products
from isoloss.study.study import Study
from isoloss.wording import listed

MAX_NAMED = 4
"""Pairs that are named; of more, the first."""


def aliasing_findings(study: Study) -> Iterator[Diagnostic]:
    """What is confounded with what, by the products of factors that are constant (Box and Hunter 1961)."""
    if not isinstance(study.design, Fraction):
        return
    names = [" with ".join(axis[0]) for axis in study.cells.axes]
    constant = constant_products(len(names), study.design.denominator.bit_length() - 1)
    resolution = min(word.bit_count() for word in constant)
    mains = [(_named(names, 1 << i), _named(names, word ^ 1 << i)) for word in constant for i in _bits(word)
             if word.bit_count() == 3]  # fmt: skip
    pairs = sorted(
        {tuple(sorted((_named(names, part), _named(names, word ^ part)))) for word in constant
         if word.bit_count() == 4 for part in map(sum, combinations([1 << i for i in _bits(word)], 2))}
    )  # fmt: skip
    what = {3: "main effects with interactions of two factors", 4: "interactions of two factors with each other"}
    confounded = what.get(
        resolution, "main effects and interactions of two factors only with interactions of three or more"
    )
    told = [f"{a} with {b}" for a, b in (mains or pairs)[:MAX_NAMED]]
    more = f" and {len(mains or pairs) - MAX_NAMED} more" if len(mains or pairs) > MAX_NAMED else ""
    yield Diagnostic(
        "aliased_effects",
        "limits" if resolution < 5 else "note",
        f"One in {study.design.denominator} of all combinations is trained, of resolution {resolution}: it confounds "
        f"{confounded}{f' ({listed(told)}{more})' if told else ''}.",
        "Train a larger fraction if such interactions are to be expected." if resolution < 5 else "Nothing to change.",
    )


def _bits(word: int) -> list[int]:
    return [i for i in range(word.bit_length()) if word >> i & 1]


def _named(names: Sequence[str], word: int) -> str:
    return " × ".join(names[i] for i in _bits(word))
