"""What a design can detect: the power of a two-sided t test between two levels of a factor (noncentral t)."""

from __future__ import annotations

from bisect import bisect_left
from importlib import import_module
from math import inf, isfinite, sqrt
from typing import Any, cast

from isoloss.errors import ConfigError

POWER = 0.8
LEVEL = 0.95
"""Of every interval and test, where nothing else is said."""
SEED_BY_FACTOR = 0.55
"""Standard deviation from seed to seed of the difference between two levels, over that of a run: group1's width with
three seeds. Seeds share initialisation and data order, which may favour a level."""
STATED_SHARE = 0.8
"""Of the 5% in which a report without any effect may claim one: what tests of stated effects share. The rest goes to
effects that nobody stated, so that both together keep to it (Bonferroni)."""


def minimum_detectable_effect(
    sd: float,
    cells_per_level: int,
    seeds: int,
    *,
    seed_by_factor: float = SEED_BY_FACTOR,
    power: float = POWER,
    level: float = LEVEL,
) -> float:
    """The smallest difference between two levels' means that a two-sided t test finds with probability `power`.

    In the unit of `sd`, the standard deviation of single runs, for levels that are each in `cells_per_level` cells
    trained once a seed. The difference itself has the standard deviation `seed_by_factor`·sd from seed to seed, and is
    tested by its values in the seeds on seeds - 1 degrees of freedom, as `analyse_effects` does. It is noncentral t
    (Cohen 1988, chapter 2), and the equation is solved numerically. Raises ConfigError when nothing can be detected:
    one seed, no cell, a noise that is not positive, a power not between 1 - level and 1.

    Example: `minimum_detectable_effect(0.007, cells_per_level=16, seeds=5)`.
    """
    check_noise(sd)
    check_ratio(seed_by_factor)
    if cells_per_level < 1 or seeds < 2:
        raise ConfigError(f"{cells_per_level} cells a level and {seeds} seeds detect nothing; add seeds")
    error = sd * sqrt(2 / (cells_per_level * seeds) + seed_by_factor**2 / seeds)
    return detectable_effect(error, seeds - 1, power, level)


def detectable_effect(standard_error: float, df: float, power: float = POWER, level: float = LEVEL) -> float:
    """The effect, in the unit of its standard error, that a two-sided t test on `df` finds with probability `power`.

    Raises ConfigError for a power not between 1 - level and 1.
    """
    if not 0 < 1 - level < power < 1:
        raise ConfigError(f"power {power:g} at level {level:g}: expected 0 < 1 - level < power < 1")
    return standard_error * _noncentrality(df, power, level)


def seeds_needed(
    difference: float,
    sd: float,
    cells_per_level: int,
    *,
    seed_by_factor: float = SEED_BY_FACTOR,
    power: float = POWER,
    level: float = LEVEL,
) -> int:
    """The fewest seeds, at least 2, with which `minimum_detectable_effect` is at most `difference`.

    Raises ConfigError as that does.
    """
    if not (difference > 0 and isfinite(difference)):
        raise ConfigError(f"difference {difference:g}: expected a finite number above 0")

    def detected(seeds: int) -> bool:
        found = minimum_detectable_effect(
            sd, cells_per_level, seeds, seed_by_factor=seed_by_factor, power=power, level=level
        )
        return found <= difference

    enough = 2
    while not detected(enough):
        enough *= 2
    return bisect_left(range(enough), True, lo=max(2, enough // 2), key=detected)


def check_noise(sd: float) -> None:
    """Raises ConfigError when a standard deviation is not a finite number above 0."""
    if not 0 < sd < inf:
        raise ConfigError(f"noise {sd:g}: a seed-to-seed standard deviation is a finite number above 0")


def check_ratio(seed_by_factor: float) -> None:
    """Raises ConfigError when a ratio of standard deviations is not a finite number, 0 or above."""
    if not 0 <= seed_by_factor < inf:
        raise ConfigError(
            f"seed_by_factor {seed_by_factor:g}: a ratio of standard deviations is a finite number from 0 on"
        )


def _noncentrality(df: float, power: float, level: float) -> float:
    """Noncentrality at which |t| exceeds its two-sided critical value with probability `power`."""
    # Imported here: reading a study does not need scipy, and scipy takes longer to load than a study to read.
    special, optimize = cast("Any", import_module("scipy.special")), cast("Any", import_module("scipy.optimize"))
    critical = float(special.stdtrit(df, (1 + level) / 2))

    def shortfall(noncentrality: float) -> float:
        # t² is noncentral F: both tails at once, and finite where scipy's noncentral t is not (far lower tail).
        return float(special.ncfdtr(1, df, noncentrality**2, critical**2)) - (1 - power)

    above = 1.0
    while shortfall(above) > 0:
        above *= 2
    return float(optimize.brentq(shortfall, 0.0, above, xtol=1e-10))
