"""Whether a design can identify a scaling law: its sizes, its token counts, and how far apart the two are kept."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from math import log
from statistics import correlation
from typing import Literal

from isoloss.diagnostic import Diagnostic
from isoloss.study.compute import params_non_embedding, train_flops, train_tokens
from isoloss.study.config import RunConfig
from isoloss.study.hypotheses import EffectStated, ExponentStated, Hypothesis, RatioStated
from isoloss.study.study import Study
from isoloss.wording import between, counted, listed

FEWEST_LEVELS = 3
"""A power law with a floor has three unknowns along each axis."""

SAME_LEVEL_RATIO = 1.1
"""Sizes or token counts closer than this count as one; a rule of thumb."""

MOST_CORRELATION = 0.9
"""Between log N and log D; beyond it the fit can't tell which of the two lowers the loss. A rule of thumb."""

AxisName = Literal["sizes", "tokens", "compute"]
AXES_OF_FORM: dict[str, tuple[AxisName, ...]] = {
    "LND": ("sizes", "tokens"),
    "LN": ("sizes",),
    "LD": ("tokens",),
    "LC": ("compute",),
}


@dataclass(frozen=True)
class _Axis:
    """One variable of a scaling law: its code in findings, its noun and unit, its value in each run."""

    name: AxisName
    code: str
    noun: str
    unit: str
    values: list[int]

    @property
    def levels(self) -> list[int]:
        """Values that lie far enough apart to count, ascending."""
        apart: list[int] = []
        for value in sorted(self.values):
            if not apart or value >= SAME_LEVEL_RATIO * apart[-1]:
                apart.append(value)
        return apart


def asks_for_exponent(hypothesis: Hypothesis, axis: AxisName) -> bool:
    """Whether a hypothesis is about an exponent of a law in this variable."""
    return isinstance(hypothesis, ExponentStated) and axis in AXES_OF_FORM[hypothesis.form]


def rests_on_width(hypothesis: Hypothesis) -> bool:
    """Whether a hypothesis compares models of different width."""
    if isinstance(hypothesis, EffectStated | RatioStated):
        return hypothesis.factor == "n_embd"
    return asks_for_exponent(hypothesis, "sizes") or asks_for_exponent(hypothesis, "compute")


def scaling_findings(study: Study, configs: Sequence[RunConfig]) -> Iterator[Diagnostic]:
    """Too few levels along an axis of a scaling law, axes tied to each other, or what is offered to a stated one."""
    sizes = _Axis("sizes", "too_few_sizes", "size", "non-embedding parameters", [*map(params_non_embedding, configs)])
    tokens = _Axis("tokens", "too_few_horizons", "horizon", "training tokens", [*map(train_tokens, configs)])
    compute = _Axis("compute", "too_few_budgets", "compute budget", "training FLOPs", [*map(train_flops, configs)])
    short = [finding for axis in (sizes, tokens, compute) for finding in _too_few(study, axis)]
    tied = list(_tied(study, sizes, tokens))
    yield from [*short, *tied]
    stated = [h for h in study.hypotheses if isinstance(h, ExponentStated)]
    if stated and not any(finding.severity == "blocks" for finding in (*short, *tied)):
        used = [axis for axis in (sizes, tokens, compute) if any(asks_for_exponent(h, axis.name) for h in stated)]
        offered = " and ".join(f"{counted(len(a.levels), a.noun)} ({between(a.levels)} {a.unit})" for a in used)
        yield Diagnostic(
            "scaling_design",
            "note",
            f"A stated scaling exponent needs at least {FEWEST_LEVELS} levels along each axis of its law; the study "
            f"has {offered}.",
            "Nothing to change; hold out the largest size to see how well the fit extrapolates.",
        )


def _too_few(study: Study, axis: _Axis) -> Iterator[Diagnostic]:
    """A complaint when a stated exponent needs more levels, or when the study has just two, which invites a slope."""
    levels = axis.levels
    blocked = any(asks_for_exponent(hypothesis, axis.name) for hypothesis in study.hypotheses)
    invites = len(levels) == 2 and axis.name != "compute"
    if len(levels) >= FEWEST_LEVELS or not (blocked or invites):
        return
    yield Diagnostic(
        axis.code,
        "blocks" if blocked else "limits",
        f"The study has {counted(len(levels), axis.noun)} ({listed(levels)} {axis.unit}): a power law with a floor has "
        f"three unknowns along it, so {counted(len(levels), axis.noun)} can't identify a scaling exponent.",
        f"Train at least {FEWEST_LEVELS} {axis.noun}s for a scaling law; else compare {axis.noun}s as levels.",
    )


def _tied(study: Study, sizes: _Axis, tokens: _Axis) -> Iterator[Diagnostic]:
    if min(len(sizes.levels), len(tokens.levels)) < 2:
        return
    r = correlation([log(n) for n in sizes.values], [log(d) for d in tokens.values])
    if abs(r) <= MOST_CORRELATION:
        return
    both = any(asks_for_exponent(h, "sizes") and asks_for_exponent(h, "tokens") for h in study.hypotheses)
    yield Diagnostic(
        "sizes_tied_to_tokens",
        "blocks" if both else "limits",
        f"Over {counted(len(sizes.values), 'run')} log N and log D are correlated with r = {r:.3f}: which of "
        "parameters and tokens lowers the loss can't be told.",
        "Cross the sizes with the horizons, so that every size is trained at every horizon.",
    )
