"""Runs that share a seed, compared pair by pair, and what a design could detect before it is run."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any, cast

import numpy as np
from numpy.typing import NDArray
from scipy import optimize, special

from isoloss.analysis.estimate import LEVEL, Estimate
from isoloss.analysis.factorial import t_quantile, t_two_sided
from isoloss.errors import ConfigError

MOST_ENUMERATED = 16
"""Pairs up to which all 2^n signs are tried; beyond it signs are drawn."""
DRAWS = 19_999
POWER = 0.8

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


def paired_difference(first_N: Floats, second_N: Floats, generator: np.random.Generator) -> PairedDifference:
    """Compare two conditions over shared seeds (or any pairing) by the paired t and by sign flips (Fisher 1935).

    `generator` is drawn from beyond 16 pairs only; the p is then (1 + as far) / (1 + draws) (Phipson and Smyth 2010).
    Raises ConfigError when the lengths differ, a value is not finite, or there are fewer than two pairs.
    """
    first_N, second_N = np.asarray(first_N, dtype=np.float64), np.asarray(second_N, dtype=np.float64)
    n = len(first_N)
    if len(second_N) != n:
        raise ConfigError(f"pairs need two columns of equal length, not {n:,} and {len(second_N):,} values")
    if n < 2:
        raise ConfigError(f"{n} pair{'' if n == 1 else 's'}: a paired comparison needs two or more")
    difference_N = second_N - first_N
    if not np.isfinite(difference_N).all():
        raise ConfigError(f"{int((~np.isfinite(difference_N)).sum()):,} of {n:,} pairs lack a finite value")
    mean = float(difference_N.mean())
    # Differences of large responses carry their rounding; a spread below it is none.
    rounding = 1e-12 * float(np.abs([first_N, second_N]).max())
    error = float(difference_N.std(ddof=1)) / math.sqrt(n)
    p = low = high = None
    if error > rounding:
        reach = t_quantile((1 + LEVEL) / 2, n - 1) * error
        p, low, high = t_two_sided(mean / error, n - 1), mean - reach, mean + reach
    exact = n <= MOST_ENUMERATED
    p_sign_flip = _all_signs(difference_N) if exact else _drawn_signs(difference_N, generator)
    smallest = 2.0 ** (1 - n) if exact else max(2.0 ** (1 - n), 1 / (1 + DRAWS))
    estimate = Estimate(mean, low, high, LEVEL, n, f"mean of {n} paired differences; paired t on {n - 1} df")
    return PairedDifference(estimate, p, p_sign_flip, smallest, exact, n)


def detectable_effect(standard_error: float, df: float, power: float = POWER, level: float = LEVEL) -> float:
    """The effect that a two-sided t test at 1 - `level` finds with probability `power`, in the standard error's unit.

    From the noncentral t (Cohen 1988). Raises ConfigError when nothing could be found: no df, or a power or level that
    is no share above the test's own error rate.
    """
    if not (0 < level < 1 and 1 - level < power < 1):
        raise ConfigError(
            f"power {power:g} at level {level:g}: level is between 0 and 1, power between 1 - level and 1"
        )
    if not (math.isfinite(standard_error) and standard_error >= 0):
        raise ConfigError(f"noise of {standard_error:g} is no standard deviation: give a finite number, 0 or above")
    if df <= 0:
        raise ConfigError(f"{df:g} degrees of freedom: without replicates no effect can be tested")
    critical = t_quantile((1 + level) / 2, df)

    def lacking(noncentrality: float) -> float:
        """Power still wanted; the noncentral t's tails are nan where they underflow, and count as zero."""
        below = np.nan_to_num(special.nctdtr(df, noncentrality, [-critical, critical]))
        return power - float(below[0] + 1 - below[1])

    above = critical
    while lacking(above) > 0:
        above *= 1.5
    return standard_error * float(cast(Any, optimize).brentq(lacking, 0.0, above, xtol=1e-10))


def minimum_detectable_effect(
    sd: float, n_per_level: int, df: float, power: float = POWER, level: float = LEVEL
) -> float:
    """Difference of two means of `n_per_level` runs each that is found with probability `power`, in the unit of `sd`.

    `sd` is that of a run at fixed settings, `df` those of the error. Raises ConfigError when nothing could be found.
    """
    if n_per_level < 1:
        raise ConfigError(f"{n_per_level} runs a level: a mean needs one or more")
    return detectable_effect(sd * math.sqrt(2 / n_per_level), df, power, level)


def minimum_detectable_pair(sd: float, n: int, power: float = POWER, level: float = LEVEL) -> float:
    """Mean difference of `n` pairs that is found with probability `power`; `sd` is that of the differences.

    Raises ConfigError when nothing could be found.
    """
    if n < 2:
        raise ConfigError(f"{n} pair{'' if n == 1 else 's'}: a paired comparison needs two or more")
    return detectable_effect(sd / math.sqrt(n), n - 1, power, level)


def error_df(cells: int, seeds: int) -> int:
    """Degrees of freedom of the error when every seed trains every cell once, seeds as blocks."""
    return (cells - 1) * (seeds - 1)


def seeds_needed(
    effect: float, sd: float, runs_per_level_per_seed: int, cells: int, power: float = POWER, level: float = LEVEL
) -> int:
    """Smallest number of seeds that detects a difference of `effect` between two levels with probability `power`.

    A seed trains each of `cells` cells, `runs_per_level_per_seed` of them at either level; seeds are blocks. At
    least 2: one seed leaves no error. Raises ConfigError when the effect is zero or no cells can be compared.
    """
    if not (math.isfinite(effect) and effect):
        raise ConfigError(f"an effect of {effect:g} is found by no number of seeds: give the size that would matter")
    if cells < 2:
        raise ConfigError(f"{cells} cell{'' if cells == 1 else 's'}: a difference needs two or more")

    def enough(seeds: int) -> bool:
        runs = seeds * runs_per_level_per_seed
        return minimum_detectable_effect(sd, runs, error_df(cells, seeds), power, level) <= abs(effect)

    few, many = 1, 2
    while not enough(many):
        few, many = many, 2 * many
    while many - few > 1:
        middle = (few + many) // 2
        few, many = (few, middle) if enough(middle) else (middle, many)
    return many


def _all_signs(difference_N: Floats) -> float:
    sums = np.zeros(1)
    for difference in difference_N:
        sums = np.concatenate([sums + difference, sums - difference])
    return float(_as_far(sums, difference_N).mean())


def _drawn_signs(difference_N: Floats, generator: np.random.Generator) -> float:
    as_far, left = 0, DRAWS
    while left:
        draws = min(left, max(1, 2_000_000 // len(difference_N)))
        signs_DxN = generator.integers(0, 2, (draws, len(difference_N)), dtype=np.int8) * 2.0 - 1.0
        as_far += int(_as_far(signs_DxN @ difference_N, difference_N).sum())
        left -= draws
    return (1 + as_far) / (1 + DRAWS)


def _as_far(sums: Floats, difference_N: Floats) -> NDArray[np.bool_]:
    """Which sums are at least as far from zero as the one seen, but for rounding."""
    return np.abs(sums) >= abs(float(difference_N.sum())) - 1e-12 * float(np.abs(difference_N).sum())
