"""Charts of convergence, a row a run: improvement at the end, and steps to a target."""

from __future__ import annotations

import altair as alt
import polars as pl

from isoloss.report.figures import fitted, fixed_colour, inline, label_axis
from isoloss.report.theme import BLUE, GREEN, GREY, INK, ORANGE, VERMILLION

STATE_COLOURS = {"improving": BLUE, "plateaued": GREEN, "U-turned": VERMILLION, "inconclusive": GREY}
REACHED, CENSORED = "reached", "not reached"
OUTCOME_COLOURS = {REACHED: BLUE, CENSORED: ORANGE}
OUTCOME_SHAPES = {REACHED: "circle", CENSORED: "triangle-right"}


def improvements(table: pl.DataFrame, tolerance: float) -> alt.LayerChart:
    """Improvement per doubling with its interval, the tolerance either side dashed; rows without values are notes."""
    base = alt.Chart(inline(table)).encode(y=label_axis(table["label"].to_list()))
    colour = fixed_colour(table, "state", STATE_COLOURS)
    title = "improvement (nats per doubling of steps)"
    tooltip = [
        alt.Tooltip("run_id:N", title="run"),
        alt.Tooltip("label:N", title="levels"),
        alt.Tooltip("state:N"),
        *(alt.Tooltip(f"{name}:Q", format="+.4f") for name in ("value", "low", "high")),
        alt.Tooltip("first_step:Q", title="from step", format=","),
        alt.Tooltip("last_step:Q", title="to step", format=","),
    ]
    dashed = alt.Chart().mark_rule(color=INK, strokeDash=[5, 4])
    rules = [dashed.encode(x=alt.datum(end)) for end in (-tolerance, tolerance)]
    zero = alt.Chart().mark_rule(color=INK, strokeWidth=1).encode(x=alt.datum(0))
    bars = base.mark_rule(strokeWidth=2).encode(x=alt.X("low:Q", title=title), x2="high:Q", color=colour)
    x = alt.X("value:Q", title=title, axis=alt.Axis(grid=True))
    dots = base.mark_point(filled=True, size=70, opacity=1).encode(x=x, color=colour, tooltip=tooltip)
    return fitted(alt.layer(zero, *rules, bars, dots), height=90 + 20 * len(table))


def times_to_target(table: pl.DataFrame) -> alt.LayerChart:
    """Step of the first evaluation at the target, with a bar from the one before; a triangle where not reached."""
    base = alt.Chart(inline(table)).encode(y=label_axis(table["label"].to_list()))
    colour = fixed_colour(table, "outcome", OUTCOME_COLOURS)
    present = [outcome for outcome in OUTCOME_SHAPES if outcome in set(table["outcome"])]
    shapes = alt.Scale(domain=present, range=[OUTCOME_SHAPES[outcome] for outcome in present])
    shape = alt.Shape("outcome:N", scale=shapes, legend=alt.Legend(title=None) if len(present) > 1 else None)
    title = "optimizer step"
    tooltip = [
        alt.Tooltip("run_id:N", title="run"),
        alt.Tooltip("label:N", title="levels"),
        alt.Tooltip("outcome:N"),
        alt.Tooltip("after:Q", title="after step", format=","),
        alt.Tooltip("step:Q", title="step", format=","),
    ]
    x = alt.X("step:Q", title=title, scale=alt.Scale(zero=True), axis=alt.Axis(grid=True))
    bars = base.transform_filter("isValid(datum.after)").mark_rule(strokeWidth=2)
    bars = bars.encode(x=alt.X("after:Q", title=title), x2="step:Q", color=colour)
    dots = base.mark_point(filled=True, size=80, opacity=1).encode(x=x, color=colour, shape=shape, tooltip=tooltip)
    return fitted(alt.layer(bars, dots), height=90 + 20 * len(table))
