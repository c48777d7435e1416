"""The scaling law: what it says of size and data, its optimum, how well it predicts, or why there is none."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from math import isclose
from typing import Any

import polars as pl

from isoloss.analysis.by_group import Groups
from isoloss.analysis.estimate import Estimate
from isoloss.analysis.frontier import frontier
from isoloss.analysis.isoflop import Profile
from isoloss.analysis.laws import AXES, EXPONENT_OF, SHAPES, VARIABLES
from isoloss.analysis.scaling import FIXED, Fit
from isoloss.analysis.scaling_results import ScalingResults
from isoloss.analysis.solve import OBJECTIVES
from isoloss.analysis.true_floor import TrueFloor
from isoloss.diagnostic import Diagnostic
from isoloss.report.chapter import Chapter
from isoloss.report.format import Kind, spelled_estimate, spelled_interval
from isoloss.report.law_figures import law_figures
from isoloss.report.law_plane import round_computes
from isoloss.report.law_words import (
    MEANINGS,
    NOUNS,
    fitted_runs,
    flop,
    held_out_frame,
    held_out_in_words,
    interval_method,
    meaning_of,
)
from isoloss.report.references import cited
from isoloss.report.table import Column, Table
from isoloss.wording import counted, listed, loss, number

SYMBOLS = {"alpha": "α", "beta": "β"}
SOURCES = {"LND": "hoffmann2022", "LNDX": "hoffmann2022", "LNDU": "muennighoff2023", "LNDUN": "muennighoff2023"}
UNITS = {"N": "parameters", "D": "tokens", "C": "FLOPs"}
TELLS_NOTHING = 3
"""Times its lower end from which a floor's interval says nothing of a source's loss."""
POWERS = {"N": "model size", "D": "the number of tokens", "C": "compute"}


def scaling_chapter(found: ScalingResults | Diagnostic) -> Chapter:
    """The fitted law and what follows from it; for a diagnostic, why there is none."""
    if isinstance(found, Diagnostic):
        return Chapter("scaling", "Scaling law", [_said(found)])
    identified = found.fit.uncertainty is not None
    return Chapter(
        "scaling",
        "Scaling law",
        list(_answer(found) if identified else _no_law(found)),
        list(law_figures(found)) if identified else [],
        list(_tables(found)),
        details=[*_data(found.fit), *(_method(found) if identified else ()), *_cautions(found)],
    )


def _answer(found: ScalingResults) -> Iterator[str]:
    fit, held = found.fit, found.holdout
    if found.isoflop_law:
        size, tokens = found.isoflop_law.N.exponent, found.isoflop_law.D.exponent
        minima = sum(profile.optimal_params is not None for profile in found.profiles)
        yield (
            f"Over {minima} budgets of {meaning_of(fit, 'C')} the best size grows with compute to the power "
            f"{_in_words(size)}, and its tokens to the power {_in_words(tokens)}."
        )
    floor = fit.parameters["E"].estimate if "E" in fit.parameters else None
    has_floor = floor is not None and floor.value > 0
    gains = [
        f"twice the {UNITS[axis]} lower {'what lies above the floor' if has_floor else 'it'} by {_doubled(fit, axis)}"
        for axis in AXES[fit.form]
    ]
    if len(gains) == 2:
        gains = [f"with enough data, {gains[0]}", f"with a large enough model, {gains[1]}"]
    rest = "The data show no floor" if floor else "The law is fitted without a floor"
    if floor and floor.value > 0:
        given = floor.method == FIXED
        rest = f"The floor is {f'{number(floor.value)}, as given' if given else spelled_estimate(floor)}"
    powers = listed(f"a power of {POWERS[axis]}" for axis in AXES[fit.form])
    yield f"Loss falls as {powers}: {'; '.join(gains)}. {rest}."
    if found.true_floor:
        yield _true_floor(found.true_floor, floor)
    if found.frontier:
        best = found.frontier.optima[0]
        size, tokens = (spelled_estimate(estimate, "si") for estimate in (best.n_params, best.tokens))
        beyond = ", outside what was trained: this extrapolates" if best.beyond else ""
        yield (
            f"With {flop(best.flops)} counted as C = 6ND, the most that a run here took, the best size is about {size} "
            f"parameters, trained on {tokens} tokens to a loss of {spelled_estimate(best.loss, 'loss')}{beyond}."
        )
    if SHAPES[fit.form].repeats:
        yield "All of this is of tokens that are seen once; a prediction with U says what repeated ones give."
    if held:
        yield f"Fitted without the largest {NOUNS[held.variable]}, the law predicts it: {held_out_in_words(held)}."


def _true_floor(known: TrueFloor, floor: Estimate | None) -> str:
    fitted = "there is no fitted floor to hold against that"
    if known.covered and floor is not None and floor.low and floor.high and floor.high > TELLS_NOTHING * floor.low:
        fitted = "the interval of the fitted floor is so wide that it says nothing about that"
    elif known.covered is not None:
        fitted = f"the interval of the fitted floor {'covers' if known.covered else 'does not cover'} that"
    source = f"The source of this text loses {loss(known.loss)} {known.unit} on these windows"
    return f"{source}, and no model that sees no more can lose less: {fitted}."


def _in_words(estimate: Estimate) -> str:
    value, low, high = (number(each, ".3g") for each in (estimate.value, estimate.low, estimate.high))
    return f"{value} (95% interval {low} to {high})"


def _no_law(found: ScalingResults) -> Iterator[str]:
    yield f"These runs do not determine the law {found.fit.law.formula}, so none of its numbers are given."
    yield " ".join(_said(caution) for caution in found.fit.cautions if caution.severity == "blocks")
    if found.true_floor:
        yield _true_floor(found.true_floor, None)


def _data(fit: Fit) -> Iterator[str]:
    variables = [f"{axis} is {meaning_of(fit, axis)}" for axis in VARIABLES[fit.form]]
    cells = f" of equal {' and '.join(VARIABLES[fit.form])}" if fit.n_cells < fit.n else ""
    source = cited(SOURCES.get(fit.form, "kaplan2020"))
    response = f"L is the {meaning_of(fit, 'loss')} of {fitted_runs(fit)}{cells}"
    yield f"{fit.law.formula} {source}, {response}; {listed(variables)}."


def _method(found: ScalingResults) -> Iterator[str]:
    fit, solution = found.fit, found.fit.solution
    if solution is not None:
        delta = f" {cited('huber1964')}, δ = {fit.objective.delta:g}" if fit.objective.name == "huber" else ""
        yield (
            f"The objective, {OBJECTIVES[fit.objective.name]}{delta}, is {solution.value:.4g} at its minimum, where "
            f"its gradient has norm {solution.gradient_norm:.1e}; of a grid of {solution.n_starts:,} starts the "
            f"{solution.n_polished} best were polished, and {solution.n_agreeing} of these agree on it."
        )
    source = f" {cited('efron1979')}" if fit.uncertainty and fit.uncertainty.draws_Bxp is not None else ""
    yield f"Intervals: {interval_method(fit)}{source}. The interval of a prediction adds the variance of one new run."
    if found.frontier:
        a, b, near = found.frontier.a, found.frontier.b, found.frontier.near
        where = (
            "" if near is None else f" near {flop(near)}, for with its third term the law has no one power of compute"
        )
        yield (
            f"The best size minimises the law at a compute of C = 6ND {cited('hoffmann2022', 'kaplan2020')}: N* ∝ C^a "
            f"and D* ∝ C^b with a = {spelled_estimate(a)} and b = {spelled_estimate(b)}{where}."
        )
    if found.isoflop_law:
        size, tokens = found.isoflop_law.N.exponent, found.isoflop_law.D.exponent
        yield (
            f"Through the minima of the IsoFLOP profiles {cited('hoffmann2022')}: N* ∝ C^a and D* ∝ C^b with a = "
            f"{spelled_estimate(size)} and b = {spelled_estimate(tokens)}; {size.method}."
        )
    for column, other in found.other_counts.items():
        names = [name for name in ("alpha", "beta") if name in other.parameters]
        given = listed(f"{SYMBOLS[name]} = {spelled_estimate(other.parameters[name].estimate)}" for name in names)
        yield f"With N = {MEANINGS[column]}, {given or 'these runs do not determine the law'}."


def _cautions(found: ScalingResults) -> Iterator[str]:
    """What limits the results, without what the answer says already; and what limits the further fits alone."""
    yield from (_said(c) for c in found.cautions if c.severity != "blocks" or c not in found.fit.cautions)
    known = {caution.code for caution in found.cautions}
    others = {f"With N = {MEANINGS[column]}": fit for column, fit in found.other_counts.items()}
    if found.holdout:
        others["Without the held-out runs"] = found.holdout.fit
    for where, fit in others.items():
        yield from (f"{where}: {_said(caution)}" for caution in fit.cautions if caution.code not in known)


def _said(caution: Diagnostic) -> str:
    return f"{caution.text} {caution.remedy or ''}".strip()


def _doubled(fit: Fit, axis: str) -> str:
    """The share of its term that doubling a variable removes, 1 − 2^−exponent, with the exponent's interval."""
    exponent = fit.parameters[EXPONENT_OF[axis]].estimate
    value, low, high = (None if x is None else 1 - 2**-x for x in (exponent.value, exponent.low, exponent.high))
    return spelled_interval(value, low, high, "percent")


