"""Steps that took far longer than the median of their run, and whether evaluations explain them."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import altair as alt
import numpy as np
import polars as pl

from isoloss import wording as say
from isoloss.report.chart import GREY, INK, WARNING, Figure, colour_by, inline, log_axis, sized
from isoloss.report.evidence import timed_programs
from isoloss.report.snapshot import Snapshot

SLOW, MIN_LOST = 2.0, 0.01
"""A slow step takes more than so many times the median; the share of a run's time they must cost for a figure."""
MAX_LOOKED_AT, MAX_STEPS = 20, 500
"""Runs whose steps are looked at, and slow steps that are drawn."""
AFTER = "right after an evaluation"
SLOW_SCHEMA: dict[str, Any] = {
    "run": pl.String(), "step": pl.Int64(), "ms": pl.Float64(), "median_ms": pl.Float64(), "lost": pl.Float64(),
    "after": pl.String()
}  # fmt: skip
HEIGHT = 220


def slow_steps(snapshot: Snapshot) -> pl.DataFrame:
    """Steps of some runs that took more than SLOW times the median; `lost` is their share of the run's time."""
    done = snapshot.done["run_id"].to_list()
    rows: list[dict[str, Any]] = []
    for run, (seconds, evaluated) in timed_programs(snapshot, done[:: max(1, -(-len(done) // MAX_LOOKED_AT))]).items():
        later = np.where(np.arange(len(seconds)) > 0, seconds, np.nan)  # step 0 pays for the start
        median, total = float(np.nanmedian(later)), float(np.nansum(later))
        rows += [
            {"run": run, "step": int(step), "ms": 1000 * float(later[step]), "median_ms": 1000 * median,
             "lost": (float(later[step]) - median) / total, "after": AFTER if step in evaluated else "other steps"}
            for step in np.flatnonzero(later > SLOW * median)
        ]  # fmt: skip
    return pl.DataFrame(rows, schema=SLOW_SCHEMA)


def slow_figure(snapshot: Snapshot, slow: pl.DataFrame) -> Iterator[Figure]:
    """The slow steps of the run that lost most time to them, where that is worth a look."""
    lost = slow.group_by("run").agg(pl.col("lost").sum()).sort("lost", "run", descending=[True, False])
    if lost.is_empty() or lost["lost"][0] < MIN_LOST:
        return
    run, share = lost.row(0)
    label = snapshot.labels[run]
    key, mine = snapshot.keys[run], slow.filter(pl.col("run") == run)
    title = f"{say.counted(len(mine), 'slow step')} cost {say.percent(share)} of the time of {say.shortened(label)}"
    title += f"; {(mine['after'] == AFTER).sum():,} came right after an evaluation"
    marks = [f"{key} · {label}: step {step:,} took {ms:.3g} ms" for step, ms in mine.select("step", "ms").rows()]
    frame = mine.with_columns(mark=pl.Series(marks)).sort("ms", "step", descending=[True, False]).head(MAX_STEPS)
    median = float(mine["median_ms"][0])

    def draw(width: int) -> Any:
        y = log_axis(pl.concat([frame["ms"], frame["median_ms"]]), "~g", 5)
        points = alt.Chart(inline(frame)).mark_point(filled=True, size=30, opacity=1).encode(
            x=alt.X("step:Q", title="optimizer step", scale=alt.Scale(zero=True)),
            y=alt.Y("ms:Q", title="step time (ms, log scale)", **y),
            color=colour_by("after", {AFTER: WARNING, "other steps": GREY}),
            description=alt.Description("mark:N"),
        )  # fmt: skip
        rule = alt.Chart().mark_rule(color=INK, strokeDash=[4, 3]).encode(y=alt.YDatum(median))
        return sized(alt.layer(rule, points), width, HEIGHT)

    subtitle = (
        f"Steps that took more than {SLOW:g} times the median (dashed, {median:.3g} ms) in the run that lost most to "
        f"them, of up to {MAX_LOOKED_AT} that were looked at; n = {say.counted(len(frame), 'step')}."
    )
    yield Figure("slow_steps", title, subtitle, frame, draw)
