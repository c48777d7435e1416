"""Effects: which of the things that were varied matter, by how much, and what depends on what."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, replace
from typing import TYPE_CHECKING, Any

import polars as pl

from isoloss.analysis.claim import AdjustedP
from isoloss.analysis.effects import Effects
from isoloss.analysis.levels import level_means
from isoloss.analysis.outlying_runs import MAX_NAMED
from isoloss.analysis.pairs import PairedFactor
from isoloss.diagnostic import Diagnostic
from isoloss.report.chapter import Chapter
from isoloss.report.chapters.claims import estimate_columns
from isoloss.report.effects_words import EffectsView, dependence, edge, effects_view, error_in_words, leading, moved
from isoloss.report.optimum_words import optima_in_words, optima_table, shift_in_words, shifts_table
from isoloss.report.references import cited
from isoloss.report.residuals_table import residuals_frame, residuals_table
from isoloss.report.table import Column, Table
from isoloss.wording import counted, level, listed

if TYPE_CHECKING:
    from isoloss.report.chart import Figure

WHOLE_TERM = "any (F test)"
"""What a row of the table is of that holds the test of all contrasts of a term."""
MAX_JSON_RESIDUALS = 1000
"""Runs whose residuals are in the JSON; of more they are in the CSV that --out writes."""
MAX_SHIFTS = 2
"""Moving optima that the answer names."""
MAX_FOLLOWING = 3
"""Further factors that the answer names with their sizes."""


def effects_chapter(
    effects: Effects | Diagnostic,
    runs: pl.DataFrame,
    *,
    pairs: Sequence[PairedFactor] = (),
    adjusted: Mapping[str, AdjustedP] | None = None,
    colours: Mapping[str, Mapping[str, str]] | None = None,
    figures: bool = True,
) -> Chapter:
    """What the effects of some runs on their response say; `runs` is the table they were computed of.

    `adjusted` is that of `claims.adjusted_p`; without it every p is adjusted for all terms (Holm). `pairs` are those of
    `paired_effects`, `colours` those of `factor_colours`. Runs that have the columns key and label are named by them.
    A terminal shows no `figures`.
    """
    if isinstance(effects, Diagnostic):
        return Chapter("effects", "Effects", [effects.text, *([effects.remedy] if effects.remedy else [])])
    view = effects_view(effects, runs, adjusted, colours)
    replicates = f"{effects.block}s" if effects.block else "repeated runs"
    title = f"Effects on {view.response.name}"
    constant = len(view.rows) < 2 or view.rows[effects.response].n_unique() == 1
    blocking = [caution.text for caution in effects.cautions if caution.severity == "blocks"]
    answer = blocking if constant else list(_answer(view))
    if effects.error is None and not constant:
        answer += blocking
    tables = [_effects_table(view), _levels_table(view, runs)] if effects.effects else []
    tables += [optima_table(effects.optima)] if effects.optima else []
    shifts = [found for found in effects.shifts if found.estimate is not None]
    tables += [shifts_table(shifts)] if shifts else []
    tables += [_pairs_table(view, pairs)] if pairs else []
    if effects.residuals is not None:
        tables.append(residuals_table(effects.residuals, effects.outlying_runs, view.response))
    drawn = list(_figures(view, replicates)) if figures else []
    return Chapter("effects", title, answer, drawn, tables, details=list(_details(view)))


def _figures(view: EffectsView, replicates: str) -> Iterator[Figure]:
    from isoloss.report.effects_charts import effect_figures  # a drawing library, half a second that a text can spare

    return effect_figures(view, replicates)


def effects_as_json(effects: Effects, pairs: Sequence[PairedFactor] = ()) -> str:
    """One object, at full precision; what could not be computed is null, as are residuals of very many runs."""
    document = asdict(replace(effects, residuals=None)) | {"pairs": [asdict(pair) for pair in pairs]}
    if effects.residuals is not None and effects.n <= MAX_JSON_RESIDUALS:
        document["residuals"] = residuals_frame(effects.residuals, effects.outlying_runs, levels=False).to_dicts()
    return json.dumps(document, indent=2, ensure_ascii=False, allow_nan=False)


def _answer(view: EffectsView) -> Iterator[str]:
    """The strongest factor; the others; what depends on what."""
    clear = [effect for effect in view.mains if view.clear(effect)]
    unclear = [effect for effect in view.mains if not view.clear(effect)]
    error = view.effects.error
    lead = f"{leading(view)}."
    if error is not None and error.screening:
        lead = f"Every combination ran once, so effects are compared with each other, not with noise. {lead}"
    if view.effects.tuned:
        lead += f" Levels are compared each at its best {listed(view.effects.tuned)}."
    for effect in clear[:1]:
        if (beyond := edge(view, effect.term)) is not None:
            lead += f" The best {effect.term} lies at the edge of the levels that were tried: try beyond {beyond}."
    told = [found for found in view.effects.optima if not found.edge and view.counts(found.factor)]
    yield " ".join([lead, *optima_in_words(told)])
    rest = [f"{effect.term}: {moved(view, effect)}" for effect in clear[1 : 1 + MAX_FOLLOWING]]
    said = [f"Then {'; '.join(rest)}."] if rest else []
    if len(clear) > 1 + MAX_FOLLOWING:
        said.append(f"Smaller effects: {listed(effect.term for effect in clear[1 + MAX_FOLLOWING :])}.")
    if unclear and error is not None:
        said.append(_not_shown(view, unclear))
    if view.mains and (lost := view.factors[len(view.mains) :]):
        said.append(f"The size of the effect of {listed(lost)} is not determined by these runs.")
    if out := view.effects.outlying_runs:
        names = [run.name for run in out[:MAX_NAMED]]
        named = listed([*names, f"{len(out) - MAX_NAMED} more"] if len(out) > MAX_NAMED else names)
        lie = "One run lies" if len(out) == 1 else f"{len(out)} runs lie"
        included = "it" if len(out) == 1 else "them"
        said.append(f"{lie} far outside the noise of all others: {named}; means and intervals include {included}.")
    if said:
        yield " ".join(said)
    if (found := view.interactions) and view.effects.error is not None:
        first, *others = found
        strong, weak = sorted(first.factors, key=view.factors.index)
        also = f" So do the effects of {listed(effect.term for effect in others)}." if others else ""
        yield " ".join(
            [f"The effect of {strong} depends on {weak}: {dependence(view, first.factors)}.{also}", *_moves(view)]
        )
    elif any(len(effect.factors) == 2 and effect.p is not None for effect in view.effects.effects):
        yield " ".join(["No effect was shown to depend on another factor.", *_moves(view)])
    else:
        yield from _moves(view)


def _moves(view: EffectsView) -> Iterator[str]:
    """Whether optima move with other factors, the clearest first."""
    told = [each for each in view.effects.shifts if each.estimate is not None and view.counts(each.factor)]
    yield from map(shift_in_words, sorted(told, key=lambda each: 1.0 if each.p is None else each.p)[:MAX_SHIFTS])


def _not_shown(view: EffectsView, unclear: Sequence[Any]) -> str:
    names = listed(effect.term for effect in unclear)
    sizes = [
        view.response.amount(effect.detectable, ".2g") + (" per doubling" if "per doubling" in effect.contrast else "")
        for effect in unclear
        if effect.detectable is not None
    ]
    if not sizes:
        return f"No effect of {names} was shown, which does not say that there is none."
    return (
        f"No effect of {names} was shown: to be found in 4 of 5 studies like this it would have to exceed "
        f"{listed(dict.fromkeys(sizes))}."
    )


def _details(view: EffectsView) -> Iterator[str]:
    effects, error = view.effects, view.effects.error
    block = f", {effects.block} taken out as a block" if effects.block else ""
    yield f"{counted(effects.n, 'run')} in {counted(effects.n_cells, 'combination')} of levels{block}."
    yield (
        "Main effects and two-factor interactions are fitted by least squares; sizes are contrasts of least-squares "
        f"means {cited('searle1980')}"
        + ("." if effects.screening else f", tests are F tests on Type II sums of squares {cited('yates1934')}.")
    )
    if error is not None:
        yield (
            f"The standard deviation of a run is {view.response.amount(error.sd)}; {error_in_words(view)}. Intervals "
            "are not adjusted for their number; that of the largest difference between three or more levels allows for "
            f"the levels having been chosen by it {cited('scheffe1953')}."
        )
        yield _noise_in_words(effects)
    if view.adjusted:
        stated = any(found.stated for found in view.adjusted.values())
        yield (
            f"Larger than chance explains: p is below 5%, adjusted for {counted(len(view.adjusted), 'effect')} "
            f"{cited('holm1979')}."
            + (" Effects that a hypothesis states are adjusted among themselves, as their claims." if stated else "")
        )
    if (screening := effects.screening) is not None:
        active = [
            f"{effect.term} ({view.response.amount(effect.value)})" for effect in screening.effects if effect.active
        ]
        yield (
            f"Screening {cited('lenth1989')}: pseudo standard error {screening.pse:.4g}, margin of error "
            f"{screening.margin:.4g}, simultaneous margin {screening.simultaneous_margin:.4g}; beyond it, of "
            f"{len(screening.effects)} effects: {listed(active) or 'none'}."
        )
    if effects.outlying_runs:
        yield (
            f"Outlying runs: externally studentized residuals {cited('cook1982')} at 5% over all runs, several at once "
            f"{cited('rosner1983')}, each also beyond the noise of its own levels and apart from its cell."
        )
    untold = [caution for found in effects.shifts if found.estimate is None for caution in found.cautions]
    for caution in (*effects.cautions, *untold):
        yield caution.text + (f" {caution.remedy}" if caution.remedy else "")


def _noise_in_words(effects: Effects) -> str:
    """Whether levels may be unequally noisy."""
    if effects.block is not None and effects.replicated:
        return (
            f"Levels may be unequally noisy: intervals are those of t tests over {effects.block}s, and the degrees of "
            f"freedom of F are corrected {cited('greenhouse1959')}."
        )
    if effects.error is not None and any(each.error != effects.error for each in effects.effects):
        return (
            f"Levels may be unequally noisy: intervals are Welch's {cited('welch1947')}, and the degrees of freedom of "
            f"F are corrected {cited('brunner1997')}."
        )
    return "All runs are taken to be equally noisy, as too few combinations ran twice to tell."


def _effects_table(view: EffectsView) -> Table:
    """Every contrast; a term of several has a row of its own for the test of them all."""
    rows: list[dict[str, Any]] = []
    for effect in view.effects.effects:
        p = view.adjusted.get(effect.term)
        test = {
            "df": effect.F_df[0] if effect.F_df else float(effect.df),
            "error_df": effect.F_df and effect.F_df[1],
            "F": effect.F,
            "p": effect.p,
            "p_adjusted": p and p.p,
            "p_adjusted_among": p and ("stated" if p.stated else "not stated"),
            "partial_eta_squared": effect.partial_eta_squared,
            "detectable": effect.detectable,
        }
        contrasts = [(effect.contrast, effect.estimate), *((other.contrast, other.estimate) for other in effect.others)]
        if effect.range is not None and effect.df > 1:
            largest = f"{level(effect.range.highest)} − {level(effect.range.lowest)}, largest"
            contrasts.append((largest, effect.range.estimate))
        if len(contrasts) > 1:
            rows.append({"term": effect.term, "contrast": WHOLE_TERM, **estimate_columns(None), **test})
            test = dict.fromkeys(test)
        rows += [
            {"term": effect.term, "contrast": contrast, **estimate_columns(estimate), **test}
            for contrast, estimate in contrasts
        ]
    size = "difference" if view.response.unit == "nats" else "number"
    columns = [
        Column("term", "effect of", width=24),
        Column("contrast", "difference", width=28),
        Column("value", "size", size, view.response.unit, interval=("low", "high")),
        Column("F", "F", "ratio"),
        Column("df", "df", "number"),
        Column("error_df", "error df", "number"),
        Column("p", "p", "probability"),
        Column("p_adjusted", "adjusted p", "probability"),
        *([Column("p_adjusted_among", "effect is")] if any(found.stated for found in view.adjusted.values()) else []),
        Column("partial_eta_squared", "η²p", "ratio"),
    ]
    title = f"Effects on {view.response.name}; n = {counted(view.effects.n, 'run')}, {error_in_words(view)}."
    return Table("effects", title, pl.DataFrame(rows, infer_schema_length=None), columns)


def _levels_table(view: EffectsView, runs: pl.DataFrame) -> Table:
    """What the runs of each level average; their spread holds the effects of all other factors."""
    runs = runs.with_columns(pl.col(view.response.column).cast(pl.Float64(), strict=False))
    rows = [
        {"factor": mean.factor, "level": level(mean.level), "n": mean.n, "mean": mean.mean, "sd": mean.sd,
         "lowest": mean.minimum, "highest": mean.maximum}
        for factor in view.factors
        for mean in level_means(runs.sort(factor) if view.numeric(factor) else runs, factor, view.response.column)
    ]  # fmt: skip
    kind = "loss" if view.response.unit == "nats" else "number"
    measured = [Column(name, name, kind, view.response.unit) for name in ("mean", "sd", "lowest", "highest")]
    columns = [Column("factor", "factor", width=24), Column("level", "level", width=24), Column("n", "runs", "count")]
    title = f"{view.response.title[:1].upper()}{view.response.title[1:]} at each level; the sd holds all other effects."
    return Table("levels", title, pl.DataFrame(rows, infer_schema_length=None), [*columns, *measured])


def _pairs_table(view: EffectsView, pairs: Sequence[PairedFactor]) -> Table:
    """Two-level factors over pairs of runs that share all else."""
    rows = [
        {"factor": pair.factor, "contrast": pair.contrast, **estimate_columns(pair.difference.estimate),
         "p": pair.difference.p, "p_sign_flip": pair.difference.p_sign_flip, "smallest_p": pair.difference.smallest_p}
        for pair in pairs
    ]  # fmt: skip
    columns = [
        Column("factor", "factor", width=24),
        Column("contrast", "difference", width=24),
        Column("value", "mean difference", "difference", view.response.unit, interval=("low", "high")),
        Column("n", "pairs", "count"),
        Column("p", "p, paired t", "probability"),
        Column("p_sign_flip", "p, sign flips", "probability"),
        Column("smallest_p", "smallest possible p", "probability"),
    ]
    return Table(
        "pairs", "Pairs of runs that share all else; 95% t intervals, no p adjusted.", pl.DataFrame(rows), columns
    )