def _tables(found: ScalingResults) -> Iterator[Table]:
    fit, held = found.fit, found.holdout
    axes = [Column(axis, axis, "si" if axis == "C" else "count") for axis in AXES[fit.form]]
    if found.fit.uncertainty is not None:
        yield _parameter_table(found)
    if found.frontier:
        ahead = [optimum.flops for optimum in found.frontier.optima]
        computes = sorted([*ahead, *(c for c in round_computes(fit) if not any(isclose(c, other) for other in ahead))])
        rows = [
            {"C": o.flops, **_ends("N", o.n_params), **_ends("D", o.tokens), **_ends("loss", o.loss),
             "where": "extrapolated" if o.beyond else "among the runs"}
            for o in frontier(fit, computes).optima
        ]  # fmt: skip
        columns = [
            Column("C", "compute", "si", "FLOP"), _ranged("N", "best N", "si"), _ranged("D", "best D", "si"),
            _ranged("loss", "loss", "loss"), Column("where", "where"),
        ]  # fmt: skip
        title = f"Size and tokens with the lowest loss at a compute of C = 6ND; n = {fitted_runs(fit)}, 95% intervals."
        yield Table("scaling_optima", title, pl.DataFrame(rows), columns)
    if found.profiles:
        yield _profile_table(found.profiles)
    at_points = [p for p in found.predictions if p.optimum is None]
    if at_points:
        rows = [{**p.point, **_ends("law", p.law), **_ends("run", p.new_run)} for p in at_points]
        unique = [Column("U", "U", "count")] * bool(SHAPES[fit.form].repeats)
        ranges = _ranged("law", "loss by the law", "loss"), _ranged("run", "loss of one new run", "loss")
        columns = [*axes, *unique, *ranges]
        title = f"Predicted losses; n = {fitted_runs(fit)}, 95% intervals."
        yield Table("scaling_predictions", title, pl.DataFrame(rows), columns)
    at_computes = [(p, p.optimum) for p in found.predictions if p.optimum]
    if at_computes:
        rows = [
            {"C": best.flops, **_ends("N", best.n_params), **_ends("D", best.tokens), **_ends("law", p.law),
             **_ends("run", p.new_run)}
            for p, best in at_computes
        ]  # fmt: skip
        columns = [
            Column("C", "compute", "si", "FLOP"), _ranged("N", "best N", "si"), _ranged("D", "best D", "si"),
            _ranged("law", "loss by the law", "loss"), _ranged("run", "loss of one new run", "loss"),
        ]  # fmt: skip
        title = f"Predicted optima at a compute of C = 6ND; n = {fitted_runs(fit)}, 95% intervals."
        yield Table("scaling_predicted_optima", title, pl.DataFrame(rows), columns)
    if found.groups:
        yield from _group_tables(found.groups)
    if held:
        columns = [
            *axes, Column("seed", "seed"), Column("observed", "observed", "loss"),
            _ranged("predicted", "predicted", "loss"), Column("residual", "predicted − observed", "difference"),
            Column("where", "where"),
        ]  # fmt: skip
        title = f"The largest {NOUNS[held.variable]} by the law fitted to the other {counted(held.fit.n, 'run')}"
        frame = held_out_frame(held)
        shown = [column for column in columns if column.name != "seed" or frame["seed"].null_count() < len(frame)]
        yield Table("scaling_held_out", f"{title}; 95% prediction intervals of one new run.", frame, shown)


