"""Claims: what a study's hypotheses turned out to be, each in one sentence with effect, interval, n and method.

A hypothesis stated before the study ran is *supported* when the data put what it says beyond doubt at 95%,
*contradicted* when they do so for its opposite, and else *not resolved*. Stated hypotheses share STATED_SHARE of the 5%
alike (Bonferroni): what is judged by an interval (ratios, ranges, shares, exponents, optima) is held against one as
wide as that asks for, and differences share theirs by Holm's correction (1979). What nobody stated is exploratory,
adjusted for all effects that were looked at, and has the rest: at most 5% of studies make a statement that is false by
chance.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from math import exp, inf, sqrt
from typing import Any, Literal

import polars as pl
from scipy import special

from isoloss.analysis.columns import usable_rows
from isoloss.analysis.convergence import Convergence
from isoloss.analysis.curves import Spikes, proportion
from isoloss.analysis.effects import Effect, Effects, LevelDifference, analyse_effects, level_difference
from isoloss.analysis.estimate import LEVEL, Estimate, holm, in_words, p_in_words
from isoloss.analysis.laws import SUMMARY_COLUMNS
from isoloss.analysis.optimum import Optimum, best_at_edge
from isoloss.analysis.plateau import plateaued_by
from isoloss.analysis.programs import SHUFFLED, one_row_a_program
from isoloss.analysis.scaling import fit_law, parameters_of
from isoloss.analysis.stated_optimum import stated_optimum, stated_shift
from isoloss.diagnostic import Diagnostic
from isoloss.errors import ConfigError
from isoloss.spec.hypotheses import (
    TIMED,
    EffectStated,
    ExponentStated,
    Hypothesis,
    OptimumStated,
    PlateauStated,
    RangeStated,
    RatioStated,
    SpikesStated,
)
from isoloss.spec.power import STATED_SHARE
from isoloss.wording import counted

Verdict = Literal["supported", "contradicted", "not resolved", "not applicable", "exploratory", "not judged yet"]
ALPHA = 1 - LEVEL
TimedStated = EffectStated | RatioStated | RangeStated | OptimumStated
"""Hypotheses that may be about a time."""


@dataclass(frozen=True)
class Claim:
    """A statement, its verdict, and the one sentence that says why."""

    says: str
    stated: bool
    """Before the study ran; else exploratory."""
    verdict: Verdict
    screening: bool
    """Whether it rests on runs without replicates, so that other effects stand in for noise."""
    sentence: str
    estimate: Estimate | None
    p: float | None
    p_adjusted: float | None
    run_ids: tuple[str, ...]
    """The runs behind it."""
    cautions: tuple[Diagnostic, ...] = ()
    """What the reader of the verdict has to know besides."""


@dataclass(frozen=True)
class AdjustedP:
    """A term's p, adjusted for the tests it shares the 5% with: those of stated effects, or of all others."""

    p: float
    stated: bool


@dataclass(frozen=True)
class Evidence:
    """What claims are judged by: a row for each run that is done, and their curves.

    `table` has the columns run_id, seed, device, program, shuffled, every factor and the responses; `factors` has those
    with two levels or more.
    """

    table: pl.DataFrame
    factors: Mapping[str, Sequence[Any]]
    convergence: Callable[[float], Convergence]
    """All runs' convergence at a tolerance in nats per doubling of steps."""
    spikes: Callable[[float], Spikes]
    """All runs' steps that take longer than so many times their run's median."""
    lost: pl.DataFrame = field(default_factory=pl.DataFrame)
    """run_id, seed and factors of the runs that failed or diverged."""

    @property
    def ended(self) -> pl.DataFrame:
        """The table, and below it the runs that ended without a result, whose responses are null."""
        return pl.concat([self.table, self.lost], how="diagonal")

    @property
    def run_ids(self) -> tuple[str, ...]:
        """All runs, in the table's order."""
        return tuple(self.table["run_id"].to_list())

    @property
    def block(self) -> str | None:
        """The seed as a block, where there is more than one."""
        return "seed" if self.table["seed"].n_unique() > 1 else None


@dataclass(frozen=True)
class Family:
    """The stated hypotheses that share an error rate, and what effects that nobody stated have of the 5%."""

    stated: int
    unstated_share: float

    @property
    def level(self) -> float:
        """Of the interval that a hypothesis is held against."""
        return 1 - ALPHA * STATED_SHARE / self.stated


