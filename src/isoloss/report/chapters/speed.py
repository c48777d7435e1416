"""What training cost: a token's FLOPs, use of the machine, where the wall time went, and the loss for the compute."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import altair as alt
import polars as pl

from isoloss import wording as say
from isoloss.analysis.levels import level_means
from isoloss.report.chapter import Chapter
from isoloss.report.chart import (
    ACCENT,
    GREY,
    MAX_MARKS,
    Figure,
    colour_by,
    inline,
    log_axis,
    near_data,
    sized,
    some,
    some_in_words,
)
from isoloss.report.references import cited
from isoloss.report.slow_steps import MIN_LOST, SLOW, slow_figure, slow_steps
from isoloss.report.snapshot import Snapshot
from isoloss.report.table import Column, Table
from isoloss.report.wall_time import SHAPE, time_figure, time_sentence, time_table, wall_times
from isoloss.study.compute import flops_per_token

MAX_LEVELS = 8
"""Up to so many levels have a colour."""
PERCENT_AXIS: dict[str, Any] = {"scale": alt.Scale(zero=True), "axis": alt.Axis(format="~%")}
HEIGHT = 220


def speed_chapter(snapshot: Snapshot) -> Chapter:
    """Speed and cost of the runs that are done; the wall time is that of all runs."""
    speeds, times = _speeds(snapshot), wall_times(snapshot)
    if speeds.is_empty() and times.is_empty():
        return Chapter("speed", "Speed and cost", ["No run is done and timed yet, so its speed is not known."])
    losses, slow = list(_loss_figure(snapshot)), slow_steps(snapshot)
    return Chapter(
        "speed",
        "Speed and cost",
        answer=[*_cost(speeds), *time_sentence(times), *(f"{figure.title}." for figure in losses)],
        figures=[*_speed_figures(speeds, snapshot), *time_figure(times), *losses, *slow_figure(snapshot, slow)],
        tables=[*_speed_table(speeds, snapshot), *time_table(times)],
        details=list(_details(snapshot, slow)),
    )


def _speeds(snapshot: Snapshot) -> pl.DataFrame:
    """A row for each configuration with timed runs that are done: means over them, the lowest and the highest."""
    flops = pl.Series([flops_per_token(snapshot.configs[run]) for run in snapshot.done["run_id"]], dtype=pl.Int64())
    known = pl.when(pl.col("mfu") > 0).then(pl.col("mfu"))  # without a peak there is no utilisation
    timed = snapshot.done.with_columns(known, flops=flops).drop_nulls("tokens_per_s")
    measured = ("tokens_per_s", "mfu")
    return timed.group_by("key", maintain_order=True).agg(
        pl.col("configuration").first().alias("label"),
        *(pl.col(name).first() for name in dict.fromkeys((*snapshot.factors, snapshot.size_column, "flops"))),
        pl.len().alias("n"),
        *(pl.col(name).mean() for name in (*measured, "mfu_a100", "median_step_time_s", "wall_time_s")),
        *(pl.col(name).min().alias(f"{name}_low") for name in measured),
        *(pl.col(name).max().alias(f"{name}_high") for name in measured),
    )


def _cost(speeds: pl.DataFrame) -> Iterator[str]:
    if len(speeds):
        use = speeds["mfu"].drop_nulls()
        peak = f", {_ends(use, say.percent)} of the most that the machine can do (MFU)" if len(use) else ""
        yield (
            f"Training cost {_ends(speeds['flops'], say.si)}FLOP a token and ran at "
            f"{_ends(speeds['tokens_per_s'], say.si)} tokens/s{peak}."
        )


def _ends(values: pl.Series, spell: Callable[[Any], str]) -> str:
    """The lowest and the highest value as words, once where they read the same."""
    return " to ".join(dict.fromkeys((spell(values.min()), spell(values.max()))))


def _size(snapshot: Snapshot) -> str:
    return "parameters" if snapshot.size_column == "params_total" else "non-embedding parameters"


def _speed_table(speeds: pl.DataFrame, snapshot: Snapshot) -> Iterator[Table]:
    columns = (
        Column("label", "configuration", width=40),
        Column("n", "runs", "count"),
        Column(snapshot.size_column, _size(snapshot), "si"),
        Column("flops", "FLOPs a token", "si"),
        Column("tokens_per_s", "tokens/s [lowest, highest]", "si", interval=("tokens_per_s_low", "tokens_per_s_high")),
        Column("median_step_time_s", "step time", "milliseconds"),
        Column("mfu", "MFU", "percent"),
        Column("mfu_a100", "MFU of an A100", "percent"),
        Column("wall_time_s", "wall time a run", "duration"),
    )
    if len(speeds):
        yield Table("speed", "Speed of each configuration: means over its runs that are done", speeds, columns)


def _speed_figures(speeds: pl.DataFrame, snapshot: Snapshot) -> Iterator[Figure]:
    """Tokens/s and MFU of each configuration against its size."""
    if len(speeds):
        yield _against_size(speeds, snapshot, "tokens_per_s", "tokens/s", say.si)
    known = speeds.drop_nulls("mfu")
    if len(known):
        yield _against_size(known, snapshot, "mfu", "MFU", say.percent)


def _against_size(
    speeds: pl.DataFrame, snapshot: Snapshot, value: str, unit: str, spell: Callable[[Any], str]
) -> Figure:
    size, factor = snapshot.size_column, _factor(speeds, snapshot, value)
    means = speeds.group_by(size).agg(pl.col(value).mean()).sort(size)
    (small, first), (large, last) = means.row(0), means.row(-1)
    title = f"Runs trained at {_ends(speeds[value], spell)} {unit}"
    if spell(first) != spell(last):
        went = (
            f"{'fell' if last < first else 'rose'} from {spell(first)} at {say.si(small)} parameters to {spell(last)}"
        )
        title = f"{unit[0].upper()}{unit[1:]} {went} at {say.si(large)}"
    frame = some(speeds)
    marks = [f"{key} · {label}: {spell(of)} {unit}" for key, label, of in frame.select("key", "label", value).rows()]
    frame = frame.with_columns(mark=pl.Series(marks, dtype=pl.String()))
    colour: Any = alt.ColorValue(ACCENT)
    if factor:
        frame = frame.with_columns(level=pl.Series([say.level(level) for level in frame[factor]]))
        colour = colour_by(
            "level",
            {word: colour for word, colour in snapshot.colours[factor].items() if word in set(frame["level"])},
            title=factor,
        )
    log = value != "mfu"  # whose zero means something
    y_title = f"{unit} (log scale)" if log else unit
    y_axis = log_axis(pl.concat([speeds[f"{value}_low"], speeds[f"{value}_high"]]), "~s", 5) if log else PERCENT_AXIS

    def draw(width: int) -> Any:
        x = alt.X(f"{size}:Q", title=f"{_size(snapshot)} (log scale)", **log_axis(speeds[size], "~s", 5))
        base = alt.Chart(inline(frame)).encode(x=x, color=colour, description=alt.Description("mark:N"))
        low = alt.Y(f"{value}_low:Q", title=y_title, **y_axis)
        lines = base.mark_rule(strokeWidth=1.5).encode(y=low, y2=f"{value}_high:Q")
        points = base.mark_point(filled=True, size=40, opacity=1)
        points = points.encode(y=alt.Y(f"{value}:Q", title=y_title, **y_axis))
        return sized(alt.layer(lines, points), width, HEIGHT)

    n = f"n = {say.counted(int(speeds['n'].sum()), 'run')} of {say.counted(len(speeds), 'configuration')}"
    drawn = f"Mean of each configuration over its runs, with a line from the lowest to the highest; {n}."
    subtitle = f"{drawn}{some_in_words(speeds)}"
    return Figure("throughput" if log else "mfu", title, subtitle, frame, draw)


def _factor(speeds: pl.DataFrame, snapshot: Snapshot, value: str) -> str | None:
    """The factor apart from those of the shape whose levels' means differ most, if they do by a twentieth."""
    ratios: dict[str, float] = {}
    for factor in snapshot.factors:
        means = [level.mean for level in level_means(speeds, factor, value) if level.mean]
        if factor not in SHAPE and 1 < len(means) <= MAX_LEVELS:
            ratios[factor] = max(means) / min(means)
    best = max(ratios, key=lambda factor: ratios[factor], default=None)
    return best if best and ratios[best] > 1.05 else None


