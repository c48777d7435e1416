"""Loss curves whose state is known: how often they are labelled so, and how often otherwise."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from functools import partial

import numpy as np
import polars as pl
from numpy.typing import NDArray
from scipy import signal

from calibration.measure import Experiment, Tally
from isoloss.analysis.convergence import analyse_convergence

Floats = NDArray[np.float64]
LAST_STEP = 2000
TOLERANCE = 0.02
TOGETHER = 16
"""Runs of a table: those with few evaluations share one estimate of noise."""
NOISE = {6: 0.002, 11: 0.002, 21: 0.002, 100: 0.005, 2000: 0.02}
"""Standard deviation of an evaluation in nats, by the number of evaluations."""


def false_labels(tables: int) -> list[Experiment]:
    """How often is a plateau claimed at the tolerance itself, a U-turn where nothing rises, a fall where it is flat?"""
    together = [
        Experiment(_case(n, rho, TOGETHER), "mislabel", tables, partial(_false, n, rho, TOGETHER))
        for rho in (0.0, 0.6)
        for n in NOISE
    ]
    alone = [Experiment(_case(n, 0.0, 1), "mislabel", tables * TOGETHER, partial(_false, n, 0.0, 1)) for n in (11, 21)]
    return [*together, *alone]


def right_labels(tables: int) -> list[Experiment]:
    """How often does a curve whose state is clear have its label?"""
    return [
        Experiment(_case(n, rho, TOGETHER), "right", tables, partial(_right, n, rho))
        for rho in (0.0, 0.6)
        for n in NOISE
    ]


def _case(n: int, rho: float, runs: int) -> str:
    return f"{n:,} evaluations, ρ = {rho:g}" + (", a run alone" if runs == 1 else "")


def _false(n: int, rho: float, runs: int, generator: np.random.Generator) -> Mapping[str, Tally]:
    step_n = _steps(n)
    at_tolerance = _labels(3 - TOLERANCE * np.log2(step_n), n, rho, runs, generator)
    flat = _labels(np.full(n, 2.0), n, rho, runs, generator)
    noisy = _labels(np.full(n, 2.0), n, rho, runs, generator, times=10)  # with little noise it is named a plateau
    return {
        "plateau at the tolerance": (at_tolerance["plateaued"], runs),
        "U-turn at the tolerance": (at_tolerance["U-turned"], runs),
        "U-turn when flat": (flat["U-turned"], runs),
        "improving when flat": (noisy["improving"], runs),
    }


def _right(n: int, rho: float, generator: np.random.Generator) -> Mapping[str, Tally]:
    step_n = _steps(n)
    truths = {
        "improving": 1.5 + 2 * (step_n / 100) ** -0.4,
        "plateaued": np.full(n, 2.0),
        "U-turned": 1.5 + 0.3 * (np.log2(step_n / step_n[-1]) + 1) ** 2,
    }
    return {
        state: (_labels(truth_n, n, rho, TOGETHER, generator)[state], TOGETHER) for state, truth_n in truths.items()
    }


def _labels(
    truth_n: Floats, n: int, rho: float, runs: int, generator: np.random.Generator, times: float = 1
) -> Counter[str]:
    """States that are given to noisy copies of a curve; noise is a first-order autoregression, `times` its usual sd."""
    white_uxn = generator.normal(0, times * NOISE[n], (runs, n))
    white_uxn[:, 1:] *= np.sqrt(1 - rho**2)
    noise_uxn = np.asarray(signal.lfilter([1.0], [1.0, -rho], white_uxn, axis=1))
    table = pl.DataFrame(
        {
            "run": np.repeat([f"r{run}" for run in range(runs)], n),
            "step": np.tile(_steps(n), runs),
            "loss": (truth_n + noise_uxn).ravel(),
        }
    )
    return Counter(run.state for run in analyse_convergence(table, tolerance=TOLERANCE).runs)


def _steps(n: int) -> Floats:
    return np.round(np.linspace(LAST_STEP / n, LAST_STEP, n))