def judge(hypotheses: Sequence[Hypothesis], evidence: Evidence) -> list[Claim]:
    """A claim for every hypothesis, in their order; what cannot be judged is not resolved and says why."""
    family = Family(len(hypotheses), _unstated_share(hypotheses))
    drafts = [_draft(hypothesis, evidence, family) for hypothesis in hypotheses]
    tested = [i for i, draft in enumerate(drafts) if draft.p is not None]
    for i, p_adjusted in zip(tested, holm([drafts[i].p or 0.0 for i in tested]), strict=True):
        share = STATED_SHARE * len(tested) / len(hypotheses)
        drafts[i] = _adjusted(drafts[i], min(1.0, p_adjusted / share), len(hypotheses))
    return drafts


def adjusted_p(
    hypotheses: Sequence[Hypothesis], claims: Sequence[Claim], effects: Effects | Diagnostic
) -> dict[str, AdjustedP]:
    """The one adjusted p of each term that has a p; `claims` are those of the hypotheses, in their order.

    A main effect that a stated hypothesis tests on this response has the smallest adjusted p of such claims. Any other
    term has that of the Holm correction over all terms, divided by the share of the 5% that unstated effects have.
    """
    if isinstance(effects, Diagnostic):
        return {}
    share = _unstated_share(hypotheses)
    found = {e.term: AdjustedP(p, stated=False) for e in effects.effects if (p := _unstated_p(e, share)) is not None}
    tested: dict[str, float] = {}
    for stated, claim in zip(hypotheses, claims, strict=True):
        if isinstance(stated, EffectStated) and stated.response == effects.response and claim.p_adjusted is not None:
            tested[stated.factor] = min(claim.p_adjusted, tested.get(stated.factor, 1.0))
    return found | {term: AdjustedP(p, stated=True) for term, p in tested.items() if term in found}


def _unstated_share(hypotheses: Sequence[Hypothesis]) -> float:
    """What effects that nobody stated have of the 5%: all of it where nothing is stated."""
    return 1 - STATED_SHARE if hypotheses else 1.0


def _unstated_p(effect: Effect, share: float) -> float | None:
    return None if effect.p_holm is None else min(1.0, effect.p_holm / share)


def _draft(hypothesis: Hypothesis, evidence: Evidence, family: Family) -> Claim:
    """The claim of a hypothesis, not yet adjusted for the number of tests."""
    try:
        if isinstance(hypothesis, TimedStated) and hypothesis.response in TIMED:
            return _timed(hypothesis, evidence, family)
        return _judged(hypothesis, evidence, family)
    except ConfigError as error:  # too few runs, a missing column: the message says which
        return _unresolved(hypothesis, f"It cannot be judged: {error}.", evidence.run_ids)


def _timed(stated: TimedStated, evidence: Evidence, family: Family) -> Claim:
    """A claim about a time, from one observation a program; without interval where programs were not shuffled."""
    programs, between = one_row_a_program(evidence.table, list(evidence.factors))
    if not isinstance(stated, RangeStated) and stated.factor in evidence.factors and stated.factor not in between:
        text = f"Runs of different {stated.factor} were trained together and share their times: they cannot tell."
        return _unresolved(stated, text, evidence.run_ids)
    factors = {factor: evidence.factors[factor] for factor in between}
    draft = _judged(stated, replace(evidence, table=programs, factors=factors), family)
    if programs[SHUFFLED].all():
        return draft
    estimate = draft.estimate and replace(draft.estimate, low=None, high=None)
    value = f" The estimate is {estimate.value:.4g}, from {counted(estimate.n, 'program')}." if estimate else ""
    text = (
        "It has no interval: programs were not trained in shuffled order, so that times may differ with the hour as "
        f"well as with the level.{value}"
    )
    return _unresolved(stated, text, draft.run_ids, estimate)


