"""What each kind of hypothesis turned out to be, by the test or the interval that its kind asks for."""

from __future__ import annotations

from dataclasses import replace
from math import exp, inf, sqrt
from typing import Any

import polars as pl
from scipy import special

from isoloss.analysis.claim import ALPHA, OF_RUNS, Claim, Evidence, Family, Verdict, unresolved, unstated_p
from isoloss.analysis.columns import usable_rows
from isoloss.analysis.curves import proportion
from isoloss.analysis.effects import Effects, analyse_effects
from isoloss.analysis.estimate import LEVEL, Estimate, in_words, p_in_words
from isoloss.analysis.laws import summary_columns
from isoloss.analysis.level_difference import LevelDifference, level_difference
from isoloss.analysis.optimum import Optimum, best_at_edge
from isoloss.analysis.plateau import plateaued_by
from isoloss.analysis.scaling import fit_law, parameters_of
from isoloss.analysis.stated_optimum import stated_optimum, stated_shift
from isoloss.diagnostic import Diagnostic
from isoloss.study.hypotheses import (
    EffectStated,
    ExponentStated,
    Hypothesis,
    OptimumStated,
    PlateauStated,
    RangeStated,
    RatioStated,
    SpikesStated,
)
from isoloss.wording import listed, signed


def judged(hypothesis: Hypothesis, evidence: Evidence, family: Family) -> Claim:
    """The claim of a hypothesis, not yet adjusted for the number of tests.

    Raises ConfigError when a column is missing, or runs are too few.
    """
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
    compared = _compare(stated, evidence, evidence.ended, against=stated.bound)
    if isinstance(compared, Claim):
        return compared
    low, high, difference, run_ids = compared
    estimate = difference.estimate
    if estimate is None:
        return unresolved(stated, difference.cautions[-1].text, run_ids)
    as_stated = (estimate.value < stated.bound) == (stated.direction == "down")
    levels = f"{stated.response} at {stated.factor} {high} minus that at {low}{_at_best(evidence)}"
    sentence = f"{levels} is {in_words(estimate, signed=True)}"
    if stated.at_least is not None:
        sentence += f", held against the {signed(stated.bound)} that it has to lie beyond"
    verdict: Verdict = "supported" if as_stated else "contradicted"
    if difference.p is None:
        return unresolved(stated, f"{sentence}.", run_ids, estimate)
    found = _all_effects(stated, evidence)
    cautions = (*difference.cautions, *_interactions(stated, found, share), *_of_runs(found))
    judged_by = difference.screening, sentence, estimate, difference.p, None, run_ids, cautions
    return Claim(stated.says, True, verdict, *judged_by, difference.probability)


def _at_best(evidence: Evidence) -> str:
    return f", each at its best {listed(evidence.at_best)}," if evidence.at_best else ""


def _interactions(stated: EffectStated, found: Effects, share: float) -> list[Diagnostic]:
    """Factors with which the stated effect changes, by two-factor interactions whose adjusted p is below ALPHA."""
    cautions: list[Diagnostic] = []
    for effect in found.effects:
        others = [factor for factor in effect.factors if factor != stated.factor]
        p = unstated_p(effect, share)
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
        return unresolved(stated, compared.sentence, ()) if isinstance(compared, Claim) else _no_ratio(stated, ())
    low, high, difference, run_ids = compared
    shown, held = _ratio_of(difference.estimate), _ratio_of(wider[2].estimate)
    if shown is None or held is None:
        return _no_ratio(stated, run_ids)
    sentence = (
        f"{stated.response} at {stated.factor} {high} over that at {low}{_at_best(evidence)} is {in_words(shown)}."
    )
    claim = _against_range(stated, (shown, held), stated.low, stated.high, sentence, run_ids)
    found = analyse_effects(logs, stated.response, list(evidence.factors), evidence.block)
    cautions = (*difference.cautions, *_of_runs(found))
    return replace(claim, screening=difference.screening, cautions=cautions, probability=difference.probability)


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
        return unresolved(stated, f"No run was trained for {stated.by_step:,} steps.", evidence.run_ids)
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
            return replace(unresolved(stated, sentence, evidence.run_ids), verdict="not applicable")
    rows = usable_rows(table, numeric=[stated.response])
    values, n = rows.floats(stated.response), len(rows.table)
    run_ids = tuple(rows.table["run_id"].to_list())
    if n < 2:
        return unresolved(stated, "One run gives a mean no interval.", run_ids)
    mean, error, method = float(values.mean()), float(values.std(ddof=1)) / sqrt(n), f"mean over runs, t on {n - 1} df"

    def interval(level: float) -> Estimate:
        half = float(special.stdtrit(n - 1, (1 + level) / 2)) * error
        return Estimate(mean, mean - half, mean + half, level, n, method)

    shown = interval(LEVEL)
    sentence = f"{stated.response}{_at_best(evidence)} is {in_words(shown)}."
    return _against_range(stated, (shown, interval(family.level)), stated.low, stated.high, sentence, run_ids)


