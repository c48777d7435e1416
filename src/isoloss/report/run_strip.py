"""A chart with a row a run under the head of its group: a value and a line from low to high."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import altair as alt
import numpy as np
import polars as pl

from isoloss import wording as say
from isoloss.report.chart import INK, PAPER, inline, sized

MAX_LABELLED, MAX_DRAWN = 16, 200
"""Runs up to which a figure names each, and up to which it draws each; of more, some at even ranks of each group."""
MIN_DRAWN = 12
"""Runs of a group that are drawn in any case."""
LABELLED_PX, HEAD_PX, ROWS_PX = 28.0, 22.0, 360.0
"""Heights of a row under its label, of a group's head, and of all rows without labels together."""
HALOS: Sequence[dict[str, Any]] = ({"stroke": PAPER, "strokeWidth": 3}, {})
"""Text is drawn twice, first as an outline that keeps lines off it."""


@dataclass(frozen=True)
class RunName:
    """What a run is called: its label, and its configuration's label and key; of anyone's table its name."""

    label: str
    configuration: str
    key: str = ""


Names = Mapping[str, RunName]


def placed(table: pl.DataFrame, heads: Mapping[str, str]) -> tuple[pl.DataFrame, str]:
    """The rows to draw, group by group, with their `place` in pixels from the top and whether they are `named`."""
    total = len(table)
    parts: list[pl.DataFrame] = []
    top = 0.0
    for group in heads:
        part = table.filter(pl.col("group") == group)
        n = len(part)
        most = n if total <= MAX_DRAWN else min(n, max(MIN_DRAWN, round(MAX_DRAWN * n / total)))
        part = part[np.unique(np.linspace(0, n - 1, most).round().astype(np.int64))] if n else part
        named = [total <= MAX_LABELLED or i in (0, most - 1) for i in range(len(part))]
        heights = [LABELLED_PX if each else ROWS_PX / min(total, MAX_DRAWN) for each in named]
        starts = top + HEAD_PX + np.cumsum([0.0, *heights])
        places = [end - 9 if each else end - h / 2 for end, each, h in zip(starts[1:], named, heights, strict=True)]
        top = float(starts[-1]) if n else top
        parts.append(
            part.with_columns(place=pl.Series(places, dtype=pl.Float64()), named=pl.Series(named, dtype=pl.Boolean()))
        )
    drawn = pl.concat(parts)
    thinned = f", of which {say.count(len(drawn))} at even ranks are drawn" if len(drawn) < total else ""
    return drawn, thinned


def strip(
    frame: pl.DataFrame,
    heads: Mapping[str, str],
    colours: Mapping[str, str],
    axis: Mapping[str, Any],
    width: int,
    rules: Sequence[tuple[float, list[int]]] = (),
) -> alt.LayerChart:
    """A row a run under the head of its group: its value, and a line from low to high; named runs under their label."""
    small = len(frame) > MAX_LABELLED
    height = int(max(frame["place"])) + 10
    y = alt.Y("place:Q", axis=None, scale=alt.Scale(domain=[0, height], reverse=True, nice=False))
    present = [group for group in heads if group in set(frame["group"])]
    colour = alt.Color("group:N", legend=None, scale=alt.Scale(domain=present, range=[colours[g] for g in present]))
    tops = frame.group_by("group", maintain_order=True).agg(place=pl.col("place").min() - HEAD_PX)
    base = alt.Chart(inline(frame)).encode(y=y)
    of_group = alt.Chart(inline(tops.with_columns(text=pl.col("group").replace_strict(heads)))).encode(y=y)
    head_look: dict[str, Any] = {"fontWeight": "bold"}
    label_look: dict[str, Any] = {"dy": -4}
    texts = [
        chart.mark_text(align="left", baseline="bottom", limit=width - 20, **look).encode(
            x=alt.XValue(0), text=alt.Text("text:N"), color=own
        )
        for halo in HALOS
        for chart, look, own in (
            (of_group, head_look | halo, colour),
            (base.transform_filter("datum.named"), label_look | halo, alt.ColorValue(INK)),
        )
    ]
    lines = base.transform_filter("isValid(datum.low)").mark_rule(strokeWidth=1 if small else 2)
    points = base.mark_point(filled=True, size=14 if small else 45, opacity=1)
    shape = alt.when("datum.group == 'missed'").then(alt.value("triangle-right")).otherwise(alt.value("circle"))
    return sized(
        alt.layer(
            *(alt.Chart().mark_rule(color=INK, strokeDash=dash).encode(x=alt.XDatum(at)) for at, dash in rules),
            lines.encode(
                x=alt.X("low:Q", **axis), x2=alt.X2("high:Q"), color=colour, description=alt.Description("mark:N")
            ),
            points.encode(x=alt.X("value:Q", **axis), color=colour, shape=shape, description=alt.Description("mark:N")),
            *texts,
        ),
        width,
        height,
    )


def run_words(run: str, names: Names, said: str) -> dict[str, str]:
    """Words of a mark: the run, its label, and what is said of it, which begins with its configuration's key."""
    name = names[run]
    return {"run": run, "text": name.label, "mark": f"{f'{name.key} · ' if name.key else ''}{name.label}: {said}"}
