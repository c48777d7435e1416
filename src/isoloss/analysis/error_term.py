"""The error that the effects of a factorial are tested with: from blocks, replicates, or, without any, smaller effects.

The choice follows from the design alone, never from what the responses turned out to be.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field, replace

import numpy as np

from isoloss.analysis.estimate import LEVEL
from isoloss.analysis.factorial import (
    Floats,
    SumOfSquares,
    Term,
    TwoFactorFit,
    f_upper,
    fit_two_factor,
    pure_error,
    t_quantile,
)
from isoloss.analysis.factorial_table import FactorialTable
from isoloss.analysis.scatter import FTest, Scatter, scatter_between_blocks, scatter_within_cells
from isoloss.analysis.screening import Screening, screen
from isoloss.diagnostic import Diagnostic
from isoloss.wording import counted

MIN_PURE_DF = 4
"""Below it Student's t is so wide (2.8 at 4, 12.7 at 1) that pooling higher-order interactions resolves more."""
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
class StandardError:
    """That of a contrast, with the degrees of freedom of its t and where it is from."""

    value: float
    df: float
    source: str
    screening: bool


@dataclass(frozen=True)
class FitWithError:
    """A fitted factorial and what its contrasts are tested with.

    `error` is that of single runs; `scatter` is what blocks or cells show of it, whatever the noise of each level;
    `shared` are terms tested with one error that they have in common.
    """

    runs: FactorialTable
    fit: TwoFactorFit
    error: ErrorTerm | None
    screening: Screening | None
    cautions: tuple[Diagnostic, ...]
    scatter: Scatter | None = None
    shared: Mapping[Term, ErrorTerm] = field(default_factory=dict[Term, ErrorTerm])

    @property
    def constant(self) -> bool:
        """Whether all responses are the same, to rounding: no level is better than another."""
        return any(caution.code == "constant_response" for caution in self.cautions)

    def standard_error(self, term: Term, weights_r: Floats) -> StandardError | None:
        """What a contrast of a term is tested with; `weights_r` are those of `TwoFactorFit.contrast`."""
        length = float(np.linalg.norm(weights_r))
        if self.scatter is not None and term not in self.shared:
            variance, df = self.scatter.variance(weights_r)
            if variance > (length * self.runs.rounding) ** 2:
                return StandardError(math.sqrt(variance), df, self._source(term), screening=False)
        error = self.shared.get(term, self.error)
        return None if error is None else StandardError(length * error.sd, error.df, error.source, error.screening)

    def test(self, term: Term) -> FTest | None:
        """The test of a whole term; None where the runs do not determine it, or effects are screened."""
        squares, error = self.fit.type_two(term), self.shared.get(term, self.error)
        if not squares.df or error is None or self.screening is not None:
            return None
        if self.scatter is not None and term not in self.shared:
            added_rxd = self.fit.added(term)
            if self.scatter.mean_square(added_rxd)[0] > self.runs.rounding**2:
                return self.scatter.test(added_rxd, squares.value)
        return FTest(squares.value / squares.df / error.sd**2, squares.df, error.df)

    def error_of(self, term: Term) -> ErrorTerm | None:
        """The one error that all contrasts of a term have where levels are equally noisy."""
        if term in self.shared or (squares := self.between(term)) is None:
            return self.shared.get(term, self.error)
        return _error(squares, self._source(term), screening=False)

    def between(self, term: Term) -> SumOfSquares | None:
        """How a term differs from block to block, on its own degrees of freedom times those of blocks, if it does."""
        if self.scatter is None or self.scatter.design is None or not self.fit.added(term).size:
            return None
        mean_square, df = self.scatter.mean_square(self.fit.added(term))
        return (
            SumOfSquares(mean_square * max(round(df), 1), max(round(df), 1))
            if mean_square > self.runs.rounding**2
            else None
        )

    def _source(self, term: Term) -> str:
        assert self.scatter is not None
        return f"{self.scatter.name} × {self.runs.name(term)}" if self.scatter.design else self.scatter.name


