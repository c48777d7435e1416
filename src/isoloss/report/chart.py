"""Figures: a frame, a chart of it at any width, and the look that all charts share.

A chart is drawn at two widths, those of one and of two columns of a paper: the page shows the narrow one on a phone.
Colours: ACCENT is an estimate or a law, WARNING what failed, contradicts or lies outside, GREY what stands behind.
Levels of a factor take `factor_colours`, which holds neither, so that a colour means one thing on the whole page.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from functools import cache
from importlib.metadata import version
from itertools import pairwise
from typing import Any, Literal

import altair as alt
import numpy as np
import polars as pl
import vl_convert
from altair.utils import schemapi

from isoloss.errors import StoreError
from isoloss.files import cache_dir, read_checksummed, sha256_bytes, write_checksummed
from isoloss.report.colours import CATEGORIES, SEQUENCE
from isoloss.report.fonts import keep_font_in_memory

WIDE, NARROW = 648, 317
"""Pixels of 1/96 inch: 6.75 and 3.3 inches."""
ACCENT, WARNING = "#0072b2", "#d55e00"
INK, GREY, LIGHT, GRID, PAPER = "#222222", "#767676", "#d9d9d9", "#ececec", "#ffffff"
VEGA_LITE_VERSION = ".".join(alt.SCHEMA_VERSION.removeprefix("v").split(".")[:2])
PNG_DPI = 300
PX_PER_INCH, PT_PER_PX = 96, 0.75  # of a browser; an inch has 72 points
MAX_MARKS = 250
"""Of runs or configurations in a chart: more hide each other, and take their time to draw."""
ImageKind = Literal["pdf", "svg", "png"]

CONFIG: dict[str, Any] = {
    "background": PAPER,
    "font": "Liberation Sans, Arial, Helvetica, sans-serif",
    "padding": 4,
    "view": {"stroke": None},
    "axis": {
        "labelFontSize": 10, "titleFontSize": 10, "titleFontWeight": "normal", "titlePadding": 6, "labelColor": INK,
        "titleColor": INK, "domainColor": GREY, "tickColor": GREY, "gridColor": GRID, "labelOverlap": "greedy",
        "labelLimit": 240,
    },
    "axisX": {"grid": False, "tickCount": 5, "labelFlush": False},
    "axisY": {"domain": False, "ticks": False, "tickCount": 5, "labelPadding": 6},
    "legend": {
        "orient": "top", "direction": "horizontal", "labelFontSize": 10, "titleFontSize": 10, "labelColor": INK,
        "titleColor": INK, "titleFontWeight": "normal", "titleOrient": "left", "labelLimit": 240, "symbolSize": 60,
        "symbolStrokeWidth": 2, "columnPadding": 12, "offset": 4,
    },
    "header": {"labelFontSize": 10, "titleFontSize": 10, "labelColor": INK, "titleColor": INK},
    "title": {"fontSize": 10, "fontWeight": "normal", "color": INK, "anchor": "start", "frame": "group", "offset": 6},
    "text": {"fontSize": 10, "color": INK},
    "range": {"category": list(CATEGORIES), "ramp": list(SEQUENCE)},
    "line": {"strokeWidth": 1.8},
    "point": {"size": 45},
    "concat": {"spacing": 16},
}  # fmt: skip


@dataclass(frozen=True)
class Figure:
    """`title` is what the figure shows, as a finding in one sentence; `subtitle` what is drawn: n, intervals, method.

    `frame` has the rows that are drawn, which are its CSV; `draw` makes the chart at a width in pixels, all in all.

    Example: `Figure("gap", "Wider models overfit more", "Mean over 3 seeds; n = 18 runs", frame, draw)`.
    """

    name: str
    title: str
    subtitle: str
    frame: pl.DataFrame
    draw: Callable[[int], alt.TopLevelMixin]
    _drawn: dict[int, str] = field(default_factory=dict[int, str], init=False, repr=False, compare=False)

    def spec(self, width: int, *, validate: bool = True) -> dict[str, Any]:
        """The Vega-Lite specification at a width, with the shared look; to validate it takes longer than to draw it."""
        with schemapi.debug_mode(validate):
            return {**self.draw(width).to_dict(validate=validate), "config": CONFIG}

    def svg(self, width: int) -> str:
        """The figure drawn at a width, once for all formats; its ids are its own. Raises StoreError."""
        if width not in self._drawn:
            keep_font_in_memory()
            try:
                svg = vl_convert.vegalite_to_svg(self.spec(width, validate=False), vl_version=VEGA_LITE_VERSION)
            except ValueError as error:
                raise StoreError(f"cannot draw {self.name}: {str(error).splitlines()[0]}") from error
            self._drawn[width] = _with_ids(svg, f"{plain_name(self.name)}-{width}")
        return self._drawn[width]


def as_image(figure: Figure, width: int, kind: ImageKind) -> bytes:
    """A picture of the figure, at its size in inches. Raises StoreError when it cannot be drawn."""
    svg = figure.svg(width)
    if kind == "png":
        return vl_convert.svg_to_png(svg, scale=PT_PER_PX, ppi=PNG_DPI)  # its unit is a point
    return vl_convert.svg_to_pdf(_in_points(svg)) if kind == "pdf" else svg.encode()


def plain_name(name: str) -> str:
    """A name as it stands in ids and names of files: of plain letters, digits, - and _."""
    return re.sub(r"[^A-Za-z0-9_-]+", "-", name)


def sized(chart: Any, width: int, height: int) -> Any:
    """A chart of one view at a width in all, labels included, and a height of its own."""
    fit = alt.AutoSizeParams(type="fit-x", contains="padding")
    return chart.properties(width=width, height=height, autosize=fit)


def inline(table: pl.DataFrame) -> alt.InlineData:
    """Rows inside the specification, where Altair's limit on their number does not apply and no layer copies them."""
    return alt.InlineData(values=tuple(table.to_dicts()))


