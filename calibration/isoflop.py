"""IsoFLOP profiles of laws with known minima: how often intervals of sizes and of the power law hold the truth."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial

import numpy as np
import polars as pl

from calibration.laws import NOISE, Truth
from calibration.measure import Experiment, Tally, held
from isoloss.analysis.isoflop import Curve, Profile, isoflop_profiles
from isoloss.analysis.isoflop_law import isoflop_law

STEEPER_ON_ONE_SIDE = Truth(1.4, 60.0, 160.0, 0.5, 0.25)
CHINCHILLA = Truth(1.69, 406.0, 411.0, 0.34, 0.28)
"""The estimates of Hoffmann et al. (2022, approach 3), as rounded there."""
COMPUTES = tuple(np.geomspace(1e18, 1e20, 5).tolist())


def coverage(repetitions: int) -> list[Experiment]:
    """Does the interval of a profile's best size hold it, under a law whose valley is steeper on one side?"""
    curves: tuple[Curve, ...] = ("cubic", "parabola")
    return [
        Experiment(
            f"IsoFLOP {curve}, 9 sizes over ×{width**2:g}{', off its middle' if shift else ''}",
            "cover",
            repetitions,
            partial(_best_size, curve, width, shift),
        )
        for width in (4.0, 10.0)
        for curve in curves
        for shift in (0.0, 0.3)
    ]


def _best_size(curve: Curve, width: float, shift: float, generator: np.random.Generator) -> Mapping[str, Tally]:
    law, compute = STEEPER_ON_ONE_SIDE, 1e13
    best = law.best(compute)
    n = best * width**shift * np.geomspace(1 / width, width, 9)
    loss = law.loss(n, compute / 6 / n) * np.exp(NOISE * generator.standard_normal(9))
    (profile,) = isoflop_profiles(
        pl.DataFrame({"N": n, "C": np.full(9, compute), "loss": loss}), "N", "C", "loss", curve
    )
    size = profile.optimal_params
    return {"best size": held(*((size.low, size.high) if size else (None, None)), best)}


@dataclass(frozen=True)
class Budgets:
    """Five computes, each with sizes at equal ratios, `width` below and above a middle that is off the best one.

    The middle is a random factor between width^−¼ and width^¼ from it. Asymmetries of the valleys alternate by
    `unlike` around that of the law, whose minima then stay where they are.
    """

    sizes: int
    width: float
    noise: float
    unlike: float = 0.0

    @property
    def case(self) -> str:
        """In words."""
        unlike = f", asymmetries ±{self.unlike:g}" if self.unlike else ""
        return f"5 computes, {self.sizes} sizes over ×{self.width**2:g}, noise {self.noise:.1%}{unlike}"

    def profiles(self, generator: np.random.Generator) -> Sequence[Profile]:
        """The profiles of a table of runs."""
        rows: list[pl.DataFrame] = []
        for i, compute in enumerate(COMPUTES):
            middle = CHINCHILLA.best(compute) * self.width ** generator.uniform(-0.25, 0.25)
            n = middle * np.geomspace(1 / self.width, self.width, self.sizes)
            loss = self.loss(n, compute, self.unlike * (-1) ** i)
            loss = loss * np.exp(self.noise * generator.standard_normal(self.sizes))
            rows.append(pl.DataFrame({"N": n, "C": np.full(self.sizes, compute), "loss": loss}))
        return isoflop_profiles(pl.concat(rows), "N", "C", "loss")

    def loss(self, n: np.ndarray, compute: float, unlike: float) -> np.ndarray:
        """The law, with α less and β more by half of `unlike`, and scales that keep height, place and curvature."""
        law, best = CHINCHILLA, CHINCHILLA.best(compute)
        lowest, curvature = law.loss(best, compute / 6 / best), law.alpha * law.A / best**law.alpha
        u, alpha, beta = np.log(n / best), law.alpha - unlike / 2, law.beta + unlike / 2
        return lowest + curvature * (np.expm1(-alpha * u) / alpha + np.expm1(beta * u) / beta)


def _budgets() -> list[Budgets]:
    found = [
        Budgets(sizes, width, noise) for width in (4.0, 10.0) for sizes in (5, 9) for noise in (0.003, 0.005, 0.01)
    ]
    return [*found, *(Budgets(sizes, 4.0, 0.003, unlike) for sizes in (5, 9) for unlike in (0.1, 0.3))]


def budgets_coverage(repetitions: int) -> list[Experiment]:
    """Do the intervals of five best sizes, of the exponent through them, and of the middle one hold the truth?"""
    return [Experiment(budgets.case, "cover", repetitions, partial(_covered, budgets)) for budgets in _budgets()]


def budgets_beyond(repetitions: int) -> list[Experiment]:
    """How many of five minima are bracketed, and how many of their intervals reach beyond the sizes trained?"""
    return [Experiment(budgets.case, "right", repetitions, partial(_beyond, budgets)) for budgets in _budgets()]


def _covered(budgets: Budgets, generator: np.random.Generator) -> Mapping[str, Tally]:
    profiles = budgets.profiles(generator)
    sizes = [
        held(profile.optimal_params.low, profile.optimal_params.high, CHINCHILLA.best(profile.flops))
        for profile in profiles
        if profile.optimal_params
    ]
    law = isoflop_law(profiles)
    lost: Tally = (0, 0)
    return {
        "best size": (sum(hit for hit, _ in sizes), len(sizes)),
        "exponent": held(law.N.exponent.low, law.N.exponent.high, CHINCHILLA.a) if law else lost,
        "middle size": held(law.at_middle.low, law.at_middle.high, CHINCHILLA.best(law.middle)) if law else lost,
    }


def _beyond(budgets: Budgets, generator: np.random.Generator) -> Mapping[str, Tally]:
    profiles = budgets.profiles(generator)
    codes = [{caution.code for caution in profile.cautions} for profile in profiles]
    bracketed = sum(profile.optimal_params is not None for profile in profiles)
    beyond = sum("interval_beyond_data" in found for found in codes)
    return {"bracketed": (bracketed, len(profiles)), "beyond the sizes": (beyond, bracketed)}
