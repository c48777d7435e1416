"""How much seeds differ, and how many of them a study needs to tell the differences that its hypotheses are about."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from isoloss.design.power import LEVEL, STATED_SHARE, check_noise, check_ratio, seeds_needed
from isoloss.study.config import SEED_SETTINGS
from isoloss.study.hypotheses import EffectStated, RatioStated
from isoloss.study.study import Study

ASSUMED_NOISE_NATS = 0.007
"""Seed-to-seed standard deviation of best validation loss where none is stated: the upper end of the 0.003 to 0.007
measured on 4-layer GPTs of this size on tiny Shakespeare. A pilot of a few seeds tells it for any other study."""

SMALLEST_EFFECT_NATS = 0.02
"""The difference in loss a study is asked to find: 2% of perplexity, as exp(0.02) = 1.02, three times the noise."""

SMALLEST_EFFECT_SD = 1.0
"""The same for a response whose noise is unknown, in its own seed-to-seed standard deviations."""

MANY_SEEDS = 30
"""More are not advised: few would train them, and a larger difference or more cells cost less."""


@dataclass(frozen=True)
class SeedNoise:
    """Seed-to-seed standard deviation of best validation loss in nats, and on what it rests, for a sentence.

    `by_factor` is that of a difference between two levels, over `sd`.
    """

    sd: float
    by_factor: float
    condition: str

    @staticmethod
    def of(known_sd: float | None, origin: str, by_factor: float) -> SeedNoise:
        """The known noise, or the assumed one. Raises ConfigError for what is no standard deviation or ratio."""
        sd = ASSUMED_NOISE_NATS if known_sd is None else known_sd
        check_noise(sd)
        check_ratio(by_factor)
        origin = "assumed; a pilot can tell" if known_sd is None else origin
        return SeedNoise(sd, by_factor, f"if runs that differ in seed alone have sd {sd:.4g} nats ({origin})")


def compared_factors(study: Study) -> list[str]:
    """The varied factors that hypotheses compare levels of."""
    factors = {h.factor for h in study.hypotheses if isinstance(h, EffectStated | RatioStated)}
    return [factor for factor, levels in study.varied.items() if factor in factors and len(levels) > 1]


def seeds_to_resolve(study: Study, noise: SeedNoise) -> int:
    """Seeds that find SMALLEST_EFFECT_NATS for every factor a hypothesis compares; 0 where nothing but seeds varies.

    Without such a hypothesis it is for the comparison of any two cells.
    """
    study = study.compared
    if all(len(levels) == 1 for factor, levels in study.varied.items() if factor not in SEED_SETTINGS):
        return 0
    per_level = [cells_at(study, factor, study.varied[factor]) for factor in compared_factors(study)] or [1]
    ratio, level = noise.by_factor, shared_level(study)
    return max(seeds_needed(SMALLEST_EFFECT_NATS, noise.sd, n, seed_by_factor=ratio, level=level) for n in per_level)


def cells_at(study: Study, factor: str, levels: Sequence[object]) -> int:
    """Cells that have a level of a factor, of that of these levels which has the fewest."""
    return min(sum(cell[factor] == level for cell in study.cells.expand()) for level in levels)


def more_seeds(study: Study, count: int) -> str:
    """The option that trains a study with so many seeds, and what it takes for them to decide anything."""
    return f"--seeds {count}" + (" (with data_seed unset)" if len(study.stated_seeds) == len(SEED_SETTINGS) else "")


def shared_level(study: Study) -> float:
    """Of one test or interval where stated hypotheses share their part of 5%."""
    return 1 - (1 - LEVEL) * STATED_SHARE / len(study.hypotheses) if study.hypotheses else LEVEL
