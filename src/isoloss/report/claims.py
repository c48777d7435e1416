"""The claims of the page: what each hypothesis turned out to be, and what stands out though nobody stated it."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator

import polars as pl

from isoloss.analysis.claims import Claim
from isoloss.report import wording as say
from isoloss.report.effects import estimate_columns
from isoloss.report.findings import Findings
from isoloss.report.parts import Table
from isoloss.report.snapshot import Snapshot

ONE_SEED_EFFECTS = ", and an effect is screened against other effects, not tested against noise"
VERDICTS = ("supported", "contradicted", "not resolved", "not applicable", "not judged yet")


def claim_sentences(snapshot: Snapshot, findings: Findings) -> list[str]:
    """How the hypotheses fared, and what one seed cannot show."""
    return list(_sentences(snapshot, findings.claims))


def verdicts_in_words(claims: list[Claim]) -> str:
    """'2 are supported and 1 is not resolved'."""
    counts = Counter(claim.verdict for claim in claims)
    return say.listed([f"{counts[v]} {'is' if counts[v] == 1 else 'are'} {v}" for v in VERDICTS if counts[v]])


def exploratory_sentence(findings: Findings) -> str:
    """How many effects were looked at, and how many that no hypothesis states stand out."""
    if not findings.adjusted:
        return "Nothing could be explored beyond the hypotheses: these runs hold no effect that can be tested."
    found = len(findings.exploratory)
    return (
        f"{say.plural(len(findings.adjusted), 'comparison')} of the best validation loss were looked at, main effects "
        f"and two-factor interactions; {'none' if not found else say.count(found)} that no hypothesis states "
        f"{'stands' if found < 2 else 'stand'} out after correction for all of them. "
        "What was not stated before the study ran is exploratory: a lead for the next study, not a result of this one."
    )


def claim_table(findings: Findings) -> Table:
    """All claims, the stated ones first, each with the numbers it rests on."""
    claims = [*findings.claims, *findings.exploratory]
    rows = [(claim.says, claim.verdict, *_numbers(claim)) for claim in claims]
    exact = [
        {
            "statement": claim.says,
            "stated": claim.stated,
            "verdict": claim.verdict,
            "screening": claim.screening,
            **estimate_columns(claim.estimate),
            "p": claim.p,
            "p_adjusted": claim.p_adjusted,
            "sentence": claim.sentence,
            "cautions": " ".join(caution.text for caution in claim.cautions),
            "run_ids": " ".join(claim.run_ids),
        }
        for claim in claims
    ]
    head = ("statement", "verdict", "effect, 95% interval", "n", "p adjusted")
    return Table(head, rows, numbers_from=2, exact=pl.DataFrame(exact, infer_schema_length=None))


def _sentences(snapshot: Snapshot, claims: list[Claim]) -> Iterator[str]:
    done = say.plural(snapshot.counts["done"], "done run")
    if not claims:
        yield "The study stated no hypotheses before it ran, so nothing on this page is a test of one."
    else:
        yield (
            f"Of {say.plural(len(claims), 'hypothesis', 'hypotheses')} stated beforehand, {verdicts_in_words(claims)}, "
            f"judged by {done}. Tests are adjusted for their number (Holm): were there no effect at all, at most 5% of "
            "studies would claim or suggest one. Intervals are not adjusted."
        )
    if len(snapshot.study.seeds) == 1:
        yield (
            "One seed: every combination of settings was trained once. Nothing here shows how much a loss changes from "
            "seed to seed, so no difference between two runs can be told from chance"
            f"{ONE_SEED_EFFECTS if snapshot.factors else ''}. More seeds would show it."
        )


def _numbers(claim: Claim) -> tuple[str, str, str]:
    estimate = claim.estimate
    if estimate is None:
        return say.MISSING, say.MISSING, say.probability(claim.p_adjusted)
    effect = say.number(estimate.value)
    if estimate.low is not None and estimate.high is not None:
        effect += f" [{say.interval(estimate, '.4g')}]"
    return effect, say.count(estimate.n), say.probability(claim.p_adjusted)
