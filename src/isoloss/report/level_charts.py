"""A response over the levels of what was varied: panels of means and single runs, and a heat map of two factors."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import altair as alt
import polars as pl

from isoloss.report.chart import (
    ACCENT,
    GREY,
    INK,
    LIGHT,
    PAPER,
    WIDE,
    Figure,
    colour_by,
    inline,
    near_data,
    sized,
    spaced,
)
from isoloss.report.colours import SEQUENCE
from isoloss.report.effects_words import HIGH, LOW, MEAN, EffectsView, N, error_in_words
from isoloss.report.response import short, to_digits
from isoloss.wording import counted, level, listed

MAX_RUNS, MAX_LINES, MAX_TICKS, MAX_HEAT_LEVELS, MIN_SWEEP = 400, 8, 12, 20, 4
"""Single runs, lines and ticks of a panel; levels in a heat map; levels from which a best one is marked."""
HEIGHT, LOSS_AXIS, LINE_LABELS, GAP, TEXT_HEIGHT = 190, 48, 74, 16, 12
"""Pixels: of a panel, of the axis at its left, of the labels at its right, between panels, of a line of text."""


def level_panels(view: EffectsView, name: str, title: str, pairs: Sequence[tuple[str, str | None]]) -> Figure:
    """A panel a pair: the response over the levels of the first, a line for each level of the second; one loss axis."""
    pairs = [(over, by if by and len(view.levels(by)) <= MAX_LINES else None) for over, by in pairs]
    frames = [_panel_rows(view, over, by) for over, by in pairs]
    frame = pl.concat(frames)
    singles = " and single runs (faint)" if "run" in frame["kind"] else ""
    subtitle = (
        f"Means{singles}; n = {counted(len(view.rows), 'run')} in a panel; {error_in_words(view)}, of each mean, "
        f"shorter than its dot where none is seen.{' Ringed: the best of each line.' if frame['best'].any() else ''}"
    )
    scale = near_data(frame["value"], frame["low"], frame["high"])

    def draw(width: int) -> Any:
        columns = min(len(pairs), 2 if width >= WIDE else 1)
        inner = (width - 10 - LOSS_AXIS - (columns - 1) * GAP) // columns
        panels = [
            _panel(view, rows, pair, scale, inner, first=i % columns == 0)
            for i, (rows, pair) in enumerate(zip(frames, pairs, strict=True))
        ]
        own_colours = alt.Resolve(scale=alt.ScaleResolveMap(color="independent"))
        return alt.concat(*panels, columns=columns, spacing=GAP, resolve=own_colours)

    return Figure(name, title, subtitle, frame, draw)


def _panel_rows(view: EffectsView, over: str, by: str | None) -> pl.DataFrame:
    """Means with their intervals, and single runs where they are few enough, in the order of the levels."""
    levels, numeric = view.levels(over), view.numeric(over)
    cells = view.cells([over] if by is None else [over, by])
    runs = view.rows.to_dicts() if len(view.rows) <= MAX_RUNS else []
    lines = [cells] if by is None else cells.partition_by(by)
    sweep = numeric and len(levels) >= MIN_SWEEP and view.matters(over)
    best = [found[MEAN] for line in lines if sweep and (found := view.best(line)) is not None]

    def row(source: dict[str, Any], value: float, **more: Any) -> dict[str, Any]:
        place = {"panel": over, "level": level(source[over]), "number": float(source[over]) if numeric else None}
        line = {"by": by, "line": "" if by is None else level(source[by])}
        return place | line | {"value": value, "low": source.get(LOW), "high": source.get(HIGH), **more}

    ordered = sorted(cells.to_dicts(), key=lambda cell: levels.index(cell[over]))
    means = [row(c, c[MEAN], kind="mean", n=c[N], best=c[MEAN] in best, description="") for c in ordered]
    single = [
        row({over: run[over], **({by: run[by]} if by else {})}, run[view.response.column],
            kind="run", n=1, best=False, description=view.describe(run))
        for run in runs
    ]  # fmt: skip
    types = {"by": pl.String(), **dict.fromkeys(("number", "low", "high"), pl.Float64())}
    return pl.DataFrame([*means, *single], schema_overrides=types, infer_schema_length=None)


def _panel(
    view: EffectsView, rows: pl.DataFrame, pair: tuple[str, str | None], scale: alt.Scale, inner: int, *, first: bool
) -> Any:
    means, runs, (over, by) = rows.filter(kind="mean"), rows.filter(kind="run"), pair
    right = inner - (10 if by is None else LINE_LABELS)
    colours = {"": ACCENT} if by is None else view.colours[by]
    colour, x, title = colour_by("line", colours, legend=False), _levels_axis(view, over, right), None
    axis = alt.Axis(labels=False, grid=True)
    if first:
        largest = max(abs(value) for value in rows["value"])
        form = "~s" if largest >= 1e4 else "~e" if largest < 1e-2 else alt.Undefined
        axis, title = alt.Axis(grid=True, minExtent=34, maxExtent=34, format=form), view.response.title
    y = {name: alt.Y(f"{name}:Q", title=title, scale=scale, axis=axis) for name in ("value", "low", "label_y")}
    base = alt.Chart(inline(means)).encode(x=x, color=colour)
    points = alt.Chart(inline(runs)).mark_point(filled=True, size=14, opacity=0.35)
    best = base.transform_filter(alt.datum.best).mark_point(size=120, strokeWidth=1.3, opacity=1)
    layers = [
        points.encode(x=x, y=y["value"], color=colour, description=alt.Description("description:N")),
        base.mark_line().encode(y=y["value"]),
        base.mark_rule(strokeWidth=2).encode(y=y["low"], y2=alt.Y2("high:Q")),
        base.mark_point(filled=True, size=45, opacity=1).encode(y=y["value"]),
        best.encode(y=y["value"], color=alt.ColorValue(INK)),
    ]
    if by is not None:
        low, high = scale.to_dict()["domain"]
        gap, ends = TEXT_HEIGHT * (high - low) / HEIGHT, means.group_by("line", maintain_order=True).last()
        ends = ends.with_columns(label_y=pl.Series(spaced(ends["value"].to_list(), gap), dtype=pl.Float64()))
        top = ends.sort("label_y").tail(1).with_columns(label_y=pl.col("label_y") + gap)
        for table, text, colour in ((ends, "line:N", INK), (top, "by:N", GREY)):
            labels = alt.Chart(inline(table)).mark_text(align="left", limit=inner - right - 10, color=colour)
            layers.append(labels.encode(x=alt.XValue(right + 8), y=y["label_y"], text=alt.Text(text)))
    return alt.layer(*layers, width=inner, height=HEIGHT)


def _levels_axis(view: EffectsView, over: str, right: int) -> alt.X:
    """Numbers at their place, on a log scale where they span more than a decade; all else in order, evenly spaced."""
    levels = view.levels(over)
    positive = [each for each in levels if each > 0] if view.numeric(over) else []
    decades = bool(positive) and positive[-1] > 10 * positive[0]
    if positive and (positive == levels or not decades):
        kind, ends = "log" if decades else "linear", [levels[0], levels[-1]]
        scale = alt.Scale(type=kind, domain=ends, range=[10, right], nice=False)
        ticks = levels if len(levels) <= MAX_TICKS else alt.Undefined
        axis = alt.Axis(values=ticks, tickCount=min(len(levels), MAX_TICKS), format=".6~g", titleLimit=right)
        return alt.X("number:Q", title=over, scale=scale, axis=axis)
    words = [level(each) for each in levels]
    axis = alt.Axis(labelAngle=0, labelLimit=max(30, (right - 10) // len(words)), titleLimit=right)
    return alt.X("level:N", title=over, axis=axis, scale=alt.Scale(type="point", domain=words, range=[10, right]))


def heat_map(view: EffectsView) -> Iterator[Figure]:
    """Cell means of the two strongest factors that have few enough levels; a cell without a run is said to be empty."""
    factors = [factor for factor in view.factors if len(view.levels(factor)) <= MAX_HEAT_LEVELS][:2]
    if len(factors) < 2:
        return
    across, down = sorted(factors, key=lambda factor: -len(view.levels(factor)))
    cells = view.cells([across, down])
    means = {(cell[across], cell[down]): cell for cell in cells.to_dicts()}
    low, high = min(cell[MEAN] for cell in means.values()), max(cell[MEAN] for cell in means.values())
    others, lower = [factor for factor in view.factors if factor not in factors], view.response.better == "lower"
    names = {(row[across], row[down]): "" if others else view.describe(row) for row in view.rows.to_dicts()}
    best, spec = view.best(cells), to_digits((low, high), 4)

    def row(at: tuple[Any, Any]) -> dict[str, Any]:
        mean = means[at][MEAN] if at in means else None
        share = 0.0 if mean is None else (mean - low) / ((high - low) or 1.0)
        return {
            "across": level(at[0]),
            "down": level(at[1]),
            "n": means[at][N] if at in means else 0,
            "mean": mean,
            "text": "no run" if mean is None else short(mean, spec),
            "dark": mean is not None and (1 - share if lower else share) < 0.6,
            "best": best is not None and at == (best[across], best[down]),
            "description": names.get(at, ""),
        }

    grid = [(a, d) for d in view.levels(down) for a in view.levels(across)]
    frame = pl.DataFrame([row(at) for at in grid], schema_overrides={"mean": pl.Float64()}, infer_schema_length=None)
    title = f"The means of {len(means)} cells lie between {short(low, spec)} and {short(high, spec)}"
    if best is not None:
        where = f"{across} {level(best[across])} with {down} {level(best[down])}"
        title = f"The best of {len(means)} means is {view.response.amount(best[MEAN], spec)}: {where}"
    empty = f"; {counted(len(grid) - len(means), 'cell')} without a run" if len(grid) > len(means) else ""
    subtitle = (
        f"Mean {view.response.title} where levels of {across} and {down} meet; n = {counted(len(view.rows), 'run')}"
        f"{f', averaged over {listed(others)}' if others else ''}{empty}; no intervals."
        f"{' Brighter is better, the best is framed.' if best is not None else ''}"
    )

    def draw(width: int) -> Any:
        room = round(0.6 * width / len(view.levels(across)))
        x_axis = alt.Axis(labelAngle=0, labelLimit=max(20, room), titleLimit=width // 2)
        x = alt.X("across:N", title=across, sort=None, axis=x_axis)
        y = alt.Y("down:N", title=down, sort=None, axis=alt.Axis(labelLimit=width // 4, titleLimit=100))
        base = alt.Chart(inline(frame)).encode(x=x, y=y)
        legend = alt.Legend(title=view.response.title, titleOrient="top", gradientLength=min(200, width - 120))
        ramp = alt.Scale(range=list(SEQUENCE[::-1] if lower else SEQUENCE), domain=[low, high])
        colour, described = alt.Color("mean:Q", scale=ramp, legend=legend), alt.Description("description:N")
        full, empty = base.transform_filter(alt.datum.n > 0), base.transform_filter(alt.datum.n == 0)
        layers = [
            full.mark_rect(stroke=PAPER).encode(color=colour, description=described),
            empty.mark_rect(fill=PAPER, stroke=LIGHT, strokeDash=[2, 2]),
            base.transform_filter(alt.datum.best).mark_rect(fill=None, stroke=INK, strokeWidth=3),
        ]
        if 0.75 * width / len(view.levels(across)) > 36:
            # Not PAPER and INK, which are others on a dark page: the cells keep their colours there.
            written = alt.condition(alt.datum.dark, alt.value("white"), alt.value("black"))
            layers.append(base.mark_text().encode(text=alt.Text("text:N"), color=written))
        return sized(alt.layer(*layers), width, 90 + 26 * len(view.levels(down)))

    yield Figure("cells", title, subtitle, frame, draw)
