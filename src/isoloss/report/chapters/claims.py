"""The claims: what each hypothesis turned out to be, and what else is significant though nobody stated it."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import fields
from typing import Any

import polars as pl

from isoloss.analysis.claim import Claim
from isoloss.analysis.estimate import Estimate, in_words
from isoloss.report.chapter import Chapter, Item
from isoloss.report.format import spelled_interval
from isoloss.report.references import cited
from isoloss.report.table import Column, Table
from isoloss.wording import counted, listed

VERDICTS = ("supported", "contradicted", "not resolved", "not applicable", "not judged yet")
ENDS = ("value", "low", "high")
COLUMNS = (
    Column("statement", "statement", width=40),
    Column("verdict", "verdict"),
    Column("value", "effect", "number", interval=("low", "high")),
    Column("n", "n", "count"),
    Column("p_adjusted", "adjusted p", "probability"),
)


def claims_chapter(
    claims: Sequence[Claim], exploratory: Sequence[Claim], comparisons: int, *, one_seed: bool
) -> Chapter:
    """Stated claims and exploratory ones; `comparisons` is how many effects were looked at for the latter."""
    every = [*claims, *exploratory]
    return Chapter(
        "claims",
        "Claims",
        list(_answer(claims, exploratory, comparisons, one_seed)),
        tables=[_table(every)] if every else [],
        items=[_item(claim) for claim in every],
        details=[
            "A statement is supported when the data put what it says beyond doubt at 95%, contradicted when they do so "
            "for its opposite, and not resolved otherwise.",
            "Stated hypotheses share four fifths of an error rate of 5% alike: differences by adjusted p values "
            f"{cited('holm1979')}, all else by an interval wider than 95%. Effects that nobody stated share the rest, "
            "by p values adjusted for all that were looked at; together, were there no effect at all, at most 5% of "
            "studies would claim one. Intervals shown are 95% each.",
            "What was not stated before the study ran is exploratory: a lead for the next study, not a result of this "
            "one. A hypothesis that was stated or changed after training began may have been suggested by the losses "
            "seen until then; it is judged like the others, and marked.",
        ],
    )


def verdicts_in_words(claims: Sequence[Claim]) -> str:
    """'2 are supported and 1 is not resolved'."""
    counts = Counter(claim.verdict for claim in claims)
    return listed(f"{counts[v]} {'is' if counts[v] == 1 else 'are'} {v}" for v in VERDICTS if counts[v])


def estimate_columns(estimate: Estimate | None) -> dict[str, Any]:
    """An estimate as columns of a frame, empty where there is none."""
    return {field.name: estimate and getattr(estimate, field.name) for field in fields(Estimate)}


def _answer(claims: Sequence[Claim], exploratory: Sequence[Claim], comparisons: int, one_seed: bool) -> Iterator[str]:
    if claims:
        stated, late = counted(len(claims), "hypothesis", "hypotheses"), sum(claim.after_training for claim in claims)
        when = f"stated, {late} of them after training began" if late else "stated before training"
        yield f"Of {stated} {when}, {verdicts_in_words(claims)}."
    else:
        yield "The study stated no hypotheses before it ran, so nothing on this page is a test of one."
    if comparisons:
        effect = "other effect" if claims else "effect"
        found = counted(len(exploratory), effect) if exploratory else f"No {effect}"
        yield (
            f"{found} on the best validation loss {'is' if len(exploratory) < 2 else 'are'} larger than chance "
            f"explains, of {comparisons} that were looked at."
        )
    if one_seed:
        yield (
            "One seed: nothing here shows how much a loss changes from seed to seed, so effects are compared with each "
            "other, not with noise. More seeds would show it."
        )


def _item(claim: Claim) -> Item:
    estimate, text = claim.estimate, ""
    if estimate is not None:
        measured = spelled_interval(estimate.value, estimate.low, estimate.high, "number")
        text = f"Measured: {measured}, n = {estimate.n:,}."
        text += " Held against other effects, not against noise (screening)." if claim.screening else ""
    cautions = [caution.text for caution in claim.cautions]
    label = f"{claim.verdict}, stated after training began" if claim.after_training else claim.verdict
    return Item(claim.says, label, text, " ".join([claim.sentence, *_lower(claim), *cautions]).strip())


def _lower(claim: Claim) -> Iterator[str]:
    """How likely a run at the first of the two levels that the claim's sentence names has the lower response."""
    if claim.probability is not None:
        yield (
            "Of two runs that share all else, the one at the level named first has the lower value with probability "
            f"{in_words(claim.probability)}."
        )


def _table(claims: Sequence[Claim]) -> Table:
    rows = [
        {
            "statement": claim.says,
            "stated": claim.stated,
            "after_training": claim.after_training,
            "verdict": claim.verdict,
            "screening": claim.screening,
            **estimate_columns(claim.estimate),
            "p": claim.p,
            "p_adjusted": claim.p_adjusted,
            **{f"probability_{name}": claim.probability and getattr(claim.probability, name) for name in ENDS},
            "sentence": claim.sentence,
            "cautions": " ".join(caution.text for caution in claim.cautions),
            "run_ids": " ".join(claim.run_ids),
        }
        for claim in claims
    ]
    frame = pl.DataFrame(rows, infer_schema_length=None)
    return Table(
        "claims", "Every claim with the numbers it rests on; 95% intervals in brackets.", frame, COLUMNS, folded=True
    )
