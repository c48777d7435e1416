"""Charts of effects: dots with intervals, the half-normal plot, and means where two factors meet."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import altair as alt
import polars as pl

from isoloss.report.figures import VAL_LOSS, fitted, fixed_colour, inline, label_axis
from isoloss.report.theme import BLUE, GREY, INK, ORANGE, PALETTE, VERMILLION, WIDTH

EFFECT = "effect on best validation loss (nats/token)"
KINDS = {"main effect": BLUE, "two-factor interaction": ORANGE}
ACTIVE = {"active": VERMILLION, "not told from noise": GREY}


def effect_dots(table: pl.DataFrame) -> alt.LayerChart:
    """A row a contrast in the table's order: its value, its interval where it has one, and a line at zero."""
    base = alt.Chart(inline(table)).encode(y=label_axis(table["label"].to_list()))
    colour = fixed_colour(table, "kind", KINDS)
    x = alt.X("value:Q", title=EFFECT, axis=alt.Axis(grid=True))
    tooltip = [
        alt.Tooltip("label:N", title="term"),
        alt.Tooltip("contrast:N"),
        *(alt.Tooltip(f"{name}:Q", format="+.4f") for name in ("value", "low", "high")),
        alt.Tooltip("p_holm:Q", title="p Holm", format=".3g"),
    ]
    zero = alt.Chart().mark_rule(color=INK, strokeWidth=1).encode(x=alt.datum(0))
    bars = base.mark_rule(strokeWidth=2).encode(x=alt.X("low:Q", title=EFFECT), x2="high:Q", color=colour)
    dots = base.mark_point(filled=True, size=80, opacity=1).encode(x=x, color=colour, tooltip=tooltip)
    layers = (zero, bars, dots) if table["low"].null_count() < len(table) else (zero, dots)
    return fitted(alt.layer(*layers), height=90 + 20 * len(table))


def half_normal(table: pl.DataFrame, pse: float, margin: float, simultaneous: float) -> alt.LayerChart:
    """Sizes of all effects against half-normal quantiles, with the line of noise and both margins."""
    last = float(table["quantile"].to_numpy().max()) * 1.05
    x_scale, x_title = alt.Scale(domain=[0, last], nice=False), "half-normal quantile"
    y = alt.Y("size:Q", title="size of effect (nats/token)", axis=alt.Axis(grid=True))
    line = pl.DataFrame({"quantile": [0.0, last], "size": [0.0, pse * last]})
    x = alt.X("quantile:Q", title=x_title, scale=x_scale)
    names = ["margin of one effect", "margin of all effects"]
    margins = pl.DataFrame({"size": [margin, simultaneous], "margin": names})
    dashes = alt.Scale(domain=names, range=[[2, 3], [7, 4]])
    base = alt.Chart(inline(table)).encode(x=x, y=y)
    tooltip = [
        alt.Tooltip("term:N"),
        alt.Tooltip("value:Q", format="+.4f"),
        alt.Tooltip("quantile:Q", format=".2f"),
        alt.Tooltip("kind:N", title="screened as"),
    ]
    return fitted(
        alt.layer(
            alt.Chart(inline(margins))
            .mark_rule(color=INK)
            .encode(
                y="size:Q",
                strokeDash=alt.StrokeDash("margin:N", scale=dashes, legend=alt.Legend(title=None, symbolType="stroke")),
            ),
            alt.Chart(inline(line)).mark_line(color=GREY, strokeWidth=1.5).encode(x=x, y=y),
            base.mark_point(filled=True, size=70, opacity=1).encode(
                color=fixed_colour(table, "kind", ACTIVE), tooltip=tooltip
            ),
            base.mark_text(align="right", dx=-9, fontSize=11, color=INK).encode(text="label:N"),
        ),
        height=380,
    )


def interactions(panels: Sequence[tuple[str, str, pl.DataFrame]]) -> alt.ConcatChart:
    """One panel a pair of factors: the first along the axis, a line for each level of the second."""
    lows, highs = (pl.concat([table[end] for *_, table in panels]).to_numpy() for end in ("low", "high"))
    spare = 0.06 * float(highs.max() - lows.min())
    scale = alt.Scale(domain=[float(lows.min()) - spare, float(highs.max()) + spare], zero=False, nice=False)
    width = (WIDTH - 80) // 3 - 40
    drawn = [
        _interaction(x, colour, table, scale, first=i == 0).properties(width=width, height=260)
        for i, (x, colour, table) in enumerate(panels)
    ]
    return alt.concat(*drawn, columns=len(drawn), spacing=24).resolve_scale(color="independent")


def _interaction(first_factor: str, second_factor: str, table: pl.DataFrame, scale: alt.Scale, *, first: bool) -> Any:
    x_order, levels = (table[factor].unique(maintain_order=True).to_list() for factor in (first_factor, second_factor))
    colours = alt.Scale(domain=levels, range=PALETTE) if len(levels) <= len(PALETTE) else alt.Scale(scheme="viridis")
    legend = alt.Legend(title=second_factor, orient="top", columns=4)
    base = alt.Chart(inline(table)).encode(
        x=alt.X(f"{first_factor}:N", sort=x_order, title=first_factor, axis=alt.Axis(labelAngle=0)),
        color=alt.Color(f"{second_factor}:N", sort=levels, scale=colours, legend=legend),
    )

    def y(field: str) -> alt.Y:
        title = VAL_LOSS if first else None
        return alt.Y(f"{field}:Q", title=title, scale=scale, axis=alt.Axis(grid=True, labels=first))

    tooltip = [
        alt.Tooltip(f"{first_factor}:N"),
        alt.Tooltip(f"{second_factor}:N"),
        alt.Tooltip("n:Q", title="runs"),
        *(alt.Tooltip(f"{name}:Q", format=".4f") for name in ("mean", "low", "high")),
    ]
    return alt.layer(
        base.mark_line(strokeWidth=1.5).encode(y=y("mean")),
        base.mark_rule(strokeWidth=2).encode(y=y("low"), y2="high:Q"),
        base.mark_point(filled=True, size=70, opacity=1).encode(y=y("mean"), tooltip=tooltip),
    )