def _judged(hypothesis: Hypothesis, evidence: Evidence, family: Family) -> Claim:
    match hypothesis:
        case EffectStated():
            return _effect(hypothesis, evidence, family.unstated_share)
        case RatioStated():
            return _ratio(hypothesis, evidence, family)
        case PlateauStated():
            return _plateau(hypothesis, evidence, family)
        case RangeStated():
            return _range(hypothesis, evidence, family)
        case SpikesStated():
            return _spikes(hypothesis, evidence, family)
        case ExponentStated():
            return _exponent(hypothesis, evidence, family)
        case OptimumStated(moved_by=None):
            return _optimum(hypothesis, evidence, family)
        case OptimumStated():
            return _shift(hypothesis, evidence, family)


def _effect(stated: EffectStated, evidence: Evidence, share: float) -> Claim:
    compared = _compare(stated, evidence, evidence.ended)
    if isinstance(compared, Claim):
        return compared
    low, high, difference, run_ids = compared
    estimate = difference.estimate
    if estimate is None:
        return _unresolved(stated, difference.cautions[-1].text, run_ids)
    as_stated = (estimate.value < 0) == (stated.direction == "down")
    sentence = f"{stated.response} at {stated.factor} {high} minus that at {low} is {in_words(estimate, signed=True)}"
    verdict: Verdict = "supported" if as_stated else "contradicted"
    if difference.p is None:
        return _unresolved(stated, f"{sentence}.", run_ids, estimate)
    cautions = (*difference.cautions, *_interactions(stated, evidence, share))
    return Claim(
        stated.says, True, verdict, difference.screening, sentence, estimate, difference.p, None, run_ids, cautions
    )


def _interactions(stated: EffectStated, evidence: Evidence, share: float) -> list[Diagnostic]:
    """Factors with which the stated effect changes, by two-factor interactions whose adjusted p is below ALPHA."""
    found = analyse_effects(evidence.table, stated.response, list(evidence.factors), evidence.block)
    cautions: list[Diagnostic] = []
    for effect in found.effects:
        others = [factor for factor in effect.factors if factor != stated.factor]
        p = _unstated_p(effect, share)
        if len(others) == 1 < len(effect.factors) and p is not None and p < ALPHA:
            text = (
                f"The effect of {stated.factor} changes with {others[0]} (adjusted p {p_in_words(p)}): this is its "
                "average over the levels."
            )
            cautions.append(Diagnostic("interaction", "limits", text))
    return cautions


def _ratio(stated: RatioStated, evidence: Evidence, family: Family) -> Claim:
    usable_rows(evidence.table, positive=[stated.response])
    logs = evidence.ended.with_columns(pl.col(stated.response).log())
    compared, wider = (_compare(stated, evidence, logs, level) for level in (LEVEL, family.level))
    if isinstance(compared, Claim) or isinstance(wider, Claim):
        return _unresolved(stated, compared.sentence, ()) if isinstance(compared, Claim) else _no_ratio(stated, ())
    low, high, difference, run_ids = compared
    shown, held = _ratio_of(difference.estimate), _ratio_of(wider[2].estimate)
    if shown is None or held is None:
        return _no_ratio(stated, run_ids)
    sentence = f"{stated.response} at {stated.factor} {high} over that at {low} is {in_words(shown)}."
    claim = _against_range(stated, (shown, held), stated.low, stated.high, sentence, run_ids)
    return replace(claim, screening=difference.screening, cautions=difference.cautions)


def _ratio_of(log: Estimate | None) -> Estimate | None:
    """A ratio from the difference of logarithms; None where that has no interval."""
    if log is None or log.low is None or log.high is None:
        return None
    return replace(log, value=exp(log.value), low=exp(log.low), high=exp(log.high), method=f"{log.method}, of logs")


def _plateau(stated: PlateauStated, evidence: Evidence, family: Family) -> Claim:
    """Judged on the runs that were trained up to the step: a shorter one cannot tell."""
    convergence = evidence.convergence(stated.tolerance)
    long_enough = tuple(run for run in convergence.runs if run.last_step >= stated.by_step)
    shorter = len(convergence.runs) - len(long_enough)
    run_ids = tuple(run.run for run in long_enough)
    if not long_enough:
        return _unresolved(stated, f"No run was trained for {stated.by_step:,} steps.", evidence.run_ids)
    trained = replace(convergence, runs=long_enough)
    share, held = (plateaued_by(trained, stated.by_step, level) for level in (LEVEL, family.level))
    sentence = f"The share of runs that have plateaued is {in_words(share)}."
    if shorter:
        sentence += f" {shorter} shorter runs cannot tell."
    return _against_range(stated, (share, held), stated.share, 1.0, sentence, run_ids)