def _group_tables(groups: Groups) -> Iterator[Table]:
    """The law of each group, and how each parameter differs between every two."""
    names = list(dict.fromkeys(name for fit in groups.fits.values() for name in fit.parameters))
    rows: list[dict[str, Any]] = []
    for level, fit in groups.fits.items():
        row: dict[str, Any] = {groups.column: level, "n": fit.n, "status": fit.status}
        for name in names:
            row |= _ends(name, fit.parameters[name].estimate if name in fit.parameters else None)
        rows.append(row)
    columns = [
        Column(groups.column, groups.column), Column("n", "runs", "count"), Column("status", "status"),
        *(_ranged(name, SYMBOLS.get(name, name), "number") for name in names),
    ]  # fmt: skip
    title = f"The law fitted to the runs of each {groups.column}, with 95% intervals."
    yield Table("scaling_by", title, pl.DataFrame(rows, infer_schema_length=None), columns)
    if groups.differences:
        rows = [
            {"parameter": SYMBOLS.get(d.parameter, d.parameter), "group": d.group, "base": d.base,
             **_ends("difference", d.difference)}
            for d in groups.differences
        ]  # fmt: skip
        columns = [
            Column("parameter", "parameter"), Column("group", groups.column), Column("base", "less that of"),
            _ranged("difference", "difference", "number"),
        ]  # fmt: skip
        title = f"Differences of parameters between values of {groups.column}; 95% intervals, Welch's t."
        yield Table("scaling_by_differences", title, pl.DataFrame(rows), columns)


