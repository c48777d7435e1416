"""Whether some levels of a factor are noisier than others; what effects are tested with allows for it in any case."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from isoloss.analysis.estimate import LEVEL
from isoloss.analysis.factorial import f_upper
from isoloss.analysis.run_residuals import SATURATED, RunResiduals
from isoloss.diagnostic import Diagnostic


@dataclass(frozen=True)
class NoiseTest:
    """Brown and Forsythe's test (1974) that all levels of a factor are equally noisy, and the sd of runs at each."""

    factor: str
    levels: tuple[float | str | bool, ...]
    sd: tuple[float, ...]
    F: float
    df: tuple[int, int]
    p: float


def noise_tests(left: RunResiduals) -> tuple[NoiseTest, ...]:
    """The test of each factor: an analysis of variance of how far residuals lie from the median of their level.

    Residuals are those of the fitted model, over the root of the share of a run's own noise that is left in them. None
    without replicates, and of factors with a level that has fewer than three runs.
    """
    runs, told_n = left.runs, left.free_n > SATURATED
    if not runs.replicated or left.df < 1:
        return ()
    residual_n = left.residual_n[told_n] / np.sqrt(left.free_n[told_n])
    cell_n = (runs.group_n // runs.counts_cxb.shape[1])[told_n]
    found: list[NoiseTest] = []
    for position, factor in enumerate(runs.factors):
        level_n = runs.cells_cxf[cell_n, position]
        groups = [residual_n[level_n == level] for level in range(len(factor.levels))]
        if min(map(len, groups)) < 3:
            continue
        far = [np.abs(group - np.median(group)) for group in groups]
        mean = float(np.concatenate(far).mean())
        between = sum(len(each) * (float(each.mean()) - mean) ** 2 for each in far)
        within = sum(float(((each - each.mean()) ** 2).sum()) for each in far)
        df = (len(far) - 1, len(residual_n) - len(far))
        if within <= 0 or df[1] < 1:
            continue
        f = between / df[0] / (within / df[1])
        sd = tuple(float(np.sqrt((group**2).mean())) for group in groups)
        found.append(NoiseTest(factor.name, factor.levels, sd, f, df, f_upper(f, *df)))
    return tuple(found)


def noise_in_words(tests: tuple[NoiseTest, ...]) -> list[Diagnostic]:
    """What is said of factors whose levels differ in noise by more than chance explains (5%, Bonferroni)."""
    cautions: list[Diagnostic] = []
    for test in tests:
        if test.p >= (1 - LEVEL) / len(tests):
            continue
        least, most = (int(np.argmin(test.sd)), int(np.argmax(test.sd)))
        text = (
            f"Runs are not equally noisy at all levels of {test.factor}: their sd goes from {test.sd[least]:.3g} at "
            f"{test.levels[least]} to {test.sd[most]:.3g} at {test.levels[most]} (Brown–Forsythe F = {test.F:.2f} on "
            f"{test.df[0]} and {test.df[1]} df, p = {test.p:.2g}). Intervals and tests allow for that."
        )
        cautions.append(Diagnostic("unequal_noise", "note", text))
    return cautions
