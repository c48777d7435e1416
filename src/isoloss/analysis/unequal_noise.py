"""Whether some levels of a factor are noisier than others; no error of an effect depends on the answer."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from isoloss.analysis.estimate import LEVEL
from isoloss.analysis.factorial import Floats, f_upper
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

    Residuals are those of the fitted model, over the root of the share of a run's own noise that is left in them. As
    those of one cell depend on each other, cells are averaged where every level has two or more. None without
    replicates, and of factors with a level that has fewer than three values.
    """
    runs, told_n = left.runs, left.free_n > SATURATED
    if not runs.replicated or left.df < 1:
        return ()
    residual_n = left.residual_n[told_n] / np.sqrt(left.free_n[told_n])
    cell_n = runs.cell_n[told_n]
    runs_c = np.bincount(cell_n, minlength=runs.n_cells)
    far_c = np.bincount(cell_n, np.abs(residual_n), minlength=runs.n_cells) / np.maximum(runs_c, 1)
    found: list[NoiseTest] = []
    for position, factor in enumerate(runs.factors):
        level_n, level_c = runs.cells_cxf[cell_n, position], runs.cells_cxf[:, position]
        levels = range(len(factor.levels))
        groups = [residual_n[level_n == level] for level in levels]
        if min(map(len, groups)) < 3:
            continue
        if min(int((level_c == level).sum()) for level in levels) > 1:
            far = [far_c[(level_c == level) & (runs_c > 0)] for level in levels]
        else:
            far = [np.abs(group - np.median(group)) for group in groups]
        sd = tuple(float(np.sqrt((group**2).mean())) for group in groups)
        if (test := _one_way(far)) is not None:
            f, df = test
            found.append(NoiseTest(factor.name, factor.levels, sd, f, df, f_upper(f, *df)))
    return tuple(found)


def _one_way(groups: Sequence[Floats]) -> tuple[float, tuple[int, int]] | None:
    """F of groups that differ in their mean, and its degrees of freedom; None where values within groups are alike."""
    values = np.concatenate(groups)
    between = sum(len(each) * (float(each.mean()) - float(values.mean())) ** 2 for each in groups)
    within = sum(float(((each - each.mean()) ** 2).sum()) for each in groups)
    df = len(groups) - 1, len(values) - len(groups)
    return (between / df[0] / (within / df[1]), df) if within > 0 and df[1] > 0 else None


def noise_in_words(tests: tuple[NoiseTest, ...], *, allowed: bool) -> list[Diagnostic]:
    """What is said of factors whose levels differ in noise by more than chance explains (5%, Bonferroni).

    `allowed` tells that effects are tested with errors that allow for it.
    """
    cautions: list[Diagnostic] = []
    for test in tests:
        if test.p >= (1 - LEVEL) / len(tests):
            continue
        least, most = (int(np.argmin(test.sd)), int(np.argmax(test.sd)))
        text = (
            f"Runs are not equally noisy at all levels of {test.factor}: their sd goes from {test.sd[least]:.3g} at "
            f"{test.levels[least]} to {test.sd[most]:.3g} at {test.levels[most]} (Brown–Forsythe F = {test.F:.2f} on "
            f"{test.df[0]} and {test.df[1]} df, p = {test.p:.2g})."
            + (" Intervals and tests of effects allow for that." if allowed else "")
        )
        cautions.append(Diagnostic("unequal_noise", "note", text))
    return cautions