def _parameter_table(found: ScalingResults) -> Table:
    rows: list[dict[str, Any]] = []
    for name, parameter in found.fit.parameters.items():
        row = {
            "parameter": name,
            "symbol": SYMBOLS.get(name, name),
            **_ends("value", parameter.estimate),
            "se": parameter.se,
        }
        row |= {f"by_{other}": values.get(name) for other, values in found.other_objectives.items()}
        for column, fit in found.other_counts.items():
            row |= _ends(column, fit.parameters[name].estimate if name in fit.parameters else None)
        rows.append(row)
    columns = [
        Column("symbol", "parameter"),
        _ranged("value", "value", "number"),
        *(Column(f"by_{other}", f"by {other}", "number") for other in found.other_objectives),
        *(_ranged(column, f"N = {MEANINGS[column]}", "number") for column in found.other_counts),
    ]
    title = (
        f"Parameters of {found.fit.law.formula}; n = {fitted_runs(found.fit)}, intervals {interval_method(found.fit)}."
    )
    return Table("scaling_parameters", title, pl.DataFrame(rows, infer_schema_length=None), columns)


def _profile_table(profiles: Sequence[Profile]) -> Table:
    rows = [
        {"C": p.flops, "n": p.n, "sizes": len(p.sizes), "curve": p.curve, **_ends("N", p.optimal_params),
         **_ends("loss", p.lowest_loss), "cautions": " ".join(caution.text for caution in p.cautions)}
        for p in profiles
    ]  # fmt: skip
    columns = [
        Column("C", "compute", "si", "FLOP"), Column("n", "runs", "count"), Column("sizes", "sizes", "count"),
        Column("curve", "curve"), _ranged("N", "best N", "si"), _ranged("loss", "lowest loss", "loss"),
        Column("cautions", "", width=40),
    ]  # fmt: skip
    title = "IsoFLOP profiles: the minimum of a curve of its own through the runs of each compute, with 95% intervals."
    return Table("scaling_profiles", title, pl.DataFrame(rows, infer_schema_length=None), columns)


def _ends(name: str, estimate: Estimate | None) -> dict[str, float | None]:
    value, low, high = (estimate.value, estimate.low, estimate.high) if estimate else (None, None, None)
    return {name: value, f"{name}_low": low, f"{name}_high": high}


def _ranged(name: str, title: str, kind: Kind) -> Column:
    return Column(name, title, kind, interval=(f"{name}_low", f"{name}_high"))