def fit_with_error(runs: FactorialTable) -> FitWithError:
    """Fit the model and choose its error; `runs` has a factor or more. An error of zero is none."""
    fit = fit_two_factor(runs)
    noise = runs.rounding
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
    fitted = FitWithError(runs, fit, error, screening, tuple(cautions))
    if error is None or not runs.replicated:
        return fitted
    if runs.block is not None:
        fitted = replace(fitted, scatter=scatter_between_blocks(runs, fit), cautions=(*cautions, *few_blocks(runs)))
        return replace(fitted, shared=_shared_by_interactions(fitted))
    return fitted if _pools_interactions(runs, fit) else replace(fitted, scatter=scatter_within_cells(runs, fit))


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


def _pools_interactions(runs: FactorialTable, fit: TwoFactorFit) -> bool:
    """Whether replicates are so few that interactions of three and more factors are taken for noise as well."""
    return pure_error(runs).df < min(MIN_PURE_DF, fit.residual.df)


def _replicate_error(runs: FactorialTable, fit: TwoFactorFit) -> tuple[ErrorTerm, list[Diagnostic]]:
    """Pure error; where replicates are too few, the model's residual, which holds higher-order interactions as well."""
    pure = pure_error(runs)
    blocked = f" after additive {runs.block} blocks" if runs.block else ""
    if _pools_interactions(runs, fit):
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


def _shared_by_interactions(fitted: FitWithError) -> dict[Term, ErrorTerm]:
    """One error for all interactions of two levels with two, from how they differ between blocks.

    Their contrasts weigh all runs alike, so that unequal noise is the same to them; alone, each would have so few
    degrees of freedom that none could be found.
    """
    two = [
        term
        for term in fitted.fit.columns
        if len(term) == 2 and all(len(fitted.runs.factors[position].levels) == 2 for position in term)
    ]
    squares = [found for term in two if (found := fitted.between(term)) is not None]
    together = SumOfSquares(sum(each.value for each in squares), sum(each.df for each in squares))
    if not together.df:
        return {}
    return dict.fromkeys(two, _error(together, f"{fitted.runs.block} × two-factor interactions", screening=False))


def few_blocks(runs: FactorialTable) -> list[Diagnostic]:
    """What few blocks leave of the degrees of freedom of effects; nothing where blocks are many."""
    blocks = runs.counts_cxb.shape[1]
    if blocks >= ENOUGH_BLOCKS:
        return []
    df = blocks - 1
    text = (
        f"Effects are held against how they differ between {blocks} levels of {runs.block}: on {df} "
        f"degree{'s' if df > 1 else ''} of freedom an interval reaches {t_quantile((1 + LEVEL) / 2, df):.1f} standard "
        "errors to either side."
    )
    remedy = f"{ENOUGH_BLOCKS} levels of {runs.block} or more would narrow it most."
    return [Diagnostic("few_blocks", "limits", text, remedy)]


def differs_by_block(fitted: FitWithError, position: int) -> list[Diagnostic]:
    """What is said of a factor whose effect differs from block to block by more than noise (at 5%, Bonferroni)."""
    runs, own, pure = fitted.runs, fitted.between((position,)), pure_error(fitted.runs)
    if own is None or pure.df <= own.df or pure.value <= own.value:
        return []
    rest = SumOfSquares(pure.value - own.value, pure.df - own.df)
    f = own.value / own.df / (rest.value / rest.df)
    p = f_upper(f, own.df, rest.df)
    if p >= (1 - LEVEL) / len(runs.factors):
        return []
    text = (
        f"The effect of {runs.name((position,))} differs from {runs.block} to {runs.block} by more than noise "
        f"(F = {f:.2f} on {own.df} and {rest.df} df, p = {p:.2g}); its interval allows for that."
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
        why = f"{fewest:,} to {most:,} runs a cell that has any" if fewest < most else "not every cell has runs"
        text = (
            f"The table is unbalanced ({why}): tests compare models (Type II) and sizes weigh cells alike, so an "
            "interval and its p can disagree."
        )
        cautions.append(Diagnostic("unbalanced", "limits", text))
    return cautions
