"""The error that the effects of a factorial are tested with: from blocks, replicates, or, without any, smaller effects.

The choice follows from the design alone, never from what the responses turned out to be.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field

import numpy as np

from isoloss.analysis.estimate import LEVEL
from isoloss.analysis.factorial import SumOfSquares, Term, TwoFactorFit, f_upper, fit_two_factor, pure_error, t_quantile
from isoloss.analysis.factorial_table import FactorialTable
from isoloss.analysis.screening import Screening, screen
from isoloss.diagnostic import Diagnostic
from isoloss.wording import counted

MIN_PURE_DF = 4
"""Below it Student's t is so wide (2.8 at 4, 12.7 at 1) that pooling higher-order interactions resolves more."""
ROUNDING = 1e-12
"""A standard deviation below this share of the largest response is rounding, not noise."""
ENOUGH_BLOCKS = 5
"""With fewer, Student's t is wide: at two levels 4.3 standard errors with 3 blocks, 2.8 with 5."""


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
    """A fitted factorial and the errors its contrasts are tested with: a term's own, else the one of single runs."""

    runs: FactorialTable
    fit: TwoFactorFit
    error: ErrorTerm | None
    screening: Screening | None
    cautions: tuple[Diagnostic, ...]
    by_block: Mapping[Term, ErrorTerm] = field(default_factory=dict[Term, ErrorTerm])
    between: Mapping[Term, SumOfSquares] = field(default_factory=dict[Term, SumOfSquares])
    """How each term differs from block to block; `by_block` is made of them."""

    def error_of(self, term: Term) -> ErrorTerm | None:
        """What a term is tested with."""
        return self.by_block.get(term, self.error)


def fit_with_error(runs: FactorialTable) -> FitWithError:
    """Fit the model and choose its error; `runs` has a factor or more. An error of zero is none."""
    fit = fit_two_factor(runs)
    noise = ROUNDING * runs.largest
    cautions = [*runs.cautions, *_imbalance(runs), *_restricted(runs, fit)]
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
    blocked = runs.block is not None and error is not None
    between = {term: fit.by_block(term) for term in fit.columns} if blocked else {}
    errors = _block_errors(runs, between)
    if errors:
        cautions += few_blocks(runs, errors)
    return FitWithError(runs, fit, error, screening, tuple(cautions), errors, between)


def _restricted(runs: FactorialTable, fit: TwoFactorFit) -> list[Diagnostic]:
    """What of interactions was left out so that a grid with empty cells has effects."""
    if fit.degree is None:
        return []
    empty = math.prod(len(factor.levels) for factor in runs.factors) - runs.n_cells
    curves = sum(coding.shape[1] > 0 for coding in fit.pair_codings)
    kept = "Effects are taken to add up, without interactions."
    if curves > 1:
        words = ", and those with words to be none" if curves < len(runs.factors) else ""
        kept = f"Interactions are taken to be products of {'lines' if fit.degree == 1 else 'parabolas'}{words}."
    text = f"{counted(empty, 'combination')} of levels {'has' if empty == 1 else 'have'} no runs. {kept}"
    remedy = "Train the combinations that are missing, or leave out the levels that lack them."
    return [Diagnostic("incomplete_grid", "limits", text, remedy)]


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


def _block_errors(runs: FactorialTable, between: Mapping[Term, SumOfSquares]) -> dict[Term, ErrorTerm]:
    """Each term's error, from how effects differ from block to block, where two blocks or more show it.

    Runs of one seed and one shape share initialisation and data order, so a seed may favour a level: then an effect is
    known as well as the seeds are many, not the runs. Whether it does is not tested first: such a test misses what
    matters. The mean square of block × factor is the error of a mixed model with blocks at random (Scheffé 1959). Two-
    factor interactions share theirs, as one alone would leave too few degrees of freedom to find any.
    """
    pairs = [squares for term, squares in between.items() if len(term) == 2]
    together = SumOfSquares(sum(squares.value for squares in pairs), sum(squares.df for squares in pairs))
    errors: dict[Term, ErrorTerm] = {}
    for term, own in between.items():
        squares, name = (own, runs.name(term)) if len(term) == 1 else (together, "two-factor interactions")
        if own.df and squares.value > squares.df * (ROUNDING * runs.largest) ** 2:
            errors[term] = _error(squares, f"{runs.block} × {name}", screening=False)
    return errors


def few_blocks(runs: FactorialTable, errors: Mapping[Term, ErrorTerm]) -> list[Diagnostic]:
    """What few blocks leave of the degrees of freedom of these terms; nothing where blocks are many."""
    blocks, fewest = runs.counts_cxb.shape[1], min(error.df for error in errors.values())
    if blocks >= ENOUGH_BLOCKS:
        return []
    text = (
        f"Effects are held against how they differ between {blocks} levels of {runs.block}: on {fewest:g} "
        f"degree{'s' if fewest > 1 else ''} of freedom an interval reaches "
        f"{t_quantile((1 + LEVEL) / 2, fewest):.1f} standard errors to either side."
    )
    remedy = f"{ENOUGH_BLOCKS} levels of {runs.block} or more would narrow it most."
    return [Diagnostic("few_blocks", "limits", text, remedy)]


def differs_by_block(fitted: FitWithError, position: int) -> list[Diagnostic]:
    """What is said of a factor whose effect differs from block to block by more than noise (at 5%, Bonferroni)."""
    runs, error = fitted.runs, fitted.by_block.get((position,))
    if error is None:
        return []
    pure = pure_error(runs)
    rest = SumOfSquares(pure.value - error.sd**2 * error.df, round(pure.df - error.df))
    if rest.df < 1 or rest.value <= 0:
        return []
    f = error.sd**2 / (rest.value / rest.df)
    p = f_upper(f, error.df, rest.df)
    if p >= (1 - LEVEL) / len(runs.factors):
        return []
    text = (
        f"The effect of {runs.name((position,))} differs from {runs.block} to {runs.block} by more than noise "
        f"(F = {f:.2f} on {error.df:g} and {rest.df} df, p = {p:.2g}); its interval allows for that."
    )
    return [Diagnostic("differs_by_block", "note", text)]


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
