"""What an analysis says: a number with its interval and where both come from."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from math import sqrt

import numpy as np
from numpy.typing import NDArray
from scipy import special

from isoloss import wording
from isoloss.design.power import LEVEL as LEVEL


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


def mean_over_runs(values_n: NDArray[np.float64], what: str = "") -> Estimate:
    """The mean of values, one a run, with its t interval; none of a single run. `what` they are is in the method."""
    n, mean = len(values_n), float(np.mean(values_n))
    half = float(special.stdtrit(n - 1, (1 + LEVEL) / 2) * np.std(values_n, ddof=1) / sqrt(n)) if n > 1 else None
    low, high = (None, None) if half is None else (mean - half, mean + half)
    return Estimate(mean, low, high, LEVEL, n, f"mean {f'of {what} ' if what else ''}over runs, t interval")


def holm(p_values: Sequence[float]) -> list[float]:
    """p-values adjusted for their number, in their own order (Holm 1979)."""
    order = np.argsort(p_values, kind="stable")
    stepped = np.asarray(p_values)[order] * np.arange(len(p_values), 0, -1)
    adjusted = np.empty(len(p_values))
    adjusted[order] = np.minimum(np.maximum.accumulate(stepped), 1.0)
    return adjusted.tolist()


def in_words(estimate: Estimate, *, signed: bool = False) -> str:
    """'−0.2103 (95% interval −0.2182 to −0.2024; n = 32; method)'."""
    number = wording.signed if signed else wording.number
    interval = "no interval"
    if estimate.low is not None and estimate.high is not None:
        interval = f"{estimate.level:.0%} interval {number(estimate.low)} to {number(estimate.high)}"
    return f"{number(estimate.value)} ({interval}; n = {estimate.n:,}; {estimate.method})"


def p_in_words(p: float | None) -> str:
    """'= 0.031', '< 0.001'."""
    return "unknown" if p is None else "< 0.001" if p < 0.001 else f"= {p:.2g}"
