"""The colours of a factor's levels; a module of its own, as texts and tables need no drawing library."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from isoloss.analysis.roles import are_quantities
from isoloss.wording import level as level_in_words

CATEGORIES = ("#e69f00", "#009e73", "#cc79a7", "#56b4e9", "#8c510a", "#5e4fa2", "#66a61e", "#222222")
"""Okabe and Ito (2008) without ACCENT and WARNING of charts, and four more that are told apart by lightness."""
SEQUENCE = ("#440154", "#46327e", "#365c8d", "#277f8e", "#1fa187", "#4ac16d", "#a0da39")
"""Viridis without its brightest end, which vanishes on white."""


def factor_colours(factors: Mapping[str, Sequence[Any]]) -> dict[str, dict[str, str]]:
    """A colour for each level of each factor: dark to light for three quantities or more, else categories of its own.

    Example: `factor_colours({"bias": [False, True]})["bias"]["true"]`.
    """
    found: dict[str, dict[str, str]] = {}
    taken = 0
    for factor, levels in factors.items():
        if len(levels) > 2 and are_quantities(factor, levels):
            colours = sequence_colours(len(levels))
            levels = sorted(levels)
        else:
            colours = [CATEGORIES[i % len(CATEGORIES)] for i in range(taken, taken + len(levels))]
            taken += len(levels)
        found[factor] = dict(zip(map(level_in_words, levels), colours, strict=True))
    return found


def sequence_colours(n: int) -> list[str]:
    """Colours from dark to light for some numbers in ascending order."""
    return [SEQUENCE[round(i * (len(SEQUENCE) - 1) / max(n - 1, 1))] for i in range(n)]