def _loss_figure(snapshot: Snapshot) -> Iterator[Figure]:
    """Loss against training compute, with the lowest mean that each compute bought; nothing where all cost the same."""
    means = snapshot.configurations.drop_nulls("mean").sort("train_flops", "mean", "key").rename({"mean": "loss"})
    if means["train_flops"].n_unique() < 2:
        return
    lowest = means.filter(pl.col("loss") < pl.col("loss").cum_min().shift().fill_null(float("inf")))
    by, unit = f"best_{snapshot.compared_loss}", snapshot.loss_unit
    points, each = snapshot.done.drop_nulls(by).rename({by: "loss"}), "run"
    if len(points) > MAX_MARKS:
        points, each = means, "configuration"
    (least, first), (most, last) = (lowest.select("train_flops", "loss").row(i) for i in (0, -1))
    nats = unit.partition(" ")[0]
    end = f"{say.loss(last)} {nats} at {say.si(most)}FLOP"
    title = f"No more training compute lowered the mean loss below {end}"
    if len(lowest) > 1:
        title = f"The lowest mean loss fell from {say.loss(first)} {nats} at {say.si(least)}FLOP of training to {end}"
    columns = ("key", "label", "train_flops", "loss")
    line = lowest.select(*columns, kind=pl.lit("lowest mean"))
    frame = pl.concat([some(points).select(*columns, kind=pl.lit(each)), line])
    marks = [
        f"{key} · {label}: {say.loss(of)} {nats}, {say.si(flops)}FLOP" for key, label, flops, of, _ in frame.rows()
    ]
    frame = frame.with_columns(mark=pl.Series(marks))

    def draw(width: int) -> Any:
        x = alt.X("train_flops:Q", title="training FLOPs a run (log scale)", **log_axis(frame["train_flops"], "~s", 5))
        y = alt.Y(
            "loss:Q", title=f"best validation loss ({unit.replace(' per ', '/')})", scale=near_data(frame["loss"])
        )
        base = alt.Chart(inline(frame)).encode(x=x, y=y, description=alt.Description("mark:N"))
        best = base.transform_filter("datum.kind == 'lowest mean'")
        words = alt.Chart(inline(line[-1:])).encode(x=x, y=y, text=alt.Text("kind:N"))
        others = base.transform_filter("datum.kind != 'lowest mean'")
        layers = (
            others.mark_point(filled=True, size=22, opacity=0.7, color=GREY),
            best.mark_line(interpolate="step-after", color=ACCENT),
            best.mark_point(filled=True, size=35, opacity=1, color=ACCENT),
            words.mark_text(align="right", dx=5, dy=14, color=ACCENT),
        )
        return sized(alt.layer(*layers), width, HEIGHT + 40)

    subtitle = (
        f"Grey: each {each} that is done, n = {say.counted(len(points), each)}. Blue: configurations whose mean over "
        "seeds is lower than that of every one that cost less. FLOPs are those of training, without evaluation."
        f"{some_in_words(points)}"
    )
    yield Figure("loss_by_compute", title, subtitle, frame, draw)


def _details(snapshot: Snapshot, slow: pl.DataFrame) -> Iterator[str]:
    yield (
        f"FLOPs a token are 6N + 12·L·C·T, forward and backward {cited('chowdhery2022')}, N without "
        "position embeddings; evaluation is not part of them. Tokens/s, step time and MFU of a run are medians over "
        "its steps on a machine that other runs may have shared: they are no benchmark. Runs may have been trained "
        "side by side, so their wall times may add up to more than the clock's."
    )
    peaks = [s.provenance["peak"] for s in snapshot.statuses.values() if "peak" in s.provenance]
    if peaks:
        flops = _ends(pl.Series([peak["flops"] for peak in peaks]), say.si)
        sources = say.listed(sorted({peak["source"] for peak in peaks}))
        yield f"MFU is the share of {flops}FLOP/s ({sources}); that of an A100 is of 312 TFLOP/s, as nanoGPT prints it."
    if len(slow):
        yield (
            f"{say.counted(len(slow), 'step')} of {say.counted(slow['run'].n_unique(), 'run')} took more than {SLOW:g} "
            f"times the median; a figure of them is drawn where they cost a run {MIN_LOST:.0%} of its time or more."
        )
