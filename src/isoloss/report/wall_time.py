"""Where the wall time of a study went: training, evaluation and checkpoints, by shape of model."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import altair as alt
import polars as pl

from isoloss import wording as say
from isoloss.report.chart import ACCENT, GREY, LIGHT, Figure, colour_by, inline, sized
from isoloss.report.snapshot import Snapshot
from isoloss.report.table import Column, Table

PARTS = {"train_time_s": "training", "eval_time_s": "evaluation", "checkpoint_time_s": "checkpoints"}
PART_COLOURS = {"training": ACCENT, "evaluation": GREY, "checkpoints": LIGHT}
SHAPE = ("n_layer", "n_head", "n_embd", "block_size", "bias")
"""Settings that make a model's shape."""
MAX_SHAPES, BAR_PX = 12, 34
"""Shapes that have a bar, and its height."""


def wall_times(snapshot: Snapshot) -> pl.DataFrame:
    """Seconds that all runs of a shape spent on each part, the longest first; of all runs where shapes are many."""
    timed = snapshot.table.drop_nulls("wall_time_s")
    if timed.is_empty():
        return timed
    factors = [factor for factor in snapshot.factors if factor in SHAPE]
    if not factors or timed.select(factors).n_unique() > MAX_SHAPES:
        return timed.select(pl.lit("all runs").alias("shape"), pl.len().alias("runs"), pl.col(*PARTS).sum()).head(1)
    shapes = [" · ".join(f"{factor} {say.level(row[factor])}" for factor in factors) for row in timed.to_dicts()]
    grouped = timed.with_columns(shape=pl.Series(shapes)).group_by("shape", maintain_order=True)
    parts = grouped.agg(pl.len().alias("runs"), pl.col(*PARTS).sum())
    return parts.sort(pl.sum_horizontal(*PARTS), descending=True, maintain_order=True)


def _time_title(times: pl.DataFrame) -> str:
    """'71 % of the wall time went into training, 28 % into evaluation and 1 % into checkpoints'; parts of 0 go."""
    seconds = sorted(((float(times[part].sum()), word) for part, word in PARTS.items()), reverse=True)
    total = sum(of for of, _ in seconds) or 1.0
    (first, word), *rest = [(f"{100 * of / total:.0f} %", word) for of, word in seconds if of] or [("0 %", "training")]
    return say.listed([f"{first} of the wall time went into {word}", *(f"{share} into {word}" for share, word in rest)])


def time_sentence(times: pl.DataFrame) -> Iterator[str]:
    """What all runs took, and how it divides; nothing where no run was timed."""
    if len(times):
        total = say.duration(float(times.select(pl.sum_horizontal(*PARTS).sum()).item()))
        yield f"{say.counted(sum(times['runs']), 'run')} took {total}; {_time_title(times)}."


def time_table(times: pl.DataFrame) -> Iterator[Table]:
    """The seconds of each part, by shape."""
    if len(times):
        frame = times.with_columns(total=pl.sum_horizontal(*PARTS))
        parts = [Column(part, word, "duration") for part, word in (PARTS | {"total": "total"}).items()]
        columns = [Column("shape", "model", width=40), Column("runs", "runs", "count"), *parts]
        yield Table("wall_time", "Wall time of all runs of a shape, whatever became of them", frame, columns)


def time_figure(times: pl.DataFrame) -> Iterator[Figure]:
    """A bar a shape, cut into its parts."""
    if times.is_empty():
        return
    longest = float(times.select(pl.sum_horizontal(*PARTS)).to_series()[0])
    units = ((3600.0, "hours"), (60.0, "minutes"))
    scale, unit = next(((seconds, word) for seconds, word in units if longest >= 2 * seconds), (1.0, "seconds"))
    heads = [f"{shape}: {say.counted(runs, 'run')}" for shape, runs in times.select("shape", "runs").rows()]
    places = [BAR_PX * (i + 1) - 6 for i in range(len(times))]
    bars = times.with_columns(head=pl.Series(heads), place=pl.Series(places))
    long = bars.unpivot([*PARTS], index=["shape", "runs", "head", "place"], variable_name="part", value_name="seconds")
    order = pl.col("part").replace_strict({part: i for i, part in enumerate(PARTS)}, return_dtype=pl.Int64())
    frame = long.with_columns(pl.col("part").replace_strict(PARTS), order=order, time=pl.col("seconds") / scale)

    def draw(width: int) -> Any:
        height = BAR_PX * len(times)
        y = alt.Y("place:Q", axis=None, scale=alt.Scale(domain=[0, height], reverse=True, nice=False))
        x = alt.X("time:Q", title=f"wall time ({unit})", stack="zero", axis=alt.Axis(grid=True))
        stacks = alt.Chart(inline(frame)).mark_bar(size=10, orient="horizontal")
        stacks = stacks.encode(x=x, y=y, color=colour_by("part", PART_COLOURS), order=alt.Order("order:Q"))
        words = alt.Chart(inline(bars.select("head", "place"))).mark_text(align="left", dy=-13, limit=width - 20)
        return sized(alt.layer(stacks, words.encode(x=alt.XValue(0), y=y, text=alt.Text("head:N"))), width, height)

    n = say.counted(sum(times["runs"]), "run")
    subtitle = f"Wall time of all runs of a shape, whatever became of them; n = {n}."
    yield Figure("wall_time", _time_title(times), subtitle, frame, draw)
