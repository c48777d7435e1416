"""The error that the effects of a factorial are tested with: from replicates, or, without any, from smaller effects.

The choice follows from the design alone, never from what the responses turned out to be.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np

from isoloss.analysis.estimate import LEVEL
from isoloss.analysis.factorial import SumOfSquares, TwoFactorFit, f_upper, fit_two_factor, pure_error
from isoloss.analysis.factorial_table import FactorialTable
from isoloss.analysis.screening import Screening, screen
from isoloss.diagnostic import Diagnostic

MIN_PURE_DF = 4
"""Below it Student's t is so wide (2.8 at 4, 12.7 at 1) that pooling higher-order interactions resolves more."""
ROUNDING = 1e-12
"""A standard deviation below this share of the largest response is rounding, not noise."""


@dataclass(frozen=True)
class ErrorTerm:
    """What effects are tested with: the standard deviation of a run, its degrees of freedom and where it is from.

    `screening` is set where the runs have no replicates, so that effects themselves had to serve as noise.
    """

    sd: float
    df: float
    source: str
    screening: bool


@dataclass(frozen=True)
class FitWithError:
    """A fitted factorial and the error its contrasts are tested with."""

    runs: FactorialTable
    fit: TwoFactorFit
    error: ErrorTerm | None
    screening: Screening | None
    cautions: tuple[Diagnostic, ...]


def fit_with_error(runs: FactorialTable) -> FitWithError:
    """Fit the model and choose its error; `runs` has a factor or more. An error of zero is none."""
    fit = fit_two_factor(runs)
    noise = ROUNDING * runs.largest
    cautions = [*runs.cautions, *_imbalance(runs)]
    if float(np.ptp(runs.means_cxb)) <= noise and runs.within_ss <= noise**2:
        text = f"{runs.response} is the same in all {runs.n:,} runs: there is nothing to test."
        return FitWithError(runs, fit, None, None, (*cautions, Diagnostic("constant_response", "blocks", text)))
    screening = None
    if runs.replicated:
        error, said = _replicate_error(runs, fit)
    elif runs.complete and len(runs.factors) > 2 and all(len(factor.levels) == 2 for factor in runs.factors):
        screening = screen(
            runs.means_cxb.reshape((2,) * len(runs.factors)), [factor.name for factor in runs.factors], noise
        )
        error, said = _lenth_error(runs, screening)
    else:
        error, said = _interaction_error(fit)
    cautions.extend(said)
    if error is not None and error.sd <= noise:
        text = f"The noise is zero ({error.source}): no interval or test can be had from it."
        return FitWithError(runs, fit, None, None, (*cautions, Diagnostic("no_noise", "blocks", text)))
    return FitWithError(runs, fit, error, screening, tuple(cautions))


def _replicate_error(runs: FactorialTable, fit: TwoFactorFit) -> tuple[ErrorTerm, list[Diagnostic]]:
    """Pure error; where replicates are too few, the model's residual, which holds higher-order interactions as well."""
    pure = pure_error(runs)
    blocked = f" after additive {runs.block} blocks" if runs.block else ""
    if pure.df < MIN_PURE_DF and pure.df < fit.residual.df:
        text = (
            f"Replicates give {pure.df} degree{'s' if pure.df > 1 else ''} of freedom only: interactions of three and "
            "more factors are pooled with them as noise, which widens intervals where they are real."
        )
        source = f"replicates pooled with interactions of three and more factors{blocked}"
        return _error(fit.residual, source, screening=False), [Diagnostic("few_replicates", "limits", text)]
    cautions: list[Diagnostic] = []
    higher = SumOfSquares(fit.residual.value - pure.value, fit.residual.df - pure.df)
    if higher.df and pure.value > 0:
        f = higher.value / higher.df / (pure.value / pure.df)
        p = f_upper(max(f, 0.0), higher.df, pure.df)
        if p < 1 - LEVEL:
            text = (
                f"Interactions of three and more factors exceed the noise (F = {f:.2f} on {higher.df} and "
                f"{pure.df} df, p = {p:.2g}): an effect is an average over levels at which it differs."
            )
            cautions.append(Diagnostic("higher_order", "note", text))
    return _error(pure, f"pure error within cells{blocked}", screening=False), cautions


