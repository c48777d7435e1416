"""The figures of effects: sizes, levels, cells, the half-normal plot of a screening, the spread between replicates."""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import Any

import altair as alt
import polars as pl

from isoloss.analysis.effects import Effect
from isoloss.analysis.levels import cell_spreads
from isoloss.report.chart import ACCENT, GREY, INK, LIGHT, PAPER, WARNING, Figure, inline, near_data, rows_axis, sized
from isoloss.report.effects_words import EffectsView, better_and_worse, dependence, edge, error_in_words, leading, moved
from isoloss.report.level_charts import heat_map, level_panels
from isoloss.report.references import cited
from isoloss.report.response import short, to_digits
from isoloss.wording import counted, level, listed

MAX_TERMS, MAX_PANELS, MAX_INTERACTIONS, MAX_CELLS = 30, 6, 4, 400
"""Rows of sizes, panels of factors and of further interactions, dots of cells."""


def effect_figures(view: EffectsView, replicates: str) -> Iterator[Figure]:
    """Every figure these effects have data for; `replicates` is what runs of one cell are called, such as seeds."""
    if len(view.rows) < 2 or view.rows[view.response.column].n_unique() == 1:
        return
    if view.mains:
        yield _sizes(view)
    pairs = [(factor, next((o for o in view.factors if o != factor), None)) for factor in view.factors[:MAX_PANELS]]
    yield level_panels(view, "levels", _levels_title(view), pairs)
    drawn = {frozenset(pair) for pair in pairs}
    clear = [effect.factors for effect in view.interactions if frozenset(effect.factors) not in drawn]
    others = [sorted(pair, key=view.factors.index) for pair in clear[:MAX_INTERACTIONS]]
    if others:
        title = f"Other factors depend on each other too: {listed(' × '.join(pair) for pair in others)}"
        yield level_panels(view, "interactions", title, [(strong, weak) for strong, weak in others])
    yield from heat_map(view)
    yield from _half_normal(view)
    yield from _spreads(view, replicates)


def _sizes(view: EffectsView) -> Figure:
    """Differences between two levels, which compare; contrasts per doubling do not, and are in the table."""
    drawn = [*view.mains, *(e for e in view.effects.effects if e.contrast.startswith("½") and e.estimate)]
    frame = pl.DataFrame([_size(view, effect) for effect in drawn], infer_schema_length=None)
    spec = f"+z{to_digits(frame['value'])}"
    text = pl.Series("text", [short(value, spec) for value in frame["value"]])
    frame = frame.with_columns(text).sort(pl.col("value").abs(), descending=True)
    shown = frame.head(MAX_TERMS)
    more = f" The {len(shown)} largest of {len(frame)}." if len(frame) > len(shown) else ""
    subtitle = (
        "Difference between two levels (of three or more, the best and the worst), largest first; "
        f"n = {counted(view.effects.n, 'run')}; {error_in_words(view)}. Filled: larger than chance explains.{more}"
    )

    def draw(width: int) -> Any:
        words = {"labelExpr": "split(datum.label, ': ')", "labelLimit": round(0.34 * width)}
        base = alt.Chart(inline(shown)).encode(y=rows_axis(shown["label"].to_list(), **words))
        scale = near_data(shown["value"], shown["low"], shown["high"], pl.Series([0.0]), right=60 / (0.6 * width))
        x = alt.X("value:Q", title=f"effect on {view.response.title}", scale=scale, axis=alt.Axis(grid=True))
        fill = alt.condition(alt.datum.clear, alt.value(ACCENT), alt.value(PAPER))
        layers = [
            alt.Chart().mark_rule(color=INK).encode(x=alt.XDatum(0)),
            base.mark_rule(strokeWidth=2, color=ACCENT).encode(x=alt.X("low:Q", scale=scale), x2=alt.X2("high:Q")),
            base.mark_point(size=60, opacity=1, stroke=ACCENT, strokeWidth=1.8).encode(x=x, fill=fill),
            base.mark_text(align="left", dx=8).encode(x=alt.X("end:Q", scale=scale), text=alt.Text("text:N")),
        ]
        return sized(alt.layer(*layers), width, 48 + 30 * len(shown))

    return Figure("effects", leading(view), subtitle, frame, draw)


def _size(view: EffectsView, effect: Effect) -> dict[str, Any]:
    """The contrast of a two-level term; of a factor with more levels the better one minus the worse one."""
    estimate, contrast, sign = effect.estimate, effect.contrast, 1.0
    if effect.range is not None and effect.df > 1:
        estimate, contrast = effect.range.estimate, " − ".join(better_and_worse(view, effect))
        sign = -1.0 if view.response.better == "lower" else 1.0
    assert estimate is not None
    low, high = estimate.low, estimate.high
    if low is not None and high is not None:
        low, high = sorted((sign * low, sign * high))
    value = sign * estimate.value
    label = f"{effect.term}: {contrast}" if effect.range is not None else effect.term
    ends = {"low": low, "high": high, "end": value if high is None else high}
    return {
        "term": effect.term,
        "label": label,
        "contrast": contrast,
        "value": value,
        **ends,
        "clear": view.clear(effect),
    }


