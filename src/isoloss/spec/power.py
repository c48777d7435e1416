"""What a design can detect: the power of a two-sided t test between two levels of a factor (noncentral t)."""

from __future__ import annotations

from importlib import import_module
from math import inf, isfinite, sqrt
from typing import Any, cast

from isoloss.errors import ConfigError

POWER = 0.8
LEVEL = 0.95
"""Of every interval and test, where nothing else is said."""
STATED_SHARE = 0.8
"""Of the 5% in which a report without any effect may claim one: what tests of stated effects share. The rest goes to
effects that nobody stated, so that both together keep to it (Bonferroni)."""


def minimum_detectable_effect(
    sd: float, n_per_level: int, df: int, power: float = POWER, level: float = LEVEL
) -> float:
    """The smallest difference between two levels' means that a two-sided t test finds with probability `power`.

    In the unit of `sd`, the standard deviation of single runs, with `n_per_level` runs at either level and `df`
    degrees of freedom for the noise. The difference is noncentral t with parameter difference / (sd·√(2/n)) (Cohen
    1988, chapter 2), and the equation is solved numerically. Raises ConfigError when nothing can be detected: no
    degree of freedom, a noise that is not positive, a power not between 1 - level and 1.
    """
    check_noise(sd)
    if n_per_level < 1 or df < 1:
        raise ConfigError(f"{n_per_level} runs per level and {df} degrees of freedom detect nothing; add seeds")
    return detectable_effect(sd * sqrt(2 / n_per_level), df, power, level)


def detectable_effect(standard_error: float, df: float, power: float = POWER, level: float = LEVEL) -> float:
    """The effect, in the unit of its standard error, that a two-sided t test on `df` finds with probability `power`.

    Raises ConfigError for a power not between 1 - level and 1.
    """
    if not 0 < 1 - level < power < 1:
        raise ConfigError(f"power {power:g} at level {level:g}: expected 0 < 1 - level < power < 1")
    return standard_error * _noncentrality(df, power, level)


def seeds_needed(
    difference: float, sd: float, cells: int, cells_per_level: int, power: float = POWER, level: float = LEVEL
) -> int:
    """The fewest seeds, at least 2, with which a crossed design detects `difference` between two levels of a factor.

    Each level has `cells_per_level` of the design's `cells`, each trained once a seed. The noise is what is left after
    cells and seeds, on (cells - 1)·(seeds - 1) degrees of freedom. Raises ConfigError as minimum_detectable_effect.
    """
    if not (difference > 0 and isfinite(difference)):
        raise ConfigError(f"difference {difference:g}: expected a finite number above 0")

    def detected(seeds: int) -> bool:
        df = (cells - 1) * (seeds - 1)
        return minimum_detectable_effect(sd, cells_per_level * seeds, df, power, level) <= difference

    enough = 2
    while not detected(enough):
        enough *= 2
    too_few = max(1, enough // 2)
    while enough - too_few > 1:
        middle = (enough + too_few) // 2
        too_few, enough = (too_few, middle) if detected(middle) else (middle, enough)
    return enough


def check_noise(sd: float) -> None:
    """Raises ConfigError when a standard deviation is not a finite number above 0."""
    if not 0 < sd < inf:
        raise ConfigError(f"noise {sd:g}: a seed-to-seed standard deviation is a finite number above 0")


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