def block_error(runs: FactorialTable, position: int) -> tuple[ErrorTerm, str] | None:
    """The error of a factor's effect from block to block, and a sentence, where it exceeds the noise within cells.

    Runs of one seed and one shape share initialisation and data order, so a seed may favour a level: then its effect is
    known as well as the seeds are many, not the runs. Block × factor against what else runs of a cell differ by, at 5%
    over all factors (Bonferroni).
    """
    pure, factor = pure_error(runs), runs.factors[position]
    if runs.block is None or pure.value <= (ROUNDING * runs.largest) ** 2:
        return None
    weight = float(1 / np.mean(1 / runs.counts_cxb))  # runs a cell and block, harmonic: 1 in a crossed design
    level_c, n_levels = runs.cells_cxf[:, position], len(factor.levels)
    cells_l = np.bincount(level_c, minlength=n_levels)
    means_lxb = np.array([runs.means_cxb[level_c == level].mean(axis=0) for level in range(n_levels)])
    centred_lxb = means_lxb - means_lxb.mean(axis=1, keepdims=True) - means_lxb.mean(axis=0) + means_lxb.mean()
    between = SumOfSquares(
        weight * float((cells_l[:, None] * centred_lxb**2).sum()), (n_levels - 1) * (runs.means_cxb.shape[1] - 1)
    )
    rest = SumOfSquares(pure.value - between.value, pure.df - between.df)
    if rest.df < 1 or rest.value <= 0:
        return None
    f = between.value / between.df / (rest.value / rest.df)
    p = f_upper(f, between.df, rest.df)
    if p >= (1 - LEVEL) / len(runs.factors):
        return None
    sentence = (
        f"The effect of {factor.name} differs from {runs.block} to {runs.block} by more than noise "
        f"(F = {f:.2f} on {between.df} and {rest.df} df, p = {p:.2g})"
    )
    return _error(
        between, f"{runs.block} × {factor.name}, which exceeds the noise within cells", screening=False
    ), sentence


def _lenth_error(runs: FactorialTable, screening: Screening | None) -> tuple[ErrorTerm | None, list[Diagnostic]]:
    if screening is None:
        text = "No cell has replicates and half the effects or more are zero: there is no noise to judge the others by."
        return None, [Diagnostic("no_noise", "blocks", text)]
    m = len(screening.effects)
    text = (
        f"No cell has replicates: the {m} effects are judged against each other, which screens for large ones and "
        "shows nothing about small ones."
    )
    # An effect is the difference of two means of n/2 runs: its standard error is 2 sd / sqrt(n).
    sd = screening.pse * math.sqrt(runs.n) / 2
    return ErrorTerm(sd, screening.df, f"Lenth's margin over {m} effects", True), [
        Diagnostic("unreplicated", "limits", text)
    ]


def _interaction_error(fit: TwoFactorFit) -> tuple[ErrorTerm | None, list[Diagnostic]]:
    if fit.residual.df == 0:
        text = "No cell has replicates and no run is left over to tell noise from effects: sizes only, no intervals."
        return None, [Diagnostic("no_error", "blocks", text)]
    text = (
        "No cell has replicates: interactions of three and more factors stand in for noise, which screens for large "
        "effects only."
    )
    source = "interactions of three and more factors, no replicates"
    return _error(fit.residual, source, screening=True), [Diagnostic("unreplicated", "limits", text)]


def _error(squares: SumOfSquares, source: str, *, screening: bool) -> ErrorTerm:
    return ErrorTerm(math.sqrt(squares.value / squares.df), squares.df, source, screening)


def _imbalance(runs: FactorialTable) -> list[Diagnostic]:
    cautions: list[Diagnostic] = []
    fewest, most = int(runs.counts_cxb.sum(axis=1).min()), int(runs.counts_cxb.sum(axis=1).max())
    if not runs.complete:
        possible = math.prod(len(factor.levels) for factor in runs.factors)
        text = f"{possible - runs.n_cells:,} of {possible:,} combinations of levels have no run."
        cautions.append(Diagnostic("empty_cells", "limits", text))
    if fewest < most or not runs.complete:
        text = (
            f"The table is unbalanced ({fewest:,} to {most:,} runs a cell that has any): tests compare models (Type "
            "II) and sizes weigh cells alike, so an interval and its p can disagree."
        )
        cautions.append(Diagnostic("unbalanced", "limits", text))
    return cautions
