"""Runs that share a seed, compared pair by pair."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import polars as pl
from numpy.typing import NDArray

from isoloss.analysis.columns import usable_rows
from isoloss.analysis.estimate import LEVEL, Estimate
from isoloss.analysis.factor import sorted_levels
from isoloss.analysis.factorial import t_quantile, t_two_sided
from isoloss.errors import ConfigError

MAX_ENUMERATED_PAIRS = 16
"""Pairs up to which all 2^n signs are tried; beyond it signs are drawn."""
DRAWS = 19_999

_FIRST, _SECOND = "\0first", "\0second"
"""Names no column of a table has."""

Floats = NDArray[np.float64]


@dataclass(frozen=True)
class PairedDifference:
    """Second minus first, of `n` pairs.

    `p` is of the paired t; it and the interval are None where the differences have no spread. `p_sign_flip` is the
    share of assignments of signs to the differences that give a mean as far from zero; no result of n pairs could give
    less than `smallest_p`. `exact` tells whether all assignments were tried.
    """

    estimate: Estimate
    p: float | None
    p_sign_flip: float
    smallest_p: float
    exact: bool
    n: int


@dataclass(frozen=True)
class PairedFactor:
    """A factor's two levels, compared over the pairs of runs that share all else."""

    factor: str
    contrast: str
    difference: PairedDifference


def paired_difference(first_n: Floats, second_n: Floats, generator: np.random.Generator) -> PairedDifference:
    """Compare two conditions over shared seeds (or any pairing) by the paired t and by sign flips (Fisher 1935).

    `generator` is drawn from beyond 16 pairs only; the p is then (1 + as far) / (1 + draws) (Phipson and Smyth 2010).
    Raises ConfigError when the lengths differ, a value is not finite, or there are fewer than two pairs.
    """
    first_n, second_n = np.asarray(first_n, dtype=np.float64), np.asarray(second_n, dtype=np.float64)
    n = len(first_n)
    if len(second_n) != n:
        raise ConfigError(f"pairs need two columns of equal length, not {n:,} and {len(second_n):,} values")
    if n < 2:
        raise ConfigError(f"{n} pair{'' if n == 1 else 's'}: a paired comparison needs two or more")
    difference_n = second_n - first_n
    if not np.isfinite(difference_n).all():
        raise ConfigError(f"{int((~np.isfinite(difference_n)).sum()):,} of {n:,} pairs lack a finite value")
    mean = float(difference_n.mean())
    # Differences of large responses carry their rounding; a spread below it is none.
    rounding = 1e-12 * float(np.abs([first_n, second_n]).max())
    error = float(difference_n.std(ddof=1)) / math.sqrt(n)
    p = low = high = None
    if error > rounding:
        reach = t_quantile((1 + LEVEL) / 2, n - 1) * error
        p, low, high = t_two_sided(mean / error, n - 1), mean - reach, mean + reach
    exact = n <= MAX_ENUMERATED_PAIRS
    p_sign_flip = _all_signs(difference_n) if exact else _drawn_signs(difference_n, generator)
    smallest = 2.0 ** (1 - n) if exact else max(2.0 ** (1 - n), 1 / (1 + DRAWS))
    estimate = Estimate(mean, low, high, LEVEL, n, f"mean of {n} paired differences; paired t on {n - 1} df")
    return PairedDifference(estimate, p, p_sign_flip, smallest, exact, n)


def paired_effects(
    table: pl.DataFrame, response: str, factors: Sequence[str], block: str | None = None
) -> list[PairedFactor]:
    """Every factor of two levels, compared over the pairs of runs that agree in all other factors and in the block.

    Numbers go from the lower level to the higher, words by the alphabet. Runs without a partner are left
    out, replicates within a cell and block are averaged, and so are the pairs of a block, each of which is then one
    pair. A factor without two pairs is not listed. Raises ConfigError when a column is missing.
    """
    keys = list(factors) if block is None or block in factors else [*factors, block]
    usable = usable_rows(table, numeric=[response], other=keys)
    runs = usable.table.select(keys).with_columns(pl.Series(_FIRST, usable.floats(response)))
    found: list[PairedFactor] = []
    for factor in factors:
        others = [key for key in keys if key != factor]
        levels = runs[factor].unique(maintain_order=True)
        if len(levels) != 2:
            continue
        low, high = sorted_levels(levels).to_list()
        means = runs.group_by([*others, factor]).agg(pl.col(_FIRST).mean())
        first = means.filter(pl.col(factor) == low)
        second = means.filter(pl.col(factor) == high).rename({_FIRST: _SECOND})
        pairs = first.join(second, on=others) if others else first.join(second, how="cross")
        if block in others:  # pairs of one block are not independent: a seed may favour a level in all of them
            pairs = pairs.sort(others).group_by(block, maintain_order=True).agg(pl.col(_FIRST, _SECOND).mean())
            others = [block]
        if len(pairs) > 1:
            pairs = pairs.sort(others)  # drawn signs must not depend on the order of a hash table
            difference = paired_difference(
                pairs[_FIRST].to_numpy(), pairs[_SECOND].to_numpy(), np.random.default_rng(0)
            )
            found.append(PairedFactor(factor, f"{high} − {low}", difference))
    return found


def _all_signs(difference_n: Floats) -> float:
    sums = np.zeros(1)
    for difference in difference_n:
        sums = np.concatenate([sums + difference, sums - difference])
    return float(_as_far(sums, difference_n).mean())


def _drawn_signs(difference_n: Floats, generator: np.random.Generator) -> float:
    as_far, left = 0, DRAWS
    while left:
        draws = min(left, max(1, 2_000_000 // len(difference_n)))
        signs_dxn = generator.integers(0, 2, (draws, len(difference_n)), dtype=np.int8) * 2.0 - 1.0
        as_far += int(_as_far(signs_dxn @ difference_n, difference_n).sum())
        left -= draws
    return (1 + as_far) / (1 + DRAWS)


def _as_far(sums: Floats, difference_n: Floats) -> NDArray[np.bool_]:
    """Which sums are at least as far from zero as the one seen, but for rounding."""
    return np.abs(sums) >= abs(float(difference_n.sum())) - 1e-12 * float(np.abs(difference_n).sum())
