"""The figures of a fitted scaling law: loss against one variable, contours over two, IsoFLOP curves, held-out runs."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import replace
from functools import partial
from typing import Any

import altair as alt
import numpy as np
import polars as pl

from isoloss.analysis.cost import SIX_ND
from isoloss.analysis.frontier import Frontier, frontier, predict
from isoloss.analysis.laws import AXES, EXPONENT_OF, SHAPES, VARIABLES
from isoloss.analysis.scaling import Fit
from isoloss.analysis.scaling_results import ScalingResults
from isoloss.analysis.true_floor import TrueFloor
from isoloss.report import law_plane
from isoloss.report.chart import (
    ACCENT,
    GREY,
    INK,
    LIGHT,
    PAPER,
    WIDE,
    Figure,
    inline,
    log_ticks,
    sized,
    some,
    some_in_words,
    spaced,
)
from isoloss.report.colours import SEQUENCE, sequence_colours
from isoloss.report.format import spelled_estimate
from isoloss.report.law_hold_out import held_out_figure
from isoloss.report.law_plane import Ends, Plane
from isoloss.report.law_words import (
    at_tokens,
    fitted_runs,
    flop,
    interval_method,
    loss_title,
    meaning_of,
)
from isoloss.wording import counted, number

MAX_LINES = 8
"""Of a law in N: with more token counts than these it is drawn at round ones. Of IsoFLOP curves as well."""
END_LABEL = 56
"""Pixels to the right of a line for the label at its end."""


def law_figures(found: ScalingResults) -> Iterator[Figure]:
    """Every figure of an identified fit."""
    fit = found.fit
    runs = found.runs.select(
        *(column for column in ("run_id", "label", "seed") if column in found.runs.columns),
        *(pl.col(fit.columns[axis]).cast(pl.Float64()).alias(axis) for axis in VARIABLES[fit.form]),
        loss=pl.col(fit.columns["loss"]).cast(pl.Float64()),
    )
    yield _law(fit, runs, found.true_floor)
    if found.frontier and fit.form == "LND":
        plane = law_plane.make_plane(fit, runs)
        yield _contours(fit, found.frontier, runs, plane)
        yield _isoflop(found, runs, plane)
    if found.holdout:
        yield held_out_figure(found.holdout)


def _law(fit: Fit, runs: pl.DataFrame, known: TrueFloor | None) -> Figure:
    axis, *rest = AXES[fit.form]
    tokens = sorted(runs["D"].unique().to_list()) if rest else []
    if len(tokens) > MAX_LINES:
        tokens = log_ticks(tokens[0], tokens[-1], MAX_LINES)
    curves = law_plane.law_curves(fit, law_plane.ends_of(runs[axis]), tokens)
    if tokens:
        nearest = [min(tokens, key=lambda line, d=d: abs(np.log(line / d))) for d in runs["D"]]
        runs = runs.with_columns(line=_texts(pl.Series(nearest), at_tokens))
        curves = curves.with_columns(line=_texts(curves["D"], at_tokens))
    symbol = "β" if axis == "D" else "α"
    repeats = SHAPES[fit.form].repeats
    prime = "'" if "RN" in repeats else ""
    exponent = f"1/{axis}{prime}^{symbol}, {symbol} = {spelled_estimate(fit.parameters[EXPONENT_OF[axis]].estimate)}"
    floor = fit.parameters["E"].estimate if "E" in fit.parameters and not tokens else None
    towards = f" towards {spelled_estimate(floor)}" if floor and floor.low is not None else ""
    where = f"At every number of {'new ' if repeats else ''}tokens loss" if tokens else "Loss"
    title = f"{where} falls{towards} as {exponent}."
    subtitle = (
        f"Dots: {fitted_runs(fit)}. Lines: the fitted law{', at one number of tokens each' if tokens else ''}. Bands: "
        f"interval of the law, {interval_method(fit)}.{some_in_words(runs)}"
    )
    if tokens and len(tokens) < runs["D"].n_unique():
        subtitle += " Dots have the colour of the line nearest in tokens."
    if known:
        subtitle += f" Dotted: the loss of the text's source, {number(known.loss)}."
    floor_rows = {"true loss": pl.DataFrame({"loss": [known.loss]})} if known else {}
    frame = _drawn({"run": some(runs), "law": curves, **floor_rows})
    return Figure("scaling_fit", title, subtitle, frame, partial(_draw_lines, fit, axis, frame))


def _isoflop(found: ScalingResults, runs: pl.DataFrame, plane: Plane) -> Figure:
    """The law along constant compute, that of the profiles and as their runs count it where there are any."""
    mistaken = "compute_mismatch" in {caution.code for caution in found.cautions}
    fit, profiles = found.fit, [] if mistaken else [*found.profiles[:: 1 + len(found.profiles) // MAX_LINES]]
    members = [
        runs.filter(
            found.runs[fit.columns["C"]].is_between(low / law_plane.ROUNDING, high * law_plane.ROUNDING)
        ).with_columns(C=pl.lit(profile.flops))
        for profile in profiles
        for low, high in [profile.computes]
    ]
    cost, computes = (found.cost, [p.flops for p in profiles]) if profiles else (SIX_ND, law_plane.round_computes(fit))
    optima = frontier(fit, computes, cost).optima
    curves = law_plane.isoflop_curves(fit, plane, computes, cost)
    if curves.is_empty():  # at the table's computes nothing lies among the runs, so they are no cost of training
        return _isoflop(replace(found, profiles=()), runs, plane)
    parts = {"law": curves, "minimum": law_plane.optimum_rows(optima, plane)}
    frame = _drawn(parts | ({"run": pl.concat(members)} if members else {}))
    frame = frame.with_columns(line=_texts(frame["C"], flop))
    best = next((optimum for optimum in reversed(optima) if not optimum.beyond), optima[-1])
    size, tokens = best.n_params.value, best.tokens.value
    other = [{"N": size * k, "D": tokens / k**cost.size_power} for k in (0.5, 2.0)]
    worse = max(predict(fit, point).law.value for point in other) - best.loss.value
    title = (
        f"At {flop(best.flops)} loss is lowest at {spelled_estimate(best.n_params, 'si')} parameters; half or twice as "
        f"many cost up to {number(worse, '.2g')} more."
    )
    spelled = meaning_of(fit, "C") if profiles else "compute C = 6ND"
    dots = f"Dots: {counted(sum(map(len, members)), 'run')} of about these computes. " if members else ""
    subtitle = (
        f"Loss along constant {spelled} by the law fitted to {fitted_runs(fit)}, dashed beyond them. {dots}"
        f"Bands: interval of the law; diamonds: its minima, bars: interval of the best N; {interval_method(fit)}."
    )
    return Figure("isoflop_curves", title, subtitle, frame, partial(_draw_lines, fit, "N", frame))


def _draw_lines(fit: Fit, axis: str, frame: pl.DataFrame, width: int) -> alt.LayerChart:
    """Loss against a variable: runs, the law in its band, the name of each line at its end, and minima if any."""
    runs, curves, minima, known = (_part(frame, drawn) for drawn in ("run", "law", "minimum", "true loss"))
    height, several = 380 if width == WIDE else 280, "line" in frame.columns
    domain = _loss_domain(pl.concat([runs["loss"], known["loss"]]), curves)
    x = _log(alt.X, fit, axis, law_plane.ends_of(curves[axis]), width, room=END_LABEL * several)
    y, low = (
        alt.Y(f"{field}:Q", title=loss_title(fit), scale=alt.Scale(domain=list(domain), zero=False, nice=False))
        for field in ("loss", "low")
    )
    colour: Any = alt.ColorValue(ACCENT)
    if several:
        order = curves["line"].unique(maintain_order=True).to_list()
        colour = alt.Color("line:N", legend=None, scale=alt.Scale(domain=order, range=sequence_colours(len(order))))
    law = alt.Chart(inline(curves)).encode(x=x, color=colour)
    layers: list[Any] = [
        law.mark_area(opacity=0.18, clip=True).encode(y=low, y2=alt.Y2("high:Q")),
        law.mark_line(strokeWidth=1.2, strokeDash=[4, 3], clip=True).encode(y=y),
        law.transform_filter("datum.among_runs").mark_line(clip=True).encode(y=y),
    ]
    if len(minima):
        lowest = alt.Chart(inline(minima.filter("on_plane"))).encode(y=y)
        bar = _log(alt.X, fit, axis, law_plane.ends_of(curves[axis]), width, room=END_LABEL, field="N_low")
        diamond = lowest.mark_point(shape="diamond", filled=True, size=90, opacity=1, stroke=INK, strokeWidth=0.8)
        layers += [lowest.mark_rule(strokeWidth=2, color=INK, clip=True).encode(x=bar, x2=alt.X2("N_high:Q")),
                   diamond.encode(x=x, color=colour)]  # fmt: skip
    if len(known):
        layers.append(alt.Chart(inline(known)).mark_rule(color=INK, strokeDash=[1, 3], strokeWidth=1.5).encode(y=y))
    dots = alt.Chart(inline(runs)).mark_point(filled=True, opacity=1, stroke=PAPER, strokeWidth=0.6)
    layers.append(dots.encode(x=x, y=y, color=colour))
    if several:
        ends = curves.filter(pl.col("loss").is_between(*domain)).group_by("line", maintain_order=True).last()
        places = spaced(ends["loss"].to_list(), 13 * (domain[1] - domain[0]) / (height - 45))
        names = alt.Chart(inline(ends.with_columns(loss=pl.Series(places)))).mark_text(align="left", dx=6)
        layers.append(names.encode(x=x, y=y, text=alt.Text("line:N")))
    return sized(alt.layer(*layers), width, height)


def _contours(fit: Fit, best: Frontier, runs: pl.DataFrame, plane: Plane) -> Figure:
    parts = {
        "run": some(runs), "equal loss": law_plane.contours(fit, plane, runs["loss"].to_list()),
        "compute-optimal": law_plane.optimum_line(fit, plane), "equal compute": law_plane.equal_compute(plane),
    }  # fmt: skip
    frame = _drawn(parts)
    title = (
        f"The best size grows with compute to the power {spelled_estimate(best.a)}, the best number of tokens to the "
        f"power {spelled_estimate(best.b)}."
    )
    subtitle = (
        f"Contours of equal loss by the law fitted to {fitted_runs(fit)}, dashed beyond them; dots: runs in the colour "
        f"of the loss observed, side by side at equal N and D.{some_in_words(runs)} Grey: equal compute C = 6ND. Blue "
        f"line and band: best N at each compute, {interval_method(fit)}."
    )
    return Figure("isoloss_contours", title, subtitle, frame, partial(_draw_contours, fit, plane, frame))


def _draw_contours(fit: Fit, plane: Plane, frame: pl.DataFrame, width: int) -> alt.LayerChart:
    wide, height = width == WIDE, 430 if width == WIDE else 300
    runs, best = _part(frame, "run"), _part(frame, "compute-optimal")
    lines, equal = (
        _part(frame, drawn).filter(wide | (pl.col(by).rank("dense") % 2 == 1))
        for drawn, by in (("equal loss", "loss"), ("equal compute", "C"))
    )
    a_pixel = (plane.sizes[1] / plane.sizes[0]) ** (1 / (width - 60))
    place = pl.int_range(pl.len()).over("N", "D") - (pl.len().over("N", "D") - 1) / 2
    runs = runs.with_columns(N=pl.col("N") * a_pixel ** ((8 if wide else 5) * place))
    x, y = _log(alt.X, fit, "N", plane.sizes, width), _log(alt.Y, fit, "D", plane.tokens, width)
    losses = law_plane.ends_of(pl.concat([runs["loss"], lines["loss"]]))
    colour = alt.Color("loss:Q", legend=None, scale=alt.Scale(domain=list(losses), range=SEQUENCE))

    def at(table: pl.DataFrame) -> alt.Chart:
        return alt.Chart(inline(table)).encode(x=x, y=y)

    def text(table: pl.DataFrame, ink: str, **style: Any) -> list[Any]:
        named = at(table).encode(text=alt.Text("text:N"))  # once as what lies behind it
        return [named.mark_text(stroke=PAPER, strokeWidth=5, **style), named.mark_text(color=ink, **style)]

    contour, optimum, inside = at(lines).encode(color=colour, detail=alt.Detail("loss:N")), at(best), "datum.among_runs"
    ends = pl.concat([best.select("C", N="N_low"), best.select("C", N="N_high").reverse()]).with_row_index("order")
    band = ends.with_columns(D=pl.col("C") / SIX_ND.per / pl.col("N"))
    fill: dict[str, Any] = {"filled": True, "fill": ACCENT, "fillOpacity": 0.12, "strokeWidth": 0, "clip": True}
    dots = at(runs).mark_point(filled=True, size=75 if wide else 36, opacity=1, stroke=INK, strokeWidth=0.7)
    layers: list[Any] = [
        at(band).mark_line(**fill).encode(order=alt.Order("order:Q")),
        at(equal).mark_line(color=LIGHT, strokeWidth=1).encode(detail=alt.Detail("C:N")),
        contour.mark_line(strokeWidth=1.4, strokeDash=[4, 3]),
        contour.transform_filter(inside).mark_line(strokeWidth=2),
        optimum.mark_line(color=ACCENT, strokeWidth=2, strokeDash=[6, 4], clip=True),
        optimum.transform_filter(inside).mark_line(color=ACCENT, strokeWidth=2.5),
        dots.encode(color=colour),
    ]
    on_plane = best.filter("on_plane").select("N", "D")
    taken = [runs.select("N", "D"), on_plane]
    if len(on_plane):
        name = on_plane[len(on_plane) // 6 :][:1].with_columns(text=pl.lit("compute-optimal"))
        layers += text(name, ACCENT, align="left", dx=8, dy=9)
        taken += [name.select(pl.col("N") * a_pixel**pixels, "D") for pixels in (20, 45, 70)]
    decimals = max(len(f"{value:.10g}".partition(".")[2]) for value in [*lines["loss"], 0.1])
    named = law_plane.label_places(lines, "loss", plane, pl.concat(taken), 12 / height)
    layers += text(named.with_columns(text=_texts(named["loss"], f"{{:.{decimals}f}}".format)), INK)
    first = equal.group_by("C", maintain_order=True).first()
    first = first.with_columns(text=_texts(first["C"], flop))
    top = first.filter(pl.col("D") >= plane.tokens[1] / law_plane.ROUNDING)
    layers.append(at(top).mark_text(color=GREY, dy=-8).encode(text=alt.Text("text:N")))
    taken += [named.select("N", "D"), lines.select("N", "D")]
    rest = law_plane.label_places(equal.join(top, on="C", how="anti"), "C", plane, pl.concat(taken), 36 / height)
    layers += text(rest.join(first.select("C", "text"), on="C"), GREY)
    return sized(alt.layer(*layers), width, height)


def _drawn(parts: Mapping[str, pl.DataFrame]) -> pl.DataFrame:
    """All that a figure draws as one frame; `drawn` says what each row is."""
    return pl.concat([part.with_columns(drawn=pl.lit(name)) for name, part in parts.items()], how="diagonal")


def _part(frame: pl.DataFrame, drawn: str) -> pl.DataFrame:
    """One kind of rows of such a frame, with the columns that it has."""
    rows = frame.filter(pl.col("drawn") == drawn)
    return rows.select(name for name in frame.columns if rows[name].null_count() < len(rows) or rows.is_empty())


def _log(channel: Any, fit: Fit, axis: str, ends: Ends, width: int, room: float = 0, field: str = "") -> Any:
    """A logarithmic channel over exactly these ends, and so many pixels more at the right."""
    low, high = ends
    meaning, ticks = meaning_of(fit, axis), log_ticks(low, high, 7 if width == WIDE else 4)
    return channel(
        f"{field or axis}:Q",
        title=f"{meaning}{f' {axis}' if meaning != axis else ''} (log scale)",
        scale=alt.Scale(type="log", domain=[low, high * (high / low) ** (room / (width - 70 - room))], nice=False),
        axis=alt.Axis(values=ticks, tickCount=len(ticks), format="~s", grid=True, labelOverlap=False),
    )


def _loss_domain(losses: pl.Series, curves: pl.DataFrame) -> Ends:
    """Around the losses and the law; its band may widen that by a fifth at either end, and is cut beyond."""
    low, high = law_plane.ends_of(pl.concat([losses, curves["loss"]]))
    span = high - low
    below, above = (law_plane.ends_of(curves[end])[i] for i, end in enumerate(("low", "high")))
    return max(low - 0.2 * span, min(low, below)) - 0.03 * span, min(high + 0.2 * span, max(high, above)) + 0.03 * span


def _texts(values: pl.Series, spelled: Callable[[float], str]) -> pl.Series:
    return pl.Series([spelled(value) for value in values], dtype=pl.String())