def _range(stated: RangeStated, evidence: Evidence, family: Family) -> Claim:
    table = evidence.table
    if stated.device is not None:
        devices = sorted({str(device) for device in table["device"].drop_nulls()}) if "device" in table.columns else []
        table = table.filter(pl.col("device") == stated.device) if devices else table.head(0)
        if table.is_empty():
            trained = f"these runs were trained on {' and '.join(devices) or 'an unknown device'}"
            sentence = f"It is about runs on {stated.device}; {trained}."
            return replace(_unresolved(stated, sentence, evidence.run_ids), verdict="not applicable")
    rows = usable_rows(table, numeric=[stated.response])
    values, n = rows.floats(stated.response), len(rows.table)
    run_ids = tuple(rows.table["run_id"].to_list())
    if n < 2:
        return _unresolved(stated, "One run gives a mean no interval.", run_ids)
    mean, error, method = float(values.mean()), float(values.std(ddof=1)) / sqrt(n), f"mean over runs, t on {n - 1} df"

    def interval(level: float) -> Estimate:
        half = float(special.stdtrit(n - 1, (1 + level) / 2)) * error
        return Estimate(mean, mean - half, mean + half, level, n, method)

    shown = interval(LEVEL)
    sentence = f"{stated.response} is {in_words(shown)}."
    return _against_range(stated, (shown, interval(family.level)), stated.low, stated.high, sentence, run_ids)


def _spikes(stated: SpikesStated, evidence: Evidence, family: Family) -> Claim:
    spikes = evidence.spikes(stated.times)
    if spikes.share is None:
        sentence = f"No step took more than {stated.times:g} times its run's median, so there is nothing to explain."
        return _unresolved(stated, sentence, evidence.run_ids)
    sentence = (
        f"Of {spikes.spikes:,} steps that took more than {stated.times:g} times their run's median, "
        f"{spikes.after_evaluation:,} come right after an evaluation: {in_words(spikes.share)}; "
        f"by chance it would be {spikes.by_chance:.4g}. A step's time is that of the step alone, evaluation apart."
    )
    held = proportion(spikes.after_evaluation, spikes.spikes, family.level)
    return _against_range(stated, (spikes.share, held), 0.5, 1.0, sentence, evidence.run_ids)


def _exponent(stated: ExponentStated, evidence: Evidence, family: Family) -> Claim:
    fit = fit_law(evidence.table, stated.form, SUMMARY_COLUMNS)
    if fit.uncertainty is None:
        reasons = " ".join(caution.text for caution in fit.cautions)
        return _unresolved(
            stated, f"The law {stated.form} is not identified by these runs. {reasons}", evidence.run_ids
        )
    estimate = fit.parameters[stated.parameter].estimate
    sentence = f"{stated.parameter} of {stated.form} is {in_words(estimate)}, N without embeddings."
    held = parameters_of(fit.law, fit.uncertainty, family.level)[stated.parameter].estimate
    claim = _against_range(stated, (estimate, held), stated.low, stated.high, sentence, evidence.run_ids)
    return replace(claim, cautions=fit.cautions)


def _optimum(stated: OptimumStated, evidence: Evidence, family: Family) -> Claim:
    """Whether the best value lies in a range; an end that the levels do not bound is beyond every number."""
    shown, held = stated_optimum(
        evidence.table, stated.response, stated.factor, list(evidence.factors), evidence.block, family.level
    )
    estimate = Estimate(shown.value, shown.low, shown.high, LEVEL, shown.n, shown.method)
    sentence = f"{stated.response} is {shown.sought} at {stated.factor} {in_words(estimate)}."
    low, high = -inf if stated.low is None else stated.low, inf if stated.high is None else stated.high
    claim = _against_range(
        stated, (estimate, _bounded(held, family.level)), low, high, sentence, _runs(stated, evidence)
    )
    return replace(claim, cautions=(best_at_edge(shown),) if shown.edge else ())


