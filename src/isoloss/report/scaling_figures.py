"""The scaling figures: plain tables of a fitted law in, Altair charts out."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import altair as alt
import polars as pl

from isoloss.report.figures import fitted, inline, log_axis, near_data
from isoloss.report.scaling_frames import Plane
from isoloss.report.theme import BLUE, GREY, INK, PALETTE, PAPER, VERMILLION

LOSS = "final validation loss (nats/token)"
AXIS_TITLES = {"N": "parameters N, without embeddings (log scale)", "D": "training tokens D (log scale)"}
OUTCOMES = ("inside its interval", "outside its interval")
LIGHT_GREY = "#c8c8c8"
HALO: dict[str, Any] = {"stroke": PAPER, "strokeWidth": 8, "strokeJoin": "round"}
"""Of a text over lines: drawn once with it, once without."""


def scaling_fit(runs: pl.DataFrame, curves: pl.DataFrame, axis: str) -> alt.LayerChart:
    """Loss against one variable of the law: runs as dots, the law as a line in its band, a colour for each horizon."""
    several = "horizon" in curves.columns
    domain = _loss_domain(runs, curves)
    x = alt.X(f"{axis}:Q", title=AXIS_TITLES[axis], **log_axis(curves[axis], "~s"))
    order = curves["horizon"].unique(maintain_order=True).to_list() if several else []
    colour = _series("horizon", order, "training tokens D") if several else alt.value(BLUE)
    law = alt.Chart(inline(_cut(curves, domain))).encode(x=x, color=colour)
    layers = (
        law.mark_area(opacity=0.16).encode(y=_loss_axis("low", domain), y2="high:Q"),
        law.mark_line(strokeWidth=1.6).encode(y=_loss_axis("loss", domain)),
        _dots(runs).encode(x=x, y=_loss_axis("loss", domain), color=colour),
    )
    return fitted(alt.layer(*layers), height=420)


def isoloss_contours(
    plane: Plane,
    runs: pl.DataFrame,
    lines: pl.DataFrame,
    labels: pl.DataFrame,
    diagonals: pl.DataFrame,
    best: pl.DataFrame,
    best_band: pl.DataFrame,
) -> alt.LayerChart:
    """Contours of equal loss over (N, D) with the runs, the compute-optimal frontier and lines of equal compute."""
    x = alt.X("N:Q", title=AXIS_TITLES["N"], **_plane_axis(plane.sizes))
    y = alt.Y("D:Q", title=AXIS_TITLES["D"], **_plane_axis(plane.tokens))
    losses = [*runs["loss"], *lines["loss"]]
    # The brightest end of the scheme vanishes on white.
    colours = alt.Scale(domain=[min(losses), max(losses)], scheme=alt.SchemeParams(name="viridis", extent=[0.0, 0.85]))
    colour = alt.Color("loss:Q", scale=colours, legend=alt.Legend(title=LOSS, tickCount=5))
    equal = alt.Chart(inline(diagonals)).encode(x=x, y=y)
    names = alt.Chart(inline(diagonals.drop_nulls("at_top"))).encode(x=x, y=y, text="compute:N")
    contour = alt.Chart(inline(lines)).mark_line(strokeWidth=2)
    named = alt.Chart(inline(labels)).encode(x=x, y=y, text="label:N")
    dots = _dots(runs).mark_point(filled=True, size=85, opacity=1, stroke=INK, strokeWidth=0.8)
    layers = [
        equal.mark_line(color=LIGHT_GREY, strokeWidth=1).encode(detail="compute:N"),
        names.transform_filter("datum.at_top").mark_text(
            color=GREY, fontSize=11, align="left", baseline="bottom", dx=2, dy=-2
        ),
        names.transform_filter("!datum.at_top").mark_text(color=GREY, fontSize=11, align="left", dx=6, dy=-4),
        contour.encode(x=x, y=y, color=colour, detail="piece:N", strokeDash=_dash()),
        *_frontier(best, best_band, x, y),
        named.mark_text(fontSize=12, **HALO),
        named.mark_text(fontSize=12, color=INK),
        dots.encode(x=alt.X("shown:Q", title=AXIS_TITLES["N"], **_plane_axis(plane.sizes)), y=y, color=colour),
    ]
    return fitted(alt.layer(*layers), height=560)


def isoflop_curves(plane: Plane, curves: pl.DataFrame, minima: pl.DataFrame, runs: pl.DataFrame) -> alt.LayerChart:
    """Loss against N along constant compute: the law in its band, its minima, and the runs of real profiles."""
    domain = _loss_domain(runs, curves)
    x_axis = log_axis(pl.Series(plane.sizes), "~s")
    x = alt.X("N:Q", title=AXIS_TITLES["N"], **x_axis)
    colour = _series("compute", curves["compute"].unique(maintain_order=True).to_list(), "compute C = 6ND")
    law = alt.Chart(inline(_cut(curves, domain))).encode(x=x, detail="piece:N")
    lowest = alt.Chart(inline(minima)).encode(y=_loss_axis("loss", domain), color=colour)
    tooltip = [
        alt.Tooltip("compute:N", title="compute"),
        alt.Tooltip("N:Q", title="N at the minimum", format=",.0f"),
        alt.Tooltip("loss:Q", format=".4f"),
    ]
    layers = [
        law.mark_area(opacity=0.14).encode(y=_loss_axis("low", domain), y2="high:Q", color=colour),
        law.mark_line(strokeWidth=1.8).encode(y=_loss_axis("loss", domain), color=colour, strokeDash=_dash()),
        lowest.mark_rule(strokeWidth=2).encode(x=alt.X("low:Q", title=AXIS_TITLES["N"], **x_axis), x2="high:Q"),
        lowest.mark_point(shape="diamond", filled=True, size=130, opacity=1, stroke=INK, strokeWidth=1).encode(
            x=x, tooltip=tooltip
        ),
        _dots(runs).encode(x=x, y=_loss_axis("loss", domain), color=colour),
    ]
    return fitted(alt.layer(*layers), height=420)


def scaling_holdout(table: pl.DataFrame) -> alt.LayerChart:
    """Observed loss of each held-out run against the one predicted, with its prediction interval."""
    scale = near_data(pl.concat([table[name] for name in ("observed", "low", "high")]))
    ends = pl.DataFrame({"predicted": scale.domain, "observed": scale.domain})  # pyright: ignore
    x = alt.X("predicted:Q", title="predicted loss (nats/token)", scale=scale)
    y, y_bar = (
        alt.Y(f"{field}:Q", title="observed loss (nats/token)", scale=scale, axis=alt.Axis(grid=True))
        for field in ("observed", "low")
    )
    outcomes = alt.Scale(domain=list(OUTCOMES), range=[BLUE, VERMILLION])
    colour = alt.Color("outcome:N", scale=outcomes, legend=alt.Legend(title=None))
    tooltip = [
        alt.Tooltip("point:N", title="at"),
        *(alt.Tooltip(f"{name}:Q", format=".4f") for name in ("observed", "predicted", "low", "high")),
    ]
    runs = alt.Chart(inline(table)).encode(x=x)
    layers = (
        alt.Chart(inline(ends)).mark_line(color=GREY, strokeDash=[4, 3], strokeWidth=1).encode(x=x, y=y),
        runs.mark_rule(color=LIGHT_GREY, strokeWidth=5).encode(y=y_bar, y2="high:Q"),
        runs.mark_point(filled=True, size=75, opacity=1).encode(y=y, color=colour, tooltip=tooltip),
    )
    return fitted(alt.layer(*layers), height=420)


def _frontier(line: pl.DataFrame, band: pl.DataFrame, x: alt.X, y: alt.Y) -> list[Any]:
    """The frontier with its band; nothing where it runs beyond the plane."""
    outline = alt.Chart(inline(band)).mark_line(filled=True, fill=VERMILLION, fillOpacity=0.11, strokeWidth=0)
    curve = alt.Chart(inline(line)).encode(x=x, y=y)
    layers: list[Any] = [outline.encode(x=x, y=y, order="order:Q")] if len(band) else []
    if line.is_empty():
        return layers
    at = inline(line[len(line) // 5 : len(line) // 5 + 1])
    name = alt.Chart(at).encode(x=x, y=y, text=alt.value("compute-optimal"))
    beside: dict[str, Any] = {"align": "left", "dx": 10, "dy": 8, "fontSize": 12}
    return [
        *layers,
        curve.mark_line(color=VERMILLION, strokeWidth=2.5).encode(detail="piece:N", strokeDash=_dash()),
        name.mark_text(**beside, **HALO),
        name.mark_text(**beside, color=VERMILLION),
    ]


def _plane_axis(ends: Sequence[float]) -> dict[str, Any]:
    return log_axis(pl.Series(ends), "~s")


def _dash() -> alt.StrokeDash:
    """Solid among the runs, dashed beyond them."""
    return alt.StrokeDash("among_runs:N", scale=alt.Scale(domain=[True, False], range=[[1, 0], [5, 4]]), legend=None)


def _series(field: str, order: list[str], title: str) -> alt.Color:
    """A colour for each of an ordered set of curves."""
    scale = (
        alt.Scale(domain=order, range=PALETTE)
        if len(order) <= len(PALETTE)
        else alt.Scale(domain=order, scheme="viridis")
    )
    return alt.Color(
        f"{field}:N", sort=order, scale=scale, legend=alt.Legend(title=title, symbolType="circle", symbolOpacity=1)
    )


def _loss_domain(runs: pl.DataFrame, curves: pl.DataFrame) -> tuple[float, float]:
    """Around the runs and the law; its band may widen that by a fifth at either end, and is cut beyond."""
    losses = [*runs["loss"], *curves["loss"]]
    span = max(losses) - min(losses)
    low, high = max(min(losses) - 0.2 * span, min(curves["low"])), min(max(losses) + 0.2 * span, max(curves["high"]))
    return low - 0.03 * span, high + 0.03 * span


def _loss_axis(field: str, domain: tuple[float, float]) -> alt.Y:
    scale = alt.Scale(domain=list(domain), zero=False, nice=False)
    return alt.Y(f"{field}:Q", title=LOSS, scale=scale, axis=alt.Axis(grid=True))


def _cut(curves: pl.DataFrame, domain: tuple[float, float]) -> pl.DataFrame:
    """Bands cut to the axis, so that a wide one does not run over the page."""
    return curves.with_columns(pl.col("low", "high").clip(*domain))


def _dots(runs: pl.DataFrame) -> alt.Chart:
    """Runs, without a place yet."""
    tooltip = [
        alt.Tooltip("run_id:N", title="run"),
        alt.Tooltip("label:N", title="levels"),
        *(alt.Tooltip(f"{axis}:Q", format=",.0f") for axis in ("N", "D") if axis in runs.columns),
        alt.Tooltip("loss:Q", format=".4f"),
    ]
    dots = alt.Chart(inline(runs)).mark_point(filled=True, size=50, opacity=0.9, stroke=PAPER, strokeWidth=0.7)
    return dots.encode(tooltip=tooltip)
