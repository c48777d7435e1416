"""Scaling laws with known parameters: how often intervals hold them, and how exactly they come back without noise."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from functools import partial

import numpy as np
import polars as pl

from calibration.measure import Experiment, Tally, held
from isoloss.analysis.frontier import frontier, predict
from isoloss.analysis.scaling import Intervals, fit_law
from isoloss.analysis.solve import ObjectiveName, make_objective

COLUMNS = {"N": "N", "D": "D", "loss": "loss"}
SIZES, HORIZONS = (1e5, 3e6), (5e5, 1.5e7)
NOISE = 0.004
"""Relative to the loss."""
POINTS = {"inside": {"N": 6e5, "D": 2e6}, "outside": {"N": 6e6, "D": 3e7}}
"""Where losses are predicted: amid the data, and at four times their largest compute."""


@dataclass(frozen=True)
class Truth:
    """L = E + A/N^alpha + B/D^beta."""

    E: float
    A: float
    B: float
    alpha: float
    beta: float

    def loss(self, n: np.ndarray | float, d: np.ndarray | float) -> np.ndarray:
        """In nats, at n parameters and d tokens."""
        return np.asarray(self.E + self.A / n**self.alpha + self.B / d**self.beta)

    @property
    def a(self) -> float:
        """The frontier's exponent: N* ∝ C^a."""
        return self.beta / (self.alpha + self.beta)

    def best(self, compute: float) -> float:
        """The size with the lowest loss at C = 6ND."""
        odds = self.alpha * self.A / (self.beta * self.B)
        return float((odds * (compute / 6) ** self.beta) ** (1 / (self.alpha + self.beta)))


TRUTH = Truth(1.4, 60.0, 160.0, 0.38, 0.39)
MIDDLE_LOSS = float(TRUTH.loss(POINTS["inside"]["N"], POINTS["inside"]["D"]))


@dataclass(frozen=True)
class Ladder:
    """`side`² cells of sizes and horizons, and how they are fitted; noise is normal, in log losses or in losses."""

    side: int
    objective: ObjectiveName = "huber"
    intervals: Intervals = "delta"
    replicates: int = 1
    additive: bool = False

    def simulate(self, generator: np.random.Generator) -> pl.DataFrame:
        """A table of runs."""
        n, d = (
            np.repeat(axis.ravel(), self.replicates)
            for axis in np.meshgrid(np.geomspace(*SIZES, self.side), np.geomspace(*HORIZONS, self.side), indexing="ij")
        )
        return pl.DataFrame({"N": n, "D": d, "loss": self.noisy(TRUTH.loss(n, d), generator)})

    def noisy(self, loss: np.ndarray, generator: np.random.Generator) -> np.ndarray:
        """Runs of these expected losses; additive noise is of the size that it has at the law's loss amid the data."""
        noise = NOISE * generator.standard_normal(loss.shape)
        return loss + noise * MIDDLE_LOSS if self.additive else loss * np.exp(noise)


def coverage(repetitions: int) -> list[Experiment]:
    """Do 95% intervals of parameters, frontier and predictions hold the truth, as fitted by default?"""
    return _experiments(repetitions, {"Huber, delta": Ladder(3)})


def replicated(repetitions: int) -> list[Experiment]:
    """And with two runs a cell?"""
    return _experiments(repetitions, {"Huber, delta, 2 runs a cell": Ladder(3, replicates=2)})


def other_objectives(repetitions: int) -> list[Experiment]:
    """And under other objectives, also where least squares meets noise that is not of equal size in nats?"""
    ladders = {
        "LS, delta": Ladder(3, "ls", additive=True),
        "LS, delta, relative noise": Ladder(3, "ls"),
        "LAD, delta": Ladder(3, "lad"),
    }
    return _experiments(repetitions, ladders)


def bootstrap(repetitions: int) -> list[Experiment]:
    """And by the bootstrap?"""
    return _experiments(repetitions, {"Huber, bootstrap": Ladder(3, intervals="bootstrap")})


def _experiments(repetitions: int, ladders: Mapping[str, Ladder]) -> list[Experiment]:
    """Each ladder at 9, 16 and 36 cells."""
    return [
        Experiment(f"{name}, {side**2} cells", "cover", repetitions, partial(_covered, replace(ladder, side=side)))
        for name, ladder in ladders.items()
        for side in (3, 4, 6)
    ]


def _covered(ladder: Ladder, generator: np.random.Generator) -> Mapping[str, Tally]:
    fit = fit_law(
        ladder.simulate(generator),
        "LND",
        COLUMNS,
        objective=make_objective(ladder.objective),
        intervals=ladder.intervals,
        generator=generator,
    )
    names = ("E", "A", "B", "alpha", "beta")
    if fit.uncertainty is None:
        lost: Tally = (0, 0)
        return dict.fromkeys((*names, "a", *(f"{what} {where}" for what in ("law", "run") for where in POINTS)), lost)
    estimates = {name: fit.parameters[name].estimate for name in names} | {"a": frontier(fit, []).a}
    found = {name: held(each.low, each.high, getattr(TRUTH, name)) for name, each in estimates.items()}
    for where, point in POINTS.items():
        said, loss = predict(fit, point), TRUTH.loss(point["N"], point["D"])
        found[f"law {where}"] = held(said.law.low, said.law.high, float(loss))
        found[f"run {where}"] = held(said.new_run.low, said.new_run.high, float(ladder.noisy(loss, generator)))
    return found


def recovery_error(objective: ObjectiveName, generator: np.random.Generator) -> float:
    """The largest relative error of any parameter of a random law fitted to 16 cells without noise."""
    alpha, beta = generator.uniform(0.2, 0.8, 2)
    size, horizon = generator.uniform(0.1, 1.5, 2)  # each term amid the data, in nats
    law = Truth(
        float(generator.uniform(0.5, 3)),
        size * POINTS["inside"]["N"] ** alpha,
        horizon * POINTS["inside"]["D"] ** beta,
        alpha,
        beta,
    )
    n, d = (axis.ravel() for axis in np.meshgrid(np.geomspace(*SIZES, 4), np.geomspace(*HORIZONS, 4)))
    fit = fit_law(
        pl.DataFrame({"N": n, "D": d, "loss": law.loss(n, d)}), "LND", COLUMNS, objective=make_objective(objective)
    )
    return max(abs(each.estimate.value / getattr(law, name) - 1) for name, each in fit.parameters.items())
