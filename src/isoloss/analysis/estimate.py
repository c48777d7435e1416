"""What an analysis says: a number with its interval and where both come from, and a caution with a code."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

LEVEL = 0.95
"""Of every interval, where nothing else is said."""


@dataclass(frozen=True)
class Estimate:
    """A value with its interval at `level` (0.95: 95%), from `n` observations by `method`.

    `low` and `high` are None where the data do not determine an interval.
    """

    value: float
    low: float | None
    high: float | None
    level: float
    n: int
    method: str


@dataclass(frozen=True)
class Caution:
    """Something the reader of a result has to know; `code` is stable, `text` one sentence."""

    code: str
    text: str


def holm(p_values: Sequence[float]) -> list[float]:
    """p-values adjusted for their number, in their own order (Holm 1979)."""
    order = np.argsort(p_values, kind="stable")
    stepped = np.asarray(p_values)[order] * np.arange(len(p_values), 0, -1)
    adjusted = np.empty(len(p_values))
    adjusted[order] = np.minimum(np.maximum.accumulate(stepped), 1.0)
    return adjusted.tolist()
