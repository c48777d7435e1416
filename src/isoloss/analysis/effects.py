"""Effects of what was varied: main effects and two-factor interactions, each with its interval and what that rests on.

Sums of squares are Type II: each term adjusted for all terms not containing it. Sizes are contrasts of least-squares
means, every cell weighing alike. In a balanced table both tell the same story; in an unbalanced one they answer
slightly different questions, and a caution says so. The interaction of two factors of two levels is half the difference
of differences, so that it compares with a main effect; other interactions are products of contrasts, unhalved.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import polars as pl

from isoloss.analysis.error_term import ErrorTerm, FitWithError, differs_by_block, fit_with_error
from isoloss.analysis.estimate import LEVEL, Estimate, holm
from isoloss.analysis.factorial import Floats, Term, t_two_sided, terms_of
from isoloss.analysis.factorial_table import FactorialTable, read_factorial_table
from isoloss.analysis.level_range import LevelRange, contrast_estimate, half_widths, level_range
from isoloss.analysis.lost_runs import LostCell, LostRuns, cells_in_words, lost_cells, lost_in_words, lost_runs
from isoloss.analysis.optimum import Optimum, optima
from isoloss.analysis.optimum_shift import OptimumShift, optimum_shifts
from isoloss.analysis.outlying_runs import OutlyingRun, outlying_in_words, outlying_runs
from isoloss.analysis.response_scale import Scale
from isoloss.analysis.run_residuals import RunResiduals, run_residuals
from isoloss.analysis.screening import Screening
from isoloss.analysis.unequal_noise import NoiseTest, noise_in_words, noise_tests
from isoloss.design.power import detectable_effect
from isoloss.diagnostic import Diagnostic


@dataclass(frozen=True)
class Contrast:
    """One contrast of least-squares means; `estimate` is None where the runs do not determine it."""

    contrast: str
    estimate: Estimate | None


@dataclass(frozen=True)
class Effect:
    """A term of the model: its first contrast in the response's unit, its `others`, and the test of the whole term.

    `df` is 0 where the runs do not determine the term. `p` is of F, or of Lenth's pseudo-t in a screening, where there
    is no F; `p_holm` is adjusted for all terms that have a p. What could not be computed is None.
    """

    term: str
    factors: tuple[str, ...]
    contrast: str
    estimate: Estimate | None
    others: tuple[Contrast, ...]
    df: int
    F: float | None
    F_df: tuple[float, float] | None
    """What F is held against; not whole numbers where levels may be unequally noisy."""
    p: float | None
    p_holm: float | None
    partial_eta_squared: float | None
    detectable: float | None
    """The size of the first contrast that replicates like these find with 80% power."""
    range: LevelRange | None
    """Of a main effect whose level means the runs determine."""
    error: ErrorTerm | None
    """What the first contrast is tested with; `sd` is that of a run, which is the same for all contrasts of a term."""
    half_widths: tuple[float, ...] | None
    """Of the 95% intervals of a main effect's level means: without a block by each level's own noise."""


@dataclass(frozen=True)
class Effects:
    """All main effects and two-factor interactions of `n` runs in `n_cells` cells; `error` is that of single runs."""

    response: str
    n: int
    n_cells: int
    replicated: bool
    block: str | None
    error: ErrorTerm | None
    effects: tuple[Effect, ...]
    cautions: tuple[Diagnostic, ...]
    screening: Screening | None
    optima: tuple[Optimum, ...] = ()
    """Of numeric factors of three levels or more; at each level of a factor they interact with (adjusted p < 5%)."""
    shifts: tuple[OptimumShift, ...] = ()
    """How far the optimum of one numeric factor moves with another."""
    lost_runs: tuple[LostRuns, ...] = ()
    """Of each factor, what its levels lost; empty where every run has a result."""
    outlying_runs: tuple[OutlyingRun, ...] = ()
    """Runs far outside the noise of all others, the furthest first."""
    residuals: RunResiduals | None = None
    """What the model leaves of each run."""
    scale: Scale = "raw"
    """Of the response, whose name says it too."""
    lost_cells: tuple[LostCell, ...] = ()
    """Combinations of levels that lost half of their runs or more."""
    tuned: tuple[str, ...] = ()
    """Settings that are no factors here: the runs are those at the best value in each cell."""
    noise_tests: tuple[NoiseTest, ...] = ()
    """Whether the levels of each factor are equally noisy."""


def analyse_effects(table: pl.DataFrame, response: str, factors: Sequence[str], block: str | None = None) -> Effects:
    """Main effects and two-factor interactions of a table with one row a run.

    With a `block` (the seed) that has runs in most cells, each effect is tested with how it differs from block to
    block. Otherwise, with replicates, the error is what differs within cells. Without any, a complete two-level
    factorial is screened by Lenth's margins, and any other table is held against its interactions of three and more
    factors. Raises ConfigError when a column is missing or unfit.
    """
    runs = read_factorial_table(table, response, factors, block)
    if not runs.factors:
        cautions = (
            *runs.cautions,
            Diagnostic("no_factor", "blocks", "No factor has two levels: there is no effect to compute."),
        )
        return Effects(response, runs.n, 1, runs.replicated, runs.block, None, (), cautions, None)
    names = [factor.name for factor in runs.factors]
    fitted, lost = fit_with_error(runs), lost_runs(table, response, names)
    cells = lost_cells(table, response, names)
    terms = terms_of(len(runs.factors))
    effects = [_effect(fitted, term) for term in terms]
    tested = [number for number, effect in enumerate(effects) if effect.p is not None]
    for number, p_holm in zip(tested, holm([effects[number].p or 0.0 for number in tested]), strict=True):
        effects[number] = replace(effects[number], p_holm=p_holm)
    shifts = () if fitted.constant else optimum_shifts(fitted)
    interacting = [term for term, effect in zip(terms, effects, strict=True) if _interacts(effect, shifts)]
    residuals = run_residuals(runs, fitted.fit)
    outlying, noises = outlying_runs(residuals), noise_tests(residuals)
    differing = [said for position in range(len(runs.factors)) for said in differs_by_block(fitted, position)]
    cautions = (
        *fitted.cautions,
        *lost_in_words(lost),
        *cells_in_words(cells),
        *outlying_in_words(outlying, response),
        *differing,
        *noise_in_words(noises, allowed=fitted.scatter is not None),
        *_undetermined(effects),
    )
    return Effects(
        response,
        runs.n,
        runs.n_cells,
        runs.replicated,
        runs.block,
        fitted.error,
        tuple(effects),
        cautions,
        fitted.screening,
        () if fitted.constant else optima(fitted, interacting),
        shifts,
        lost,
        tuple(outlying),
        residuals,
        lost_cells=cells,
        noise_tests=noises,
    )


def _interacts(effect: Effect, shifts: Sequence[OptimumShift]) -> bool:
    """Whether two factors interact by more than chance explains, or, where no test is to be had, an optimum moves."""
    if len(effect.factors) < 2:
        return False
    if effect.p_holm is not None:
        return effect.p_holm < 1 - LEVEL
    own = [each.p for each in shifts if {each.factor, each.moved_by} == {*effect.factors}]
    return any(p is not None and p < (1 - LEVEL) / len(shifts) for p in own)


def _effect(fitted: FitWithError, term: Term) -> Effect:
    """A term's contrasts and its test, not yet adjusted for the other terms."""
    runs, error, tested = fitted.runs, fitted.error_of(term), fitted.test(term)
    asked = [(wording, fitted.fit.contrast(term, weights)) for wording, weights in _contrasts(runs, term)]
    first, *others = [
        Contrast(wording, None if weights_r is None else _contrast_estimate(fitted, term, weights_r))
        for wording, weights_r in asked
    ]
    squares = fitted.fit.type_two(term)
    p = tested.p if tested is not None else None
    if error is not None and fitted.screening is not None and first.estimate is not None:
        p = t_two_sided(first.estimate.value / fitted.screening.pse, error.df)
    size = None if asked[0][1] is None else fitted.standard_error(term, asked[0][1])
    return Effect(
        term=runs.name(term),
        factors=tuple(runs.factors[position].name for position in term),
        contrast=first.contrast,
        estimate=first.estimate,
        others=tuple(others),
        df=squares.df,
        F=tested.f if tested else None,
        F_df=(tested.df, tested.error_df) if tested else None,
        p=p,
        p_holm=None,
        partial_eta_squared=squares.value / (squares.value + error.sd**2 * error.df) if tested and error else None,
        detectable=None if size is None or size.screening else detectable_effect(size.value, size.df),
        range=level_range(fitted, term[0]) if len(term) == 1 else None,
        error=replace(error, df=size.df, source=size.source) if error and size else error,
        half_widths=half_widths(fitted, term[0]) if len(term) == 1 else None,
    )


