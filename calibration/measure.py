"""Experiments on known truths: repetitions in parallel, each seeded by its own number, and the rates that come out."""

from __future__ import annotations

import zlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import Executor
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
from scipy import special

Aim = Literal["cover", "false", "mislabel", "right"]
"""Of a rate: intervals that hold the truth, studies with a false claim, curves with a false label, right labels."""
RANGES: dict[Aim, tuple[float, float]] = {
    "cover": (0.92, 0.98),
    "false": (0.0, 0.05),
    "mislabel": (0.0, 0.025),
    "right": (0.0, 1.0),
}
"""Where each has to lie; how often a right label is given depends on the noise, and nothing is asked of it."""

Tally = tuple[int, int]
"""Hits, and how many could have been; the second is 0 where the analysis gave no interval."""
Simulation = Callable[[np.random.Generator], Mapping[str, Tally]]
CHUNK = 5


@dataclass(frozen=True)
class Experiment:
    """One setting simulated `repetitions` times; `simulate` must be picklable: a function, or a partial of one."""

    case: str
    aim: Aim
    repetitions: int
    simulate: Simulation


@dataclass(frozen=True)
class Rate:
    """A share of `n` outcomes of `repetitions` simulations, with its 95% Monte-Carlo interval."""

    case: str
    quantity: str
    aim: Aim
    value: float
    low: float
    high: float
    n: int
    repetitions: int

    @property
    def inside(self) -> bool:
        """Whether the rate lies where it has to."""
        low, high = RANGES[self.aim]
        return low <= self.value <= high

    def as_dict(self) -> dict[str, Any]:
        """A JSON object."""
        return {**self.__dict__, "inside": self.inside}


def measure(experiment: Experiment, seed: int, executor: Executor) -> list[Rate]:
    """Simulate an experiment: a rate for each quantity that its simulation names."""
    starts = range(0, experiment.repetitions, CHUNK)
    jobs = [
        executor.submit(_simulate, experiment, seed, start, min(start + CHUNK, experiment.repetitions))
        for start in starts
    ]
    tallies = [tally for job in jobs for tally in job.result()]
    return list(_rates(experiment, tallies))


def generator_of(seed: int, name: str, repetition: int) -> np.random.Generator:
    """The generator of one repetition: the same whatever else is run, and in whatever order."""
    return np.random.default_rng([seed, zlib.crc32(name.encode()), repetition])


def _simulate(experiment: Experiment, seed: int, start: int, stop: int) -> list[Mapping[str, Tally]]:
    return [experiment.simulate(generator_of(seed, experiment.case, number)) for number in range(start, stop)]


def _rates(experiment: Experiment, tallies: Sequence[Mapping[str, Tally]]) -> Iterator[Rate]:
    for quantity in tallies[0]:
        hits_d, n_d = np.array([tally[quantity] for tally in tallies], dtype=np.float64).T
        value = float(hits_d.sum() / n_d.sum()) if n_d.sum() else float("nan")
        low, high = monte_carlo_interval(hits_d, n_d)
        yield Rate(experiment.case, quantity, experiment.aim, value, low, high, int(n_d.sum()), len(tallies))


def monte_carlo_interval(hits_d: np.ndarray, n_d: np.ndarray) -> tuple[float, float]:
    """95% interval of a share when outcomes of one repetition are not independent of each other.

    Clopper and Pearson's with the effective number of outcomes in place of theirs (Korn and Graubard 1998). Where all
    outcomes are alike their dependence cannot be seen, and each repetition counts as one.
    """
    n, repetitions = n_d.sum(), np.count_nonzero(n_d)
    if not n:
        return 0.0, 1.0
    share = hits_d.sum() / n
    if 0 < share < 1 and repetitions > 1:
        off_d = hits_d - share * n_d
        variance = repetitions / (repetitions - 1) * float(off_d @ off_d) / n**2
        effective = share * (1 - share) / max(variance, share * (1 - share) / n)
    else:
        effective = repetitions
    hits = share * effective
    low = float(special.betaincinv(hits, effective - hits + 1, 0.025)) if share > 0 else 0.0
    high = float(special.betaincinv(hits + 1, effective - hits, 0.975)) if share < 1 else 1.0
    return low, high


def held(low: float | None, high: float | None, truth: float) -> Tally:
    """Whether an interval holds the truth; nothing where there is no interval."""
    return (0, 0) if low is None or high is None else (int(low <= truth <= high), 1)
