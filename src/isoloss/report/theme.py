"""The look of every figure: colours that colour-blind readers tell apart, quiet axes, one font."""

from __future__ import annotations

from typing import Any

import altair as alt

# Okabe & Ito 2008, strongest contrasts first; yellow is left out, it vanishes on white.
BLUE, VERMILLION, GREEN, ORANGE, PINK, SKY = "#0072B2", "#D55E00", "#009E73", "#E69F00", "#CC79A7", "#56B4E9"
PALETTE = [BLUE, VERMILLION, GREEN, ORANGE, PINK, SKY, "#000000"]
GREY, LIGHT, INK, PAPER = "#8a8a8a", "#d9d9d9", "#222222", "#ffffff"
SHAPES = ["circle", "square", "triangle-up", "diamond", "cross", "triangle-down"]

WIDTH = 900
"""Pixels a figure takes across the page, labels included."""

_FONT = "Liberation Sans, Arial, Helvetica, sans-serif"

CONFIG: dict[str, Any] = {
    "background": PAPER,
    "font": _FONT,
    "padding": 8,
    "view": {"stroke": None, "continuousWidth": WIDTH, "continuousHeight": 320},
    "axis": {
        "labelFontSize": 12,
        "titleFontSize": 12,
        "titleFontWeight": "normal",
        "titlePadding": 10,
        "labelColor": INK,
        "titleColor": INK,
        "domainColor": GREY,
        "tickColor": GREY,
        "gridColor": "#ececec",
        "labelOverlap": "greedy",
        "labelLimit": 460,
    },
    "axisX": {"grid": False, "tickCount": 6, "labelFlush": False},
    "axisY": {"domain": False, "ticks": False, "tickCount": 6, "labelPadding": 8},
    "legend": {
        "orient": "top",
        "direction": "horizontal",
        "labelFontSize": 12,
        "titleFontSize": 12,
        "titleFontWeight": "normal",
        "titleOrient": "left",
        "labelLimit": 460,
        "symbolSize": 90,
        "symbolStrokeWidth": 2,
        "columnPadding": 18,
        "offset": 8,
        "layout": {"top": {"margin": 36}},
    },
    "title": {"fontSize": 13, "fontWeight": "normal", "color": INK, "anchor": "start", "frame": "group", "offset": 8},
    "range": {"category": PALETTE, "symbol": SHAPES},
    "line": {"strokeWidth": 2},
    "point": {"size": 70},
    "concat": {"spacing": 28},
}


def themed(chart: alt.TopLevelMixin) -> dict[str, Any]:
    """The chart as a Vega-Lite specification that carries the theme with it."""
    return {**chart.to_dict(), "config": CONFIG}