def _contrasts(runs: FactorialTable, term: Term) -> list[tuple[str, list[Floats]]]:
    """What is asked of a term, in words and in weights of each factor's levels."""
    own = [runs.factors[position].contrasts() for position in term]
    if len(term) == 1:
        return [(wording, [weights]) for wording, weights in own[0]]
    both_two = all(len(runs.factors[position].levels) == 2 for position in term)
    half = 0.5 if both_two else 1.0
    return [
        (f"{'½ ' if both_two else ''}({a}) × ({b})", [half * a_weights, b_weights])
        for a, a_weights in own[0]
        for b, b_weights in own[1]
    ]


def _contrast_estimate(fitted: FitWithError, term: Term, weights_r: Floats) -> Estimate:
    error = fitted.standard_error(term, weights_r)
    return contrast_estimate(fitted.runs.n, error, fitted.fit.value(weights_r), "contrast")


def _undetermined(effects: Sequence[Effect]) -> list[Diagnostic]:
    """Terms of which the runs determine nothing, or not all contrasts."""
    lost = [effect.term for effect in effects if effect.df == 0]
    partly = [
        effect.term
        for effect in effects
        if effect.df and (effect.estimate is None or any(other.estimate is None for other in effect.others))
    ]
    cautions: list[Diagnostic] = []
    if lost:
        text = f"Not determined by these runs, other terms explain the same differences: {', '.join(lost)}."
        cautions.append(Diagnostic("not_estimable", "blocks", text))
    if partly:
        text = f"Tested on the runs there are, but sizes need cells that have none: {', '.join(partly)}."
        cautions.append(Diagnostic("partly_estimable", "limits", text))
    return cautions
