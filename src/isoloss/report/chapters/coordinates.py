"""The coordinate check as a chapter: a curve of size over width for each activation, and what it says."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import asdict
from typing import Any

import altair as alt
import polars as pl

from isoloss.analysis.coordinates import TOLERANCE, CoordinateCheck
from isoloss.report.chapter import Chapter
from isoloss.report.chart import Figure, colour_by, inline, log_axis
from isoloss.report.colours import factor_colours
from isoloss.report.references import cited
from isoloss.report.table import Column, Table
from isoloss.wording import counted, listed


def coordinates_chapter(check: CoordinateCheck) -> Chapter:
    """What a coordinate check says."""
    return Chapter(
        "coordcheck",
        "Coordinate check",
        list(_answer(check)),
        figures=[_figure(check)],
        tables=[_table(check)],
        details=[
            f"After {counted(check.steps, 'step')} at a constant learning rate each activation is compared with the "
            f"untrained model's on the same blocks of validation {cited('yang2022')}: the root mean square of the "
            "difference. A slope is in doublings of it per doubling of n_embd, by least squares over widths and seeds "
            f"with a t interval at 95%; it stays where that lies within ±{TOLERANCE:g}."
        ],
    )


def coordinates_as_json(check: CoordinateCheck) -> str:
    """One object, at full precision."""
    found = {"steps": check.steps, "growth": [asdict(each) for each in check.growth], "sizes": check.sizes.to_dicts()}
    return json.dumps(found, indent=2, allow_nan=False)


VERDICTS = {
    "grows": "grows in",
    "shrinks": "shrinks in",
    "stays": "stays as large in",
    "not resolved": "is not resolved in",
}
"""What becomes of a change, in words."""


def _answer(check: CoordinateCheck) -> Iterator[str]:
    for parametrization in dict.fromkeys(each.parametrization for each in check.growth):
        of = [each for each in check.growth if each.parametrization == parametrization]
        if all(each.verdict == "stays" for each in of):
            yield f"With parametrization {parametrization} nothing that training changes grows with the width."
            continue
        named = {verdict: [each.activation for each in of if each.verdict == verdict] for verdict in VERDICTS}
        said = listed(f"{VERDICTS[verdict]} {listed(names)}" for verdict, names in named.items() if names)
        yield f"With parametrization {parametrization}, as the model gets wider, what training changes {said}."


def _table(check: CoordinateCheck) -> Table:
    rows = [
        {
            "parametrization": each.parametrization,
            "activation": each.activation,
            "slope": each.slope.value,
            "low": each.slope.low,
            "high": each.slope.high,
            "n": each.slope.n,
            "verdict": each.verdict,
        }
        for each in check.growth
    ]
    columns = (
        Column("parametrization", "parametrization"),
        Column("activation", "activation", width=24),
        Column("slope", "doublings per doubling of width [95%]", "number", interval=("low", "high")),
        Column("n", "runs", "count"),
        Column("verdict", "verdict"),
    )
    return Table("coordinates", "How the change of activations goes with the width", pl.DataFrame(rows), columns)


def _figure(check: CoordinateCheck) -> Figure:
    of = "parametrization", "activation", "n_embd"
    frame = check.sizes.with_columns(mean=pl.col("change").log().mean().over(of).exp())
    colours = factor_colours({"activation": frame["activation"].unique(maintain_order=True).to_list()})["activation"]
    panels = frame["parametrization"].unique(maintain_order=True).to_list()

    def draw(width: int) -> alt.TopLevelMixin:
        widths = alt.Axis(values=sorted(frame["n_embd"].unique()), format="d")
        x = alt.X("n_embd:Q", title="n_embd", axis=widths, scale=log_axis(frame["n_embd"])["scale"])
        axis: dict[str, Any] = {"title": "change (root mean square)", **log_axis(frame["change"], "~g")}

        def panel(parametrization: str) -> Any:
            data = inline(frame.filter(pl.col("parametrization") == parametrization))
            base = alt.Chart(data).encode(x=x, color=colour_by("activation", colours))
            line = base.mark_line().encode(y=alt.Y("mean:Q", **axis))
            points = base.mark_point().encode(y=alt.Y("change:Q", **axis))
            size = {"width": max(120, width // len(panels) - 130), "height": 240}
            return (line + points).properties(title=parametrization, **size)

        return alt.hconcat(*map(panel, panels))

    growing = [name for name in panels if any(g.verdict == "grows" for g in check.growth if g.parametrization == name)]
    title = f"What training changes grows with the width under {listed(growing)}"
    if not growing:
        title = "Nothing that training changes is shown to grow with the width"
    subtitle = f"After {counted(check.steps, 'step')}; points are runs, lines geometric means over seeds"
    return Figure("coordinates", title, subtitle, frame, draw)
