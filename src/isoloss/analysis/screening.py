"""Effects of an unreplicated two-level factorial, compared with each other: screening, not a test.

Few effects are taken to be active; the others then show how far an effect goes by chance (Lenth, Technometrics 31,
1989). Where many are active the margins grow and little is declared.
"""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy import special

from isoloss.analysis.estimate import LEVEL
from isoloss.analysis.factorial import t_quantile, t_two_sided

MIN_EFFECTS = 7
"""Below three factors the pseudo standard error rests on one degree of freedom and says nothing."""


@dataclass(frozen=True)
class ScreenedEffect:
    """Mean response at a term's high side minus that at its low side.

    `p` is Lenth's pseudo-t, of this effect alone; `active` by the simultaneous margin; `quantile` is where its size
    stands on the half-normal plot (Daniel 1959).
    """

    term: str
    factors: tuple[str, ...]
    value: float
    p: float
    active: bool
    quantile: float


@dataclass(frozen=True)
class Screening:
    """Lenth's pseudo standard error and margins, in the response's unit, over all 2^k - 1 effects by order."""

    pse: float
    df: float
    level: float
    margin: float
    simultaneous_margin: float
    effects: tuple[ScreenedEffect, ...]
    method: str = "screening: Lenth's pseudo standard error (1989)"


def lenth_pse(effects_m: NDArray[np.float64]) -> float:
    """Lenth's pseudo standard error of contrasts of equal variance; 0.0 when half of them or more are zero."""
    sizes_m = np.abs(effects_m)
    s0 = 1.5 * float(np.median(sizes_m))
    return 1.5 * float(np.median(sizes_m[sizes_m < 2.5 * s0])) if s0 else 0.0


def screen(response: NDArray[np.float64], names: Sequence[str], smallest: float = 0.0) -> Screening | None:
    """Judge every effect of a complete 2^k factorial; `response` has one axis of two levels a factor.

    None for fewer than three factors, or when the pseudo standard error is not above `smallest`: without spread
    nothing can be judged.
    """
    effects = response / 2.0 ** (len(names) - 1)
    for axis in range(len(names)):
        low, high = np.take(effects, 0, axis), np.take(effects, 1, axis)
        effects = np.stack([low + high, high - low], axis)
    terms = [term for order in range(1, len(names) + 1) for term in itertools.combinations(range(len(names)), order)]
    values_m = np.array([effects[tuple(int(axis in term) for axis in range(len(names)))] for term in terms])
    m = len(values_m)
    pse = lenth_pse(values_m)
    if m < MIN_EFFECTS or pse <= smallest:
        return None
    df = m / 3
    simultaneous = t_quantile((1 + LEVEL ** (1 / m)) / 2, df) * pse
    rank_m = np.empty(m)
    rank_m[np.argsort(np.abs(values_m), kind="stable")] = np.arange(m)
    quantile_m = special.ndtri(0.5 + 0.5 * (rank_m + 0.5) / m)
    screened = tuple(
        ScreenedEffect(
            " × ".join(names[axis] for axis in term),
            tuple(names[axis] for axis in term),
            float(value),
            t_two_sided(float(value) / pse, df),
            abs(float(value)) > simultaneous,
            float(quantile),
        )
        for term, value, quantile in zip(terms, values_m, quantile_m, strict=True)
    )
    return Screening(pse, df, LEVEL, t_quantile((1 + LEVEL) / 2, df) * pse, simultaneous, screened)
