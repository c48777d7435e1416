"""Loss by position in the context: what a longer context gives, apart from which positions a loss averages over."""

from __future__ import annotations

from collections.abc import Iterator
from math import sqrt
from typing import Any

import altair as alt
import polars as pl

from isoloss import wording as say
from isoloss.analysis.positions import CONTEXT, PositionBin, PositionLine, PositionLosses
from isoloss.report.chapter import Chapter
from isoloss.report.chart import ACCENT, Figure, colour_by, inline, near_data, sized
from isoloss.report.format import spelled_interval
from isoloss.report.snapshot import Snapshot
from isoloss.report.table import Column, Table

HEIGHT, MAX_TICKS = 240, 11
COLUMNS = (
    Column("configuration", "configuration", width=40),
    Column("tokens", "tokens before the target"),
    Column("loss", "loss [95%]", "loss", unit="nats/token", interval=("low", "high")),
    Column("n", "runs", "count"),
)


def positions_chapter(losses: PositionLosses, snapshot: Snapshot) -> Chapter:
    """What runs lose at each position of their context, with a figure of it."""
    frame = pl.DataFrame([_row(line, each) for line in losses.lines for each in line.bins], infer_schema_length=None)
    return Chapter(
        "positions",
        "Loss by position in the context",
        answer=list(_answer(losses)),
        figures=[_figure(losses, frame, snapshot)],
        tables=[Table("positions", f"Mean loss by position; {_which(losses, snapshot)}", frame, COLUMNS, folded=True)],
        details=list(_details(snapshot)),
    )


def _row(line: PositionLine, each: PositionBin) -> dict[str, Any]:
    ends = {"low": each.loss.low, "high": each.loss.high}
    return {
        "configuration": line.configuration,
        "level": line.level,
        "first": each.first,
        "last": each.last,
        "tokens": _tokens(each),
        "position": sqrt(each.first * each.last),
        "loss": each.loss.value,
        **{name: None if end is None else float(end) for name, end in ends.items()},
        "n": each.loss.n,
    }


def _tokens(each: PositionBin) -> str:
    return say.between([each.first, each.last])


def _answer(losses: PositionLosses) -> Iterator[str]:
    yield f"{_title(losses)}."
    found = losses.difference
    if found is not None and losses.factor == CONTEXT:
        value = found.difference
        yield (
            f"With {found.configuration}, the loss after {_tokens(found.later)} tokens of context minus that after "
            f"{_tokens(found.earlier)}, as many as the shortest block shows, is "
            f"{spelled_interval(value.value, value.low, value.high, 'difference')} nats "
            f"({say.counted(value.n, 'run')}); both are means over different tokens of the text, which this interval "
            "over runs does not allow for."
        )


def _title(losses: PositionLosses) -> str:
    """Of the line that ends lowest."""
    line = min(losses.lines, key=lambda line: line.bins[-1].loss.value)
    first, last = line.bins[0], line.bins[-1]
    return (
        f"With {line.configuration}, the loss goes from {say.loss(first.loss.value)} nats per token after "
        f"{say.counted(first.last, 'token')} of context to {say.loss(last.loss.value)} after {_tokens(last)}"
    )


def _which(losses: PositionLosses, snapshot: Snapshot) -> str:
    """Which configurations have a line."""
    of = " of the runs that record it" if _silent(snapshot) else ""
    if snapshot.factors in ([], [losses.factor]):
        return f"each {losses.factor}{of}" if losses.factor else of.removeprefix(" of the ") or "all runs"
    return "the best configuration" + (f" at each {losses.factor}" if losses.factor else "") + of


def _silent(snapshot: Snapshot) -> list[str]:
    """The runs that are done and have no losses by position."""
    told = snapshot.curves.positions.drop_nulls("loss")
    return snapshot.done.join(told, on="run_id", how="anti")["run_id"].to_list()


def _figure(losses: PositionLosses, frame: pl.DataFrame, snapshot: Snapshot) -> Figure:
    runs = sum(line.bins[0].loss.n for line in losses.lines)
    spread = "95% t intervals over runs" if frame["low"].count() else "no intervals, of single runs"
    subtitle = (
        f"Mean validation loss of the final weights, {_which(losses, snapshot)}, by how many tokens of the window "
        f"stand before the target: bins that double, drawn at their middle. n = {say.counted(runs, 'run')}; {spread}."
    )
    colour: Any = alt.ColorValue(ACCENT)
    if losses.factor is not None:
        known = snapshot.colours[losses.factor]
        levels = [line.level for line in losses.lines]
        colour = colour_by("level", {word: known[word] for word in levels}, title=losses.factor)
    longest = int(str(frame["last"].max()))
    ticks = [2**k for k in range(longest.bit_length())]
    scale = near_data(frame["loss"], frame["low"], frame["high"])

    def draw(width: int) -> Any:
        axis = alt.Axis(values=ticks[-MAX_TICKS:], format=",d", grid=True)
        x = alt.X(
            "position:Q",
            title="tokens before the target (log scale)",
            scale=alt.Scale(type="log", base=2, domain=[0.9, 1.1 * longest], nice=False),
            axis=axis,
        )
        y_axis = alt.Axis(grid=True)
        y = {name: alt.Y(f"{name}:Q", title="loss (nats/token)", scale=scale, axis=y_axis) for name in ("loss", "low")}
        base = alt.Chart(inline(frame)).encode(x=x, color=colour)
        layers = (
            base.mark_rule(strokeWidth=2).encode(y=y["low"], y2=alt.Y2("high:Q")),
            base.mark_line().encode(y=y["loss"]),
            base.mark_point(filled=True, size=35, opacity=1).encode(y=y["loss"]),
        )
        return sized(alt.layer(*layers), width, HEIGHT)

    return Figure("loss_by_position", _title(losses), subtitle, frame, draw)


def _details(snapshot: Snapshot) -> Iterator[str]:
    if silent := _silent(snapshot):
        yield (
            f"{say.of_runs(len(silent), snapshot.done.height)} have no losses by position: they are of an earlier "
            "version, or their windows slide over documents no longer than a window."
        )
    yield (
        "Losses are those of a run's last evaluation, so of its final weights, on the windows of validation that it "
        "read. Positions average over different tokens of the text; the intervals are over runs and do not hold how "
        "hard these tokens are."
    )
    if any(config.eval_scored < config.block_size for config in snapshot.configs.values()):
        yield (
            "Where windows overlap, all of their positions count here, so that one token counts at several; windows at "
            "the beginning of a split or document count as often as they are read."
        )