def _bounded(found: Optimum, level: float) -> Estimate:
    """An optimum whose open ends are infinite."""
    low, high = -inf if found.low is None else found.low, inf if found.high is None else found.high
    return Estimate(found.value, low, high, level, found.n, found.method)


def _shift(stated: OptimumStated, evidence: Evidence, family: Family) -> Claim:
    """Whether an optimum stays: its shift lies within the tolerance to either side (an equivalence statement)."""
    assert stated.moved_by is not None and stated.tolerance is not None
    factors, run_ids = list(evidence.factors), _runs(stated, evidence)
    shown, held = stated_shift(
        evidence.table, stated.response, stated.factor, stated.moved_by, factors, evidence.block, family.level
    )
    if shown.estimate is None or held.estimate is None:
        return _unresolved(stated, " ".join(caution.text for caution in shown.cautions), run_ids)
    sentence = f"The best {stated.factor} moves by {in_words(shown.estimate)} {shown.unit}."
    intervals = shown.estimate, held.estimate
    claim = _against_range(stated, intervals, -stated.tolerance, stated.tolerance, sentence, run_ids)
    return replace(claim, cautions=shown.cautions)


def _runs(stated: OptimumStated, evidence: Evidence) -> tuple[str, ...]:
    used = evidence.table.drop_nulls([stated.response, *evidence.factors])
    return tuple(used["run_id"].to_list())


def _compare(
    stated: EffectStated | RatioStated, evidence: Evidence, table: pl.DataFrame, interval: float = LEVEL
) -> tuple[Any, Any, LevelDifference, tuple[str, ...]] | Claim:
    """The two levels, the second's response minus the first's, and the runs compared; a claim where there are none."""
    levels = stated.between({name: tuple(values) for name, values in evidence.factors.items()})
    if levels is None:
        return _unresolved(stated, f"{stated.factor} does not vary in this study.", ())
    low, high = levels
    if low is None or high is None:
        return _unresolved(stated, f"A level of {stated.factor} is null, which cannot be compared.", ())
    block = evidence.block
    factors = list(evidence.factors)
    difference = level_difference(table, stated.response, stated.factor, low, high, factors, block, interval)
    used = table.drop_nulls([stated.response, *evidence.factors]).filter(pl.col(stated.factor).is_in([low, high]))
    return low, high, difference, tuple(used["run_id"].to_list())


def _against_range(
    stated: Hypothesis,
    intervals: tuple[Estimate, Estimate],
    low: float,
    high: float,
    sentence: str,
    run_ids: tuple[str, ...],
) -> Claim:
    """Supported when the whole interval lies within the stated range, contradicted when it lies without.

    The second of `intervals`, the wider one of the family of hypotheses, decides; the first is shown.
    """
    shown, held = intervals
    verdict: Verdict = "not resolved"
    if held.low is not None and held.high is not None:
        if low <= held.low and held.high <= high:
            verdict = "supported"
        elif held.high < low or held.low > high:
            verdict = "contradicted"
        sentence += (
            f" It is held against the {100 * held.level:.4g}% interval, {_end(held.low)} to {_end(held.high)}, which "
            "allows for all that is stated and looked at."
        )
    return Claim(stated.says, True, verdict, False, sentence, shown, None, None, run_ids)


def _end(value: float) -> str:
    return "open" if value in (-inf, inf) else f"{value:.4g}"


def _no_ratio(stated: RatioStated, run_ids: tuple[str, ...]) -> Claim:
    return _unresolved(stated, "These runs give the ratio no interval: replicates are missing.", run_ids)


def _unresolved(stated: Hypothesis, sentence: str, run_ids: tuple[str, ...], estimate: Estimate | None = None) -> Claim:
    return Claim(stated.says, True, "not resolved", False, sentence, estimate, None, None, run_ids)


def _adjusted(draft: Claim, p_adjusted: float, tests: int) -> Claim:
    """The draft with its test adjusted for the number of tests, which may leave it not resolved."""
    number = counted(tests, "stated hypothesis", "stated hypotheses")
    sentence = f"{draft.sentence}; p {p_in_words(draft.p)}, {p_in_words(p_adjusted)} adjusted for {number}."
    verdict = draft.verdict if p_adjusted < ALPHA else "not resolved"
    return replace(draft, verdict=verdict, sentence=sentence, p_adjusted=p_adjusted)