def some(rows: pl.DataFrame, most: int = MAX_MARKS) -> pl.DataFrame:
    """Rows drawn at random, always the same ones and in their order; all where they are no more than `most`."""
    if len(rows) <= most:
        return rows
    return rows[np.sort(np.random.default_rng(0).choice(len(rows), most, replace=False))]


def some_in_words(rows: pl.DataFrame, most: int = MAX_MARKS) -> str:
    """What a subtitle says of `some` rows; empty where they are all."""
    return f" Drawn are {most:,} of them, taken at random." if len(rows) > most else ""


def colour_by(field: str, colours: Mapping[str, str], *, title: str | None = None, legend: bool = True) -> alt.Color:
    """A colour for each of some known words, in their order."""
    scale = alt.Scale(domain=list(colours), range=list(colours.values()))
    return alt.Color(f"{field}:N", scale=scale, sort=None, legend=alt.Legend(title=title) if legend else None)


def rows_axis(order: Sequence[str], **axis: Any) -> alt.Y:
    """One line a label, none left out, in their order."""
    return alt.Y("label:N", title=None, scale=alt.Scale(domain=list(order)), axis=alt.Axis(labelOverlap=False, **axis))


def near_data(*columns: pl.Series, right: float = 0.06, clamp: bool = False) -> alt.Scale:
    """A linear scale that begins where the data is; `right` is the share of its range left free at the far end.

    With `clamp` marks end at the edge that reach beyond it, which takes less to draw than to clip them.
    """
    low, high = _range(*columns)
    span = (high - low) or 0.3 * abs(high) or 1.0
    return alt.Scale(domain=[low - 0.06 * span, high + right * span], zero=False, nice=False, clamp=clamp)


def log_axis(values: pl.Series, fmt: str = "~s", ticks: int = 7) -> dict[str, Any]:
    """Scale and axis of a logarithmic channel with a few round ticks inside the data's range."""
    low, high = _range(values)
    low, high = (low / 1.25, high * 1.25) if high / low > 1.25 else (low / 1.6, high * 1.6)
    axis = alt.Axis(values=log_ticks(low, high, ticks), format=fmt, grid=True, labelOverlap=False)
    return {"scale": alt.Scale(type="log", domain=[low, high], nice=False), "axis": axis}


def log_ticks(low: float, high: float, most: int = 7) -> list[float]:
    """Round numbers between two positive ones: the finest of 10, 1-3, 1-2-5 and 1-1.5-2-3-5-7 with at most so many."""
    found: list[float] = []
    for digits in ((1.0,), (1.0, 3.0), (1.0, 2.0, 5.0), (1.0, 1.5, 2.0, 3.0, 5.0, 7.0)):
        ticks = [digit * 10.0**power for power in range(-12, 31) for digit in digits]
        inside = [tick for tick in ticks if low <= tick <= high]
        if not found or len(inside) <= most:
            found = inside
    return found


def spaced(values: Sequence[float], gap: float) -> list[float]:
    """Places for labels near values: in the same order, at least `gap` apart, moved as little as that allows."""
    order = sorted(range(len(values)), key=lambda i: values[i])
    placed = list(map(float, values))
    for _ in range(len(values)):
        for lower, upper in pairwise(order):
            short = gap - (placed[upper] - placed[lower])
            if short > 1e-12:
                placed[lower] -= short / 2
                placed[upper] += short / 2
    return placed


@cache
def scripts(snippet: str) -> str:
    """Vega, Vega-Lite, Vega-Embed and a script that uses them, bundled.

    The bundle is cached on the machine: making it takes longer than a small study's page.
    """
    key = sha256_bytes(f"{version('vl-convert-python')} {VEGA_LITE_VERSION} {snippet}".encode())
    path = cache_dir() / "scripts" / f"{key}.txt"
    with suppress(StoreError):
        return read_checksummed(path)
    bundle = vl_convert.javascript_bundle(snippet=snippet, vl_version=VEGA_LITE_VERSION)
    with suppress(StoreError, OSError):  # a cache that cannot be written costs time alone
        path.parent.mkdir(parents=True, exist_ok=True)
        write_checksummed(path, bundle)
    return bundle


def _with_ids(svg: str, name: str) -> str:
    """An SVG whose ids begin with a name and count from 0: Vega's count all that the process has drawn."""
    numbers: dict[str, int] = {}

    def own(found: re.Match[str]) -> str:
        return f"{found[1]}{name}-{numbers.setdefault(found[2], len(numbers))}"

    return re.sub(r'(\bid="|url\(#)(\w+)', own, svg)


def _in_points(svg: str) -> str:
    """An SVG whose pixels are made points, the unit of a PDF's page."""
    return re.sub(r'\b(width|height)="([\d.]+)"', lambda m: f'{m[1]}="{PT_PER_PX * float(m[2]):g}"', svg, count=2)


def _range(*columns: pl.Series) -> tuple[float, float]:
    numbers = [float(value) for values in columns for value in values.drop_nulls()]
    return min(numbers), max(numbers)
