"""Claims: what a study's hypotheses turned out to be, each in one sentence with effect, interval, n and method.

A hypothesis stated before the study ran is *supported* when the data put what it says beyond doubt at 95%,
*contradicted* when they do so for its opposite, and else *not resolved*. Stated hypotheses share STATED_SHARE of the 5%
alike (Bonferroni): what is judged by an interval (ratios, ranges, shares, exponents, optima) is held against one as
wide as that asks for, and differences share theirs by Holm's correction (1979). What nobody stated is exploratory,
adjusted for all effects that were looked at, and has the rest: at most 5% of studies make a statement that is false by
chance.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from isoloss.analysis.claim import ALPHA, AdjustedP, Claim, Evidence, Family, unresolved, unstated_p
from isoloss.analysis.effects import Effects
from isoloss.analysis.estimate import holm, p_in_words
from isoloss.analysis.programs import SHUFFLED, one_row_a_program
from isoloss.analysis.tuned import at_best_values
from isoloss.analysis.verdicts import judged
from isoloss.design.power import STATED_SHARE
from isoloss.diagnostic import Diagnostic
from isoloss.errors import ConfigError
from isoloss.study.hypotheses import (
    TIMED,
    EffectStated,
    Hypothesis,
    OptimumStated,
    PlateauStated,
    RangeStated,
    RatioStated,
    SpikesStated,
)
from isoloss.wording import counted

TimedStated = EffectStated | RatioStated | RangeStated | OptimumStated
"""Hypotheses that may be about a time."""


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

    A main effect that a stated hypothesis tests on this response, against zero, has the smallest adjusted p of such
    claims. Any other term has that of the Holm correction over all terms, divided by the share of the 5% that unstated
    effects have.
    """
    if isinstance(effects, Diagnostic):
        return {}
    share = _unstated_share(hypotheses)
    found = {e.term: AdjustedP(p, stated=False) for e in effects.effects if (p := unstated_p(e, share)) is not None}
    tested: dict[str, float] = {}
    for stated, claim in zip(hypotheses, claims, strict=True):
        if not isinstance(stated, EffectStated) or stated.at_least is not None or stated.where:
            continue
        if stated.response == effects.response and claim.p_adjusted is not None:
            tested[stated.factor] = min(claim.p_adjusted, tested.get(stated.factor, 1.0))
    return found | {term: AdjustedP(p, stated=True) for term, p in tested.items() if term in found}


def _unstated_share(hypotheses: Sequence[Hypothesis]) -> float:
    """What effects that nobody stated have of the 5%: all of it where nothing is stated."""
    return 1 - STATED_SHARE if hypotheses else 1.0


def _draft(hypothesis: Hypothesis, evidence: Evidence, family: Family) -> Claim:
    """The claim of a hypothesis, not yet adjusted for the number of tests."""
    try:
        evidence = _compared(hypothesis, evidence.where(getattr(hypothesis, "where", ())))
        if isinstance(hypothesis, TimedStated) and hypothesis.response in TIMED:
            draft = _timed(hypothesis, evidence, family)
        else:
            draft = judged(hypothesis, evidence, family)
        return replace(draft, cautions=(*draft.cautions, *evidence.cautions))
    except ConfigError as error:  # too few runs, a missing column: the message says which
        return unresolved(hypothesis, f"It cannot be judged: {error}.", evidence.run_ids)


def _compared(hypothesis: Hypothesis, evidence: Evidence) -> Evidence:
    """What a hypothesis is judged by: levels each at their best values of the tuned settings that it is not about."""
    if isinstance(hypothesis, PlateauStated | SpikesStated):
        return evidence
    return at_best_values(evidence, {getattr(hypothesis, name, None) for name in ("factor", "moved_by")})


def _timed(stated: TimedStated, evidence: Evidence, family: Family) -> Claim:
    """A claim about a time, from one observation a program; without interval where programs were not shuffled."""
    programs, between = one_row_a_program(evidence.table, list(evidence.factors))
    if not isinstance(stated, RangeStated) and stated.factor in evidence.factors and stated.factor not in between:
        text = f"Runs of different {stated.factor} were trained together and share their times: they cannot tell."
        return unresolved(stated, text, evidence.run_ids)
    factors = {factor: evidence.factors[factor] for factor in between}
    draft = judged(stated, replace(evidence, table=programs, factors=factors), family)
    if programs[SHUFFLED].all():
        return draft
    estimate = draft.estimate and replace(draft.estimate, low=None, high=None)
    value = f" The estimate is {estimate.value:.4g}, from {counted(estimate.n, 'program')}." if estimate else ""
    text = (
        "It has no interval: programs were not trained in shuffled order, so that times may differ with the hour as "
        f"well as with the level.{value}"
    )
    return unresolved(stated, text, draft.run_ids, estimate)


def _adjusted(draft: Claim, p_adjusted: float, tests: int) -> Claim:
    """The draft with its test adjusted for the number of tests, which may leave it not resolved."""
    number = counted(tests, "stated hypothesis", "stated hypotheses")
    sentence = f"{draft.sentence}; p {p_in_words(draft.p)}, {p_in_words(p_adjusted)} adjusted for {number}."
    verdict = draft.verdict if p_adjusted < ALPHA else "not resolved"
    return replace(draft, verdict=verdict, sentence=sentence, p_adjusted=p_adjusted)
