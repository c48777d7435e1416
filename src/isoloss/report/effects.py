"""The effects of what the study varied on the best validation loss: sentences, tables and figures."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import fields
from typing import Any

import polars as pl

from isoloss.analysis.effects import Contrast, Effect, Effects
from isoloss.analysis.estimate import LEVEL, Estimate
from isoloss.analysis.factorial import t_quantile
from isoloss.diagnostic import Diagnostic
from isoloss.report import effects_figures as charts
from isoloss.report import wording as say
from isoloss.report.parts import Figure, Table
from isoloss.report.snapshot import Snapshot
from isoloss.report.theme import themed

ALPHA = 1 - LEVEL
"""A term stands out when its p, adjusted after Holm, is below it."""

TEST = ("df", "F", "p", "p_holm", "partial_eta_squared")
"""What is said of a term as a whole, beside its first contrast."""

MOST_TERMS = 60
MOST_INTERACTIONS = 3
"""As many rows and panels as their figures have room for."""


def effect_sentences(effects: Effects | Diagnostic) -> list[str]:
    """What the effects rest on, which interactions stand out, and what a reader has to know."""
    if isinstance(effects, Diagnostic):
        return [effects.text]
    return [*_basis(effects), *_interactions_in_words(effects), *(caution.text for caution in effects.cautions)]


def effect_table(effects: Effects) -> Table:
    """Every contrast with its interval, and the test of its term."""
    rows: list[Sequence[str]] = []
    exact: list[dict[str, Any]] = []
    for effect in effects.effects:
        for contrast in _contrasts(effect):
            estimate = contrast.estimate
            leads = contrast.contrast == effect.contrast
            size = (contrast.contrast, say.number(estimate and estimate.value, "+.4f"), say.interval(estimate, "+.4f"))
            rows.append((effect.term, *size, *_test_in_words(effect)) if leads else ("", *size, "", "", "", ""))
            columns = {"term": effect.term, "contrast": contrast.contrast, **estimate_columns(estimate)}
            test = {name: getattr(effect, name) if leads else None for name in TEST}
            exact.append(columns | test)
    head = ("term", "contrast", "effect", "95% interval", "F", "p", "p Holm", "partial η²")
    return Table(head, rows, numbers_from=2, exact=pl.DataFrame(exact, infer_schema_length=None))


def effect_figures(snapshot: Snapshot, effects: Effects | Diagnostic) -> Iterator[Figure]:
    """All terms as dots; the half-normal plot of an unreplicated two-level design; the interactions that stand out."""
    if isinstance(effects, Diagnostic):
        return
    yield from _dots(effects)
    yield from _half_normal(effects)
    yield from _interactions(snapshot, effects)


def estimate_columns(estimate: Estimate | None) -> dict[str, Any]:
    """An estimate as columns of a CSV, empty where there is none."""
    return {field.name: estimate and getattr(estimate, field.name) for field in fields(Estimate)}


def standing_out(effects: Effects) -> list[Effect]:
    """The interactions whose Holm-adjusted p is below ALPHA, the smallest p first."""
    found = [e for e in effects.effects if len(e.factors) > 1 and e.p_holm is not None and e.p_holm < ALPHA]
    return sorted(found, key=lambda effect: effect.p or 0.0)


def _contrasts(effect: Effect) -> list[Contrast]:
    return [Contrast(effect.contrast, effect.estimate), *effect.others]


def _test_in_words(effect: Effect) -> tuple[str, str, str, str]:
    f, share = effect.F, effect.partial_eta_squared
    return (
        say.MISSING if f is None else f"{f:,.2f}",
        say.probability(effect.p),
        say.probability(effect.p_holm),
        say.MISSING if share is None else f"{share:.3f}",
    )


def _basis(effects: Effects) -> Iterator[str]:
    if not effects.effects:
        return
    runs = f"Response: best validation loss of {say.plural(effects.n, 'done run')} in "
    runs += say.plural(effects.n_cells, "cell")
    runs += f", with {effects.block} as a block" if effects.block else ""
    error = effects.error
    if error is None:
        yield f"{runs}. There is no noise to judge the effects by."
        return
    label = "; this is screening only" if error.screening else ""
    yield (
        f"{runs}. Intervals and tests rest on a standard deviation of {error.sd:.3g} nats between runs, on "
        f"{error.df:.4g} degrees of freedom, from {error.source}{label}."
    )


def _interactions_in_words(effects: Effects) -> Iterator[str]:
    tested = [e for e in effects.effects if len(e.factors) > 1 and e.p_holm is not None]
    if not tested:
        return
    found = standing_out(effects)
    if found:
        names = [f"{effect.term} (adjusted p {say.probability(effect.p_holm)})" for effect in found]
        yield (
            f"{len(found)} of {say.plural(len(tested), 'two-factor interaction')} "
            f"{'stands' if len(found) == 1 else 'stand'} out after Holm's correction: {say.listed(names)}."
        )
        return
    smallest = min(effect.p_holm for effect in tested if effect.p_holm is not None)
    yield (
        f"None of {say.plural(len(tested), 'two-factor interaction')} stands out after Holm's correction (smallest "
        f"adjusted p {say.probability(smallest)}), so no interaction is drawn."
    )


def _dots(effects: Effects) -> Iterator[Figure]:
    rows = [_dot(effect, contrast) for effect in effects.effects for contrast in _drawn(effect) if contrast.estimate]
    if not rows:
        return
    table = pl.DataFrame(rows, infer_schema_length=None).sort(pl.col("value").abs(), descending=True)
    shown = table.head(MOST_TERMS)
    caption = (
        f"Effects on the best validation loss, largest first: main effects and two-factor interactions, "
        f"n = {say.plural(effects.n, 'run')}. {_interval_in_words(effects)} Below 0 the loss falls."
    )
    if any("per doubling" in row["contrast"] for row in rows):
        caption += (
            " Contrasts per doubling are in nats per doubling of the factor; a quadratic one is a curvature, below "
            "0 where the loss falls faster and faster."
        )
    if len(table) > len(shown):
        caption += f" The {len(shown)} largest of {say.count(len(table))} are drawn; the table has all."
    yield Figure("effects", caption, themed(charts.effect_dots(shown)))


def _drawn(effect: Effect) -> list[Contrast]:
    """All contrasts of a main effect, the first of an interaction."""
    return _contrasts(effect) if len(effect.factors) == 1 else _contrasts(effect)[:1]


def _dot(effect: Effect, contrast: Contrast) -> dict[str, Any]:
    assert contrast.estimate is not None
    main = len(effect.factors) == 1
    halved = contrast.contrast.startswith("½")  # the wording of two-level interactions, clear from the term alone
    return {
        "label": effect.term if halved else f"{effect.term}: {contrast.contrast}",
        "contrast": contrast.contrast,
        "kind": "main effect" if main else "two-factor interaction",
        "value": contrast.estimate.value,
        "low": contrast.estimate.low,
        "high": contrast.estimate.high,
        "p_holm": effect.p_holm,
    }


def _interval_in_words(effects: Effects) -> str:
    error = effects.error
    if error is None:
        return "No intervals are drawn: there is no noise to judge by."
    label = "Screening only: bars" if error.screening else "Bars"
    return f"{label} are 95% t intervals on {error.df:.4g} degrees of freedom of {error.source}, not adjusted."


def _half_normal(effects: Effects) -> Iterator[Figure]:
    screening = effects.screening
    if screening is None:
        return
    table = pl.DataFrame(
        [
            {
                "term": effect.term,
                "size": abs(effect.value),
                "value": effect.value,
                "quantile": effect.quantile,
                "kind": "active" if effect.active else "not told from noise",
                "label": effect.term if effect.active else "",
            }
            for effect in screening.effects
        ]
    )
    active = sum(effect.active for effect in screening.effects)
    caption = (
        f"Half-normal plot of all {len(screening.effects)} effects of the design, of any order, on the best validation "
        f"loss; n = {say.plural(effects.n, 'run')}, none replicated. No intervals are drawn: the solid line is where "
        "effects that are noise would lie (Lenth's pseudo standard error), the dotted line is the 95% margin of one "
        f"effect, the dashed one that of all at once. {say.plural(active, 'effect')} beyond the latter "
        f"{'is' if active == 1 else 'are'} labelled: a screening, not a test."
    )
    chart = charts.half_normal(table, screening.pse, screening.margin, screening.simultaneous_margin)
    yield Figure("half_normal", caption, themed(chart))


def _interactions(snapshot: Snapshot, effects: Effects) -> Iterator[Figure]:
    found = standing_out(effects)[:MOST_INTERACTIONS]
    error = effects.error
    if not found or error is None:
        return
    panels = [(effect.factors[0], effect.factors[1], _cell_means(snapshot.done, effect, effects)) for effect in found]
    bars = f"95% t intervals of a mean from {error.source}, {error.df:.4g} degrees of freedom"
    bars += f", without differences between {effects.block}s" if effects.block else ""
    caption = (
        f"Mean best validation loss where two levels meet, for {say.listed([effect.term for effect in found])}: the "
        f"interactions with the smallest p; n = {say.plural(effects.n, 'run')}. Bars: {bars}"
        f"{', screening only' if error.screening else ''}; one that is not seen is shorter than its dot. Were there no "
        "interaction, lines would be parallel."
    )
    yield Figure("interactions", caption, themed(charts.interactions(panels)))


def _cell_means(runs: pl.DataFrame, effect: Effect, effects: Effects) -> pl.DataFrame:
    """Mean, its interval and n of the runs at each pair of levels, levels as words in the study's order."""
    assert effects.error is not None
    reach = t_quantile((1 + LEVEL) / 2, effects.error.df) * effects.error.sd
    means = runs.drop_nulls(effects.response).group_by(effect.factors, maintain_order=True)
    rows = [
        {
            **{factor: say.level(level) for factor, level in zip(effect.factors, levels, strict=True)},
            "n": len(part),
            "mean": part[effects.response].mean(),
            "half": reach / math.sqrt(len(part)),
        }
        for levels, part in means
    ]
    table = pl.DataFrame(rows)
    return table.with_columns(low=pl.col("mean") - pl.col("half"), high=pl.col("mean") + pl.col("half")).drop("half")
