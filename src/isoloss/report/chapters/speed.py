"""What training cost: tokens a second, use of the hardware, where the time went, and the loss that compute bought."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import altair as alt
import polars as pl

from isoloss.report.chapter import Chapter
from isoloss.report.chart import (
    ACCENT,
    CATEGORIES,
    GREY,
    Figure,
    colour_by,
    inline,
    log_axis,
    near_data,
    rows_axis,
    sized,
)
from isoloss.report.references import cited
from isoloss.report.snapshot import Snapshot
from isoloss.report.table import Column, Table
from isoloss.wording import counted, duration, listed, loss, percent, si

PARTS = {"train_time_s": "training", "eval_time_s": "evaluation", "checkpoint_time_s": "checkpoints"}
"""Columns of a run's wall time, and what it went into."""
MAX_MARKS = 500
"""Marks of single runs in a figure; beyond it, a mark is a configuration's mean."""
MAX_BARS = 30


def speed_chapter(snapshot: Snapshot) -> Chapter:
    """Speed and cost of a study's runs, by configuration."""
    timed = snapshot.table.drop_nulls("wall_time_s")
    if timed.is_empty():
        return Chapter("speed", "Speed and cost", ["No run has recorded how long it took yet."])
    return Chapter(
        "speed",
        "Speed and cost",
        [*_answer(snapshot, timed)],
        figures=[*_loss_by_compute(snapshot), *_throughput(snapshot), *_wall_time(snapshot, timed)],
        tables=[_table(snapshot)],
        details=[
            "Step time, tokens a second and MFU are medians over a run's steps, and means over the runs of a "
            "configuration. A step's time is that of the step alone; evaluations and checkpoints are apart.",
            "MFU is the model's arithmetic, 6N + 12·L·C·T FLOPs a token with N without position embeddings "
            f"{cited('chowdhery2022')}, over what the device can do: its nominal peak where that is known, else the "
            "best of measured matrix products. "
            "The column mfu_a100 of the summary divides by 312 TFLOP/s, as nanoGPT does.",
            "Runs may have been trained side by side, and share the machine with others: no benchmark.",
        ],
    )


def _answer(snapshot: Snapshot, timed: pl.DataFrame) -> Iterator[str]:
    spent = {name: float(timed[column].sum() or 0) for column, name in PARTS.items()}
    total = sum(spent.values())
    if total:
        shares = listed(f"{percent(seconds / total)} {name}" for name, seconds in spent.items())
        yield f"{counted(len(timed), 'run')} took {duration(total)} of running time in all: {shares}."
    speeds = snapshot.configurations.drop_nulls("tokens_per_s")
    if len(speeds):
        shares = _range(speeds["mfu"], percent)
        used = f", {shares} of what the device can do (MFU)" if shares else ""
        yield f"Configurations train at {_range(speeds['tokens_per_s'], si)} tokens a second{used}."


def _loss_by_compute(snapshot: Snapshot) -> Iterator[Figure]:
    """Each run's loss against its training FLOPs, and the lowest loss that so much compute or less reached."""
    done = snapshot.done.drop_nulls("best_val_loss").select("key", "label", "train_flops", loss="best_val_loss")
    if len(done) > MAX_MARKS:
        done = snapshot.ranking.select("key", "label", "train_flops", loss="mean")
    if len(done) < 2 or done["train_flops"].n_unique() < 2:
        return
    done = done.with_columns(pl.col("train_flops").cast(pl.Float64()), name=pl.format("{} · {}", "key", "label"))
    lowest = done.sort("train_flops", "loss").with_columns(lowest=pl.col("loss").cum_min())
    lowest = lowest.group_by("train_flops", maintain_order=True).agg(pl.col("lowest").last())
    best = done.sort("loss").row(0, named=True)
    least = done.sort("train_flops", "loss").row(0, named=True)
    ratio = best["train_flops"] / least["train_flops"]
    title = (
        f"The lowest loss, {loss(best['loss'])}, took {ratio:,.3g} times the compute of the cheapest run"
        if ratio > 1
        else f"The cheapest runs reached the lowest loss, {loss(best['loss'])}: more compute bought nothing"
    )

    def draw(width: int) -> alt.TopLevelMixin:
        x = alt.X("train_flops:Q", title="training FLOPs (log scale)", **log_axis(done["train_flops"], "~e", 5))
        scale = near_data(done["loss"])
        marks = alt.Chart(inline(done)).mark_point(filled=True, color=GREY, opacity=0.7)
        marks = marks.encode(x=x, y=_loss("loss", scale), description="name:N")
        line = alt.Chart(inline(lowest)).mark_line(interpolate="step-after", color=ACCENT)
        return sized(alt.layer(line.encode(x=x, y=_loss("lowest", scale)), marks), width, 240)

    what = "Dots: runs" if len(done) == len(snapshot.done) else "Dots: means of configurations"
    subtitle = f"{what}, n = {len(done):,}. Line: the lowest loss that so much compute or less reached. No interval."
    yield Figure("loss_by_compute", title, subtitle, done, draw)


