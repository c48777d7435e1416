"""The figure of runs that were held out of a fit: how far the law's predictions of them are off."""

from __future__ import annotations

from functools import partial

import altair as alt
import polars as pl

from isoloss.analysis.frontier import HoldOut
from isoloss.analysis.laws import AXES
from isoloss.report.chart import ACCENT, GREY, WARNING, Figure, inline, rows_axis, sized
from isoloss.report.law_words import NOUNS, fitted_runs, held_out_frame, held_out_in_words, interval_method, loss_title
from isoloss.wording import count, counted, level

MAX_HELD_OUT = 60
"""Held-out runs that are drawn, those predicted worst; the table has all."""


def held_out_figure(held: HoldOut) -> Figure:
    """The prediction errors of held-out runs with their intervals, a row a run."""
    frame, fit = held_out_frame(held), held.fit
    drawn = f"{counted(len(frame), 'run')} of the largest {NOUNS[held.variable]}, {held.variable} = {count(held.level)}"
    if len(frame) > MAX_HELD_OUT:
        frame = frame.filter(pl.col("residual").abs().rank("ordinal", descending=True) <= MAX_HELD_OUT)
        drawn = f"the {MAX_HELD_OUT} predicted worst of {drawn}"
    others = [axis for axis in AXES[fit.form] if axis != held.variable]
    labels: list[str] = []
    for row in frame.to_dicts():
        seed = [] if row["seed"] is None else [f"seed {level(row['seed'])}"]
        labels.append(" · ".join([*(f"{axis} = {count(row[axis])}" for axis in others), *seed]) or "run")
    labels = [f"{label} ({i})" if labels.count(label) > 1 else label for i, label in enumerate(labels, start=1)]
    subtitle = (
        f"Predicted minus observed loss of {drawn}, by the law fitted to the other {fitted_runs(fit)}. Bars: "
        f"prediction interval of one new run, {interval_method(fit)}; one that does not reach 0 misses its run."
    )
    frame = frame.with_columns(pl.Series("label", labels))
    draw = partial(_draw_held_out, frame, f"predicted − observed {loss_title(fit)}")
    return Figure("scaling_holdout", f"{held_out_in_words(held)}.", subtitle, frame, draw)


def _draw_held_out(frame: pl.DataFrame, title: str, width: int) -> alt.LayerChart:
    colour = alt.Color("where:N", legend=None, scale=alt.Scale(domain=["inside", "outside"], range=[ACCENT, WARNING]))
    x, low, zero = (
        alt.X(f"{field}:Q", title=title, axis=alt.Axis(grid=True, tickCount=5))
        for field in ("residual", "residual_low", "zero")
    )
    rows = alt.Chart(inline(frame)).encode(y=rows_axis(frame["label"].to_list()), color=colour)
    layers = (
        alt.Chart(inline(pl.DataFrame({"zero": [0.0]}))).mark_rule(color=GREY).encode(x=zero),
        rows.mark_rule(strokeWidth=2).encode(x=low, x2=alt.X2("residual_high:Q")),
        rows.mark_point(filled=True, opacity=1, size=55).encode(x=x),
    )
    return sized(alt.layer(*layers), width, 45 + 18 * len(frame))