def _levels_title(view: EffectsView) -> str:
    first, *others = view.factors
    if not view.mains:
        return leading(view)
    if not view.clear(view.mains[0]):
        return f"Means differ most between levels of {first}, by no more than chance may explain"
    if (beyond := edge(view, first)) is not None:
        return f"The best {first} lies at the edge of the levels that were tried: try beyond {beyond}"
    for second in others[:1]:
        if any(set(effect.factors) == {first, second} for effect in view.interactions):
            return f"The effect of {first} depends on {second}: {dependence(view, (first, second))}"
        parts = view.cells([first, second]).partition_by(second)
        best = {found[first] for part in parts if (found := view.best(part)) is not None}
        if len(best) == 1:
            return f"{first} {level(best.pop())} has the best mean at every level of {second}"
    return f"{first}: {moved(view, view.mains[0])}"


def _half_normal(view: EffectsView) -> Iterator[Figure]:
    """Sizes of all effects of a screened design against half-normal quantiles (Daniel 1959)."""
    screening = view.effects.screening
    if screening is None:
        return
    rows = [
        {"term": e.term, "value": e.value, "size": abs(e.value), "quantile": e.quantile, "active": e.active,
         "label": e.term if e.active else ""}
        for e in screening.effects
    ]  # fmt: skip
    frame = pl.DataFrame(rows)
    active = frame.filter("active").sort("size", descending=True)["term"].to_list()
    title = f"{len(active)} of {len(frame)} effects are larger than the others explain"
    subtitle = (
        f"All {len(frame)} effects of the design on {view.response.title} by size; "
        f"n = {counted(view.effects.n, 'run')}, none repeated, so there are no intervals. Solid: where noise would lie "
        f"{cited('lenth1989')}. Dashed: the 95% margin of one effect and, above it, of all together. "
        "A screening, not a test."
    )
    last = 1.05 * max(effect.quantile for effect in screening.effects)
    noise = pl.DataFrame({"quantile": [0.0, last], "size": [0.0, screening.pse * last]})
    margins = pl.DataFrame({"size": [screening.margin, screening.simultaneous_margin]})

    def draw(width: int) -> Any:
        x = alt.X("quantile:Q", title="half-normal quantile", scale=alt.Scale(domain=[0, last], nice=False))
        y = alt.Y("size:Q", title=f"size of effect{f' ({view.response.unit})' if view.response.unit else ''}")
        base = alt.Chart(inline(frame)).encode(x=x, y=y)
        colour = alt.condition(alt.datum.active, alt.value(ACCENT), alt.value(GREY))
        layers = [
            alt.Chart(inline(noise)).mark_line(color=GREY, strokeWidth=1.2).encode(x=x, y=y),
            alt.Chart(inline(margins)).mark_rule(color=GREY, strokeDash=[4, 3]).encode(y=y),
            base.mark_point(filled=True, size=50, opacity=1).encode(color=colour),
            base.mark_text(align="right", dx=-8, limit=width // 2).encode(text=alt.Text("label:N")),
        ]
        return sized(alt.layer(*layers), width, 300)

    yield Figure("half_normal", f"{title}: {listed(active)}" if active else title, subtitle, frame, draw)


def _spreads(view: EffectsView, replicates: str) -> Iterator[Figure]:
    """The standard deviation within each cell against its mean, and where it would lie were noise alike everywhere."""
    spreads = cell_spreads(view.rows, view.factors, view.response.column)
    if not spreads:
        return
    names = {tuple(row[f] for f in view.factors): view.describe(row) for row in reversed(view.rows.to_dicts())}
    frame = pl.DataFrame(
        [
            {"cell": names[s.levels], "n": s.n, "mean": s.mean, "sd": s.sd, "low": s.low, "high": s.high,
             "outside": s.outside}
            for s in spreads
        ]
    ).sort("outside", "mean", descending=[True, False])  # fmt: skip
    shown = frame.head(MAX_CELLS).sort("mean")
    outside = frame.filter("outside")["cell"].to_list()
    like = [s for s in spreads if not s.outside]
    pooled = math.sqrt(sum((s.n - 1) * s.sd**2 for s in like) / sum(s.n - 1 for s in like))
    title = (
        f"The spread between {replicates} is alike in all {len(frame)} combinations: sd {view.response.amount(pooled)}"
    )
    if outside:
        title = f"{len(outside)} of {len(frame)} combinations spread unlike the others: {listed(outside[:3])}"
    subtitle = (
        f"Standard deviation between {replicates} of each combination against its mean; "
        f"n = {counted(int(frame['n'].sum()), 'run')}. Line: those alike together. Grey: where all would lie in "
        "95% of studies were noise the same everywhere (F, adjusted for their number)."
        f"{f' {len(shown)} of {len(frame)} are drawn.' if len(shown) < len(frame) else ''}"
    )

    def draw(width: int) -> Any:
        x = alt.X("mean:Q", title=f"mean {view.response.title}", scale=near_data(shown["mean"]))
        y = alt.Y("sd:Q", title=f"sd between {replicates}", scale=alt.Scale(zero=True), axis=alt.Axis(grid=True))
        base = alt.Chart(inline(shown)).encode(x=x)
        colour = alt.condition(alt.datum.outside, alt.value(WARNING), alt.value(ACCENT))
        dots = base.mark_point(filled=True, size=45, opacity=1)
        layers = [
            base.mark_area(color=LIGHT, opacity=0.5).encode(y=alt.Y("low:Q"), y2=alt.Y2("high:Q")),
            alt.Chart().mark_rule(color=GREY).encode(y=alt.YDatum(pooled)),
            dots.encode(y=y, color=colour, description=alt.Description("cell:N")),
        ]
        return sized(alt.layer(*layers), width, 220)

    yield Figure("spread", title, subtitle, frame, draw)
