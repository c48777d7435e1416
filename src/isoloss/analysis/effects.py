"""Effects of what was varied: main effects and two-factor interactions, each with its interval and what that rests on.

Sums of squares are Type II: each term adjusted for all terms not containing it. Sizes are contrasts of least-squares
means, every cell weighing alike. In a balanced table both tell the same story; in an unbalanced one they answer
slightly different questions, and a caution says so. The interaction of two factors of two levels is half the difference
of differences, so that it compares with a main effect; other interactions are products of contrasts, unhalved.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
import polars as pl

from isoloss.analysis.error_term import ErrorTerm, FitWithError, differs_by_block, fit_with_error
from isoloss.analysis.estimate import LEVEL, Estimate, holm
from isoloss.analysis.factorial import Floats, Term, f_quantile, f_upper, t_quantile, t_two_sided, terms_of
from isoloss.analysis.factorial_table import FactorialTable, read_factorial_table
from isoloss.analysis.lost_runs import LostCell, LostRuns, cells_in_words, lost_cells, lost_in_words, lost_runs
from isoloss.analysis.optimum import Optimum, optima
from isoloss.analysis.optimum_shift import OptimumShift, optimum_shifts
from isoloss.analysis.outlying_runs import OutlyingRun, outlying_in_words, outlying_runs
from isoloss.analysis.response_scale import Scale
from isoloss.analysis.run_residuals import RunResiduals, run_residuals
from isoloss.analysis.screening import Screening
from isoloss.diagnostic import Diagnostic
from isoloss.spec.power import detectable_effect


@dataclass(frozen=True)
class Contrast:
    """One contrast of least-squares means; `estimate` is None where the runs do not determine it."""

    contrast: str
    estimate: Estimate | None


@dataclass(frozen=True)
class LevelRange:
    """A factor's levels with the lowest and the highest least-squares mean; `estimate` is the highest minus the lowest.

    Its interval allows for the levels having been chosen by their means (Scheffé 1953); of two levels it is that of t.
    """

    lowest: float | str | bool
    highest: float | str | bool
    estimate: Estimate


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
    p: float | None
    p_holm: float | None
    partial_eta_squared: float | None
    detectable: float | None
    """The size of the first contrast that replicates like these find with 80% power."""
    range: LevelRange | None
    """Of a main effect whose level means the runs determine."""
    error: ErrorTerm | None
    """What it is tested with: block × term where blocks show how it differs between them."""


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
    shifts = optimum_shifts(fitted)
    residuals = run_residuals(runs, fitted.fit)
    outlying = outlying_runs(residuals)
    differing = [said for position in range(len(runs.factors)) for said in differs_by_block(fitted, position)]
    cautions = (
        *fitted.cautions,
        *lost_in_words(lost),
        *cells_in_words(cells),
        *outlying_in_words(outlying, response),
        *differing,
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
        optima(fitted, [term for term, effect in zip(terms, effects, strict=True) if _interacts(effect, shifts)]),
        shifts,
        lost,
        tuple(outlying),
        residuals,
        lost_cells=cells,
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
    runs, error = fitted.runs, fitted.error_of(term)
    first, *others = [
        Contrast(wording, _contrast_estimate(fitted, term, weights)) for wording, weights in _contrasts(runs, term)
    ]
    squares = fitted.fit.type_two(term)
    f = p = share = None
    if error is not None and fitted.screening is not None and first.estimate is not None:
        p = t_two_sided(first.estimate.value / fitted.screening.pse, error.df)
    elif error is not None and fitted.screening is None and squares.df:
        f = squares.value / squares.df / error.sd**2
        p = f_upper(f, squares.df, error.df)
        share = squares.value / (squares.value + error.sd**2 * error.df)
    names = tuple(runs.factors[position].name for position in term)
    detectable = _detectable(fitted, term)
    return Effect(
        runs.name(term),
        names,
        first.contrast,
        first.estimate,
        tuple(others),
        squares.df,
        f,
        p,
        None,
        share,
        detectable,
        _range(fitted, term[0]) if len(term) == 1 else None,
        error,
    )


def means_above_first(fitted: FitWithError, position: int) -> list[float] | None:
    """Least-squares means of a factor's levels above that of the first; None where the runs do not determine them."""
    factor = fitted.runs.factors[position]
    found = [
        fitted.fit.contrast((position,), [factor.difference(0, level)[1]]) for level in range(1, len(factor.levels))
    ]
    return None if None in found else [0.0, *(value for value, _ in filter(None, found))]


def _range(fitted: FitWithError, position: int) -> LevelRange | None:
    factor, last = fitted.runs.factors[position], len(fitted.runs.factors[position].levels) - 1
    above_first = means_above_first(fitted, position)
    if above_first is None:
        return None
    lowest, highest = int(np.argmin(above_first)), int(np.argmax(above_first))
    if lowest == highest:
        lowest, highest = 0, last
    found = fitted.fit.contrast((position,), [factor.difference(lowest, highest)[1]])
    if found is None:
        return None
    estimate = contrast_estimate(fitted.runs.n, fitted.error_of((position,)), *found, "largest difference", last)
    return LevelRange(factor.levels[lowest], factor.levels[highest], estimate)


def _detectable(fitted: FitWithError, term: Term) -> float | None:
    error = fitted.error_of(term)
    found = fitted.fit.contrast(term, _contrasts(fitted.runs, term)[0][1])
    if error is None or error.screening or found is None:
        return None
    return detectable_effect(error.sd * math.sqrt(found[1]), error.df)


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


def _contrast_estimate(fitted: FitWithError, term: Term, weights: Sequence[Floats]) -> Estimate | None:
    found = fitted.fit.contrast(term, weights)
    return None if found is None else contrast_estimate(fitted.runs.n, fitted.error_of(term), *found, "contrast")


def contrast_estimate(
    n: int, error: ErrorTerm | None, value: float, variance: float, kind: str, df: int = 1, interval: float = LEVEL
) -> Estimate:
    """A contrast with its interval: t, or Scheffé's for one that was chosen among all of a term's `df` dimensions.

    `variance` is in units of the error variance.
    """
    if error is None:
        return Estimate(value, None, None, interval, n, f"{kind} of least-squares means; no error to judge it by")
    times = t_quantile((1 + interval) / 2, error.df) if df == 1 else math.sqrt(df * f_quantile(interval, df, error.df))
    reach = times * error.sd * math.sqrt(variance)
    label = "screening: " if error.screening else ""
    on = f"t on {error.df:.4g} df" if df == 1 else f"Scheffé on {df} and {error.df:.4g} df"
    method = f"{kind} of least-squares means; {label}{on} of {error.source}"
    return Estimate(value, value - reach, value + reach, interval, n, method)


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