def _throughput(snapshot: Snapshot) -> Iterator[Figure]:
    """Tokens a second against parameters."""
    size = snapshot.size_column
    rows = snapshot.configurations.drop_nulls("tokens_per_s").select("key", "label", "mfu", "tokens_per_s", size=size)
    if len(rows) < 2:
        return
    rows = rows.with_columns(pl.col("size").cast(pl.Float64()), name=pl.format("{} · {}", "key", "label"))
    fast = rows.sort("tokens_per_s").row(-1, named=True)
    slow = rows.sort("tokens_per_s").row(0, named=True)
    title = f"{fast['label']} trains {fast['tokens_per_s'] / slow['tokens_per_s']:.3g} times as fast as {slow['label']}"
    counted_as = "without embeddings" if size == "params_non_embedding" else "embeddings included"

    def draw(width: int) -> alt.TopLevelMixin:
        points = alt.Chart(inline(rows)).mark_point(filled=True, color=ACCENT, opacity=0.7)
        x = alt.X("size:Q", title=f"parameters, {counted_as} (log scale)", **log_axis(rows["size"], ticks=5))
        y = alt.Y("tokens_per_s:Q", title="tokens/s (log scale)", **log_axis(rows["tokens_per_s"]))
        return sized(points.encode(x=x, y=y, description="name:N"), width, 220)

    subtitle = f"Median over steps, mean over the runs of a configuration; n = {counted(len(rows), 'configuration')}."
    yield Figure("throughput", title, subtitle, rows, draw)


def _wall_time(snapshot: Snapshot, timed: pl.DataFrame) -> Iterator[Figure]:
    """Where the time of the runs of each size went."""
    size = snapshot.size_column
    sums = timed.group_by(size).agg(pl.len().alias("runs"), *(pl.col(column).sum() for column in PARTS)).sort(size)
    if len(sums) > MAX_BARS:
        return
    rows = sums.unpivot(list(PARTS), index=[size, "runs"], variable_name="part", value_name="seconds").with_columns(
        pl.col("part").replace(PARTS), label=pl.col(size).map_elements(si, return_dtype=pl.String())
    )
    other = 1 - float(sums["train_time_s"].sum()) / max(float(rows["seconds"].sum()), 1e-9)
    title = f"{percent(other)} of the running time was not training"
    order = rows["label"].unique(maintain_order=True).to_list()

    def draw(width: int) -> alt.TopLevelMixin:
        bars = alt.Chart(inline(rows)).mark_bar(height=alt.RelativeBandSize(0.7)).encode(
            x=alt.X("seconds:Q", title="running time (s)", stack="zero", axis=alt.Axis(grid=True, tickCount=4)),
            y=rows_axis(order, title="parameters"),
            color=colour_by("part", dict(zip(PARTS.values(), (ACCENT, GREY, CATEGORIES[-1]), strict=True))),
        )  # fmt: skip
        return sized(bars, width, 50 + 22 * len(order))

    subtitle = f"Sum over the runs of each size, n = {counted(len(timed), 'run')}."
    yield Figure("wall_time", title, subtitle, rows, draw)


def _table(snapshot: Snapshot) -> Table:
    columns = (
        Column("label", "configuration", width=40),
        Column("tokens_per_s", "tokens/s", "si"),
        Column("median_step_time_s", "step time", "milliseconds"),
        Column("mfu", "MFU", "percent"),
        Column("train_flops", "training FLOPs", "si"),
        Column("wall_time_s", "time a run", "duration"),
    )
    frame = snapshot.configurations.select("key", *(column.name for column in columns))
    return Table("speed", "Speed of each configuration: means over its done runs.", frame, columns, folded=True)


def _loss(field: str, scale: alt.Scale) -> alt.Y:
    return alt.Y(f"{field}:Q", title="best validation loss (nats)", scale=scale, axis=alt.Axis(grid=True))


def _range(values: pl.Series, spelled: Callable[[float], str]) -> str:
    """The smallest and the largest of some numbers, one where they read alike; nothing of none."""
    known = [float(value) for value in values.drop_nulls()]
    return " to ".join(dict.fromkeys([spelled(min(known)), spelled(max(known))])) if known else ""