def _spikes(stated: SpikesStated, evidence: Evidence, family: Family) -> Claim:
    spikes = evidence.spikes(stated.times)
    if spikes.share is None:
        sentence = f"No step took more than {stated.times:g} times its run's median, so there is nothing to explain."
        return unresolved(stated, sentence, evidence.run_ids)
    sentence = (
        f"Of {spikes.spikes:,} steps that took more than {stated.times:g} times their run's median, "
        f"{spikes.after_evaluation:,} come right after an evaluation: {in_words(spikes.share)}; "
        f"by chance it would be {spikes.by_chance:.4g}. A step's time is that of the step alone, evaluation apart."
    )
    held = proportion(spikes.after_evaluation, spikes.spikes, family.level)
    return _against_range(stated, (spikes.share, held), 0.5, 1.0, sentence, evidence.run_ids)


def _exponent(stated: ExponentStated, evidence: Evidence, family: Family) -> Claim:
    fit = fit_law(evidence.table, stated.form, summary_columns(evidence.table))
    if fit.uncertainty is None:
        reasons = " ".join(caution.text for caution in fit.cautions)
        return unresolved(stated, f"The law {stated.form} is not identified by these runs. {reasons}", evidence.run_ids)
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
    sentence = f"{stated.response}{_at_best(evidence)} is {shown.sought} at {stated.factor} {in_words(estimate)}."
    low, high = -inf if stated.low is None else stated.low, inf if stated.high is None else stated.high
    claim = _against_range(
        stated, (estimate, _bounded(held, family.level)), low, high, sentence, _runs(stated, evidence)
    )
    edge = [best_at_edge(shown)] if shown.edge else []
    return replace(claim, cautions=(*edge, *_of_runs(_all_effects(stated, evidence))))


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
        return unresolved(stated, " ".join(caution.text for caution in shown.cautions), run_ids)
    sentence = f"The best {stated.factor} moves by {in_words(shown.estimate)} {shown.unit}."
    intervals = shown.estimate, held.estimate
    claim = _against_range(stated, intervals, -stated.tolerance, stated.tolerance, sentence, run_ids)
    return replace(claim, cautions=(*shown.cautions, *_of_runs(_all_effects(stated, evidence))))


def _all_effects(stated: EffectStated | OptimumStated, evidence: Evidence) -> Effects:
    return analyse_effects(evidence.ended, stated.response, list(evidence.factors), evidence.block)


def _of_runs(found: Effects) -> list[Diagnostic]:
    """What every claim repeats of the runs that all effects rest on."""
    return [caution for caution in found.cautions if caution.code in OF_RUNS]


def _runs(stated: OptimumStated, evidence: Evidence) -> tuple[str, ...]:
    used = evidence.table.drop_nulls([stated.response, *evidence.factors])
    return tuple(used["run_id"].to_list())


def _compare(
    stated: EffectStated | RatioStated,
    evidence: Evidence,
    table: pl.DataFrame,
    interval: float = LEVEL,
    against: float = 0.0,
) -> tuple[Any, Any, LevelDifference, tuple[str, ...]] | Claim:
    """The two levels, the second's response minus the first's, and the runs compared; a claim where there are none."""
    levels = stated.between({name: tuple(values) for name, values in evidence.factors.items()})
    if levels is None:
        return unresolved(stated, f"{stated.factor} does not vary in this study.", ())
    low, high = levels
    if low is None or high is None:
        return unresolved(stated, f"A level of {stated.factor} is null, which cannot be compared.", ())
    block = evidence.block
    factors = list(evidence.factors)
    difference = level_difference(table, stated.response, stated.factor, low, high, factors, block, interval, against)
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
    return unresolved(stated, "These runs give the ratio no interval: replicates are missing.", run_ids)
