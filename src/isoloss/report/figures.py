"""The report's figures: plain tables in, Altair charts out."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import altair as alt
import polars as pl

from isoloss.report.theme import BLUE, GREY, INK, LIGHT, ORANGE, PALETTE, SKY, VERMILLION, WIDTH

VAL_LOSS = "best validation loss (nats/token)"
PARAMS = "parameters, embeddings included (log scale)"
STATE_COLOURS = {"done": BLUE, "running": ORANGE, "pending": GREY, "failed": INK, "diverged": VERMILLION}
FIT = alt.AutoSizeParams(type="fit", contains="padding")


def best_val_loss_by_run(table: pl.DataFrame, factors: Sequence[str]) -> alt.LayerChart:
    """Best validation loss of each run as a dot, in the table's order. A row without a loss is a note."""
    order = table["label"].to_list()
    base = alt.Chart(inline(table)).encode(y=label_axis(order))
    scale = near_data(table["best_val_loss"], right=0.14)
    x = alt.X("best_val_loss:Q", title=VAL_LOSS, scale=scale, axis=alt.Axis(grid=True))
    dots = base.mark_point(filled=True, size=80, opacity=1).encode(
        x=x, color=_state_colour(table), tooltip=_run_tooltip(factors)
    )
    values = base.mark_text(align="left", dx=9, fontSize=11, color=INK).encode(
        x=x, text=alt.Text("best_val_loss:Q", format=".4f")
    )
    return fitted(alt.layer(dots, values), height=90 + 20 * len(table))


def val_loss_vs_params(
    table: pl.DataFrame, factors: Sequence[str], colour: str | None, shape: str | None
) -> alt.LayerChart:
    """Best validation loss against the parameter count; colour and shape stand for two factors."""
    points = alt.Chart(inline(table)).mark_point(size=80 if len(table) <= 100 else 40, strokeWidth=2, opacity=0.85)
    points = points.encode(
        x=_params_axis(table["params_total"]),
        y=alt.Y("best_val_loss:Q", title=VAL_LOSS, scale=near_data(table["best_val_loss"])),
        color=_levels_colour(table, colour),
        shape=alt.Shape(f"{shape}:N", sort=_levels(table, shape)) if shape else alt.value("circle"),
        tooltip=_run_tooltip(factors),
    )
    return fitted(alt.layer(points), height=380)


def loss_curves(table: pl.DataFrame, labels: Sequence[str], zoom_from: int) -> alt.HConcatChart:
    """Training and validation loss at the evaluations: all steps, and those from `zoom_from` on at their own scale."""

    runs_legend = alt.Legend(title=None, columns=1, symbolType="stroke")

    def panel(rows: pl.DataFrame, title: str, y_title: str | None) -> alt.Chart:
        tooltip = [
            alt.Tooltip("run_id:N", title="run"),
            alt.Tooltip("label:N", title="levels"),
            alt.Tooltip("split:N"),
            alt.Tooltip("step:Q", format=","),
            alt.Tooltip("loss:Q", format=".4f"),
        ]
        dots = alt.OverlayMarkDef(size=28, filled=True, opacity=1)
        return (
            alt.Chart(inline(rows), width=WIDTH // 2 - 62, height=330, title=title)
            .mark_line(point=dots if len(rows) <= 200 else False)
            .encode(
                x=alt.X("step:Q", title="optimizer step", scale=alt.Scale(zero=False, nice=False)),
                y=alt.Y("loss:Q", title=y_title, scale=near_data(rows["loss"])),
                color=alt.Color("label:N", sort=list(labels), legend=runs_legend),
                strokeDash=alt.StrokeDash(
                    "split:N",
                    sort=["validation", "training"],
                    scale=alt.Scale(domain=["validation", "training"], range=[[1, 0], [5, 3]]),
                    legend=alt.Legend(title=None, symbolType="stroke"),
                ),
                tooltip=tooltip,
            )
        )

    late = table.filter(pl.col("step") >= zoom_from)
    panels = panel(table, "All evaluations", "loss (nats/token)"), panel(late, f"From step {zoom_from:,} on", None)
    return alt.hconcat(*panels)


def step_times(table: pl.DataFrame, evaluation_steps: Sequence[int]) -> alt.LayerChart:
    """Step time over the steps of one run; ticks at the foot mark evaluations, each followed by a checkpoint."""
    y = alt.Y("step_time_ms:Q", title="step time (ms, log scale)", **log_axis(table["step_time_ms"], "~g"))
    x = alt.X("step:Q", title="optimizer step", scale=alt.Scale(nice=False))
    line = alt.Chart(inline(table)).mark_line(strokeWidth=1, color=BLUE)
    step = alt.Tooltip("step:Q", format=",")
    line = line.encode(x=x, y=y, tooltip=[step, alt.Tooltip("step_time_ms:Q", title="ms", format=".4g")])
    legend = alt.Legend(title=None, symbolType="square")
    marks = alt.Chart(inline(pl.DataFrame({"step": list(evaluation_steps), "kind": "evaluation and checkpoint"})))
    marks = marks.mark_tick(orient="vertical", thickness=2, size=12, yOffset=-8, opacity=1).encode(
        x=x,
        y=alt.value("height"),
        color=alt.Color("kind:N", scale=alt.Scale(range=[VERMILLION]), legend=legend),
        tooltip=[alt.Tooltip("kind:N", title="mark"), step],
    )
    return fitted(alt.layer(line, marks), height=300)


def efficiency(table: pl.DataFrame, factors: Sequence[str], colour: str | None) -> alt.HConcatChart:
    """Each run's median model FLOPs utilisation and throughput against its parameter count."""
    base = alt.Chart(inline(table), width=WIDTH // 2 - 62, height=280).mark_point(size=70, strokeWidth=2, opacity=0.85)
    base = base.encode(
        x=_params_axis(table["params_total"]), color=_levels_colour(table, colour), tooltip=_run_tooltip(factors)
    )
    throughput = alt.Y("tokens_per_s:Q", title="tokens/s (log scale)", **log_axis(table["tokens_per_s"], "~s"))
    mfu = alt.Y("mfu_percent:Q", title="MFU (%)", scale=alt.Scale(zero=True))
    return alt.hconcat(base.encode(y=mfu), base.encode(y=throughput))


def wall_time(table: pl.DataFrame) -> alt.Chart:
    """Wall time of each run, split into training, evaluation and checkpoints, in the table's order."""
    order = table["label"].unique(maintain_order=True).to_list()
    parts = ["training", "evaluation", "checkpoints"]
    colour = alt.Color(
        "part:N", sort=parts, scale=alt.Scale(domain=parts, range=[BLUE, SKY, ORANGE]), legend=alt.Legend(title=None)
    )
    chart = (
        alt.Chart(inline(table))
        .mark_bar(height=alt.RelativeBandSize(0.7))
        .encode(
            x=alt.X("seconds:Q", title="wall time (s)", stack="zero", axis=alt.Axis(grid=True)),
            y=label_axis(order),
            color=colour,
            order=alt.Order("order:Q"),
            tooltip=[
                alt.Tooltip("run_id:N", title="run"),
                alt.Tooltip("label:N", title="levels"),
                alt.Tooltip("part:N"),
                alt.Tooltip("seconds:Q", title="time (s)", format=".3g"),
            ],
        )
    )
    return fitted(chart, height=90 + 18 * len(order))


def main_effects(
    levels_by_factor: dict[str, pl.DataFrame], runs: pl.DataFrame, factors: Sequence[str]
) -> alt.ConcatChart:
    """One panel a factor over a shared loss axis: single runs, their range and their mean at each level."""
    columns = min(len(levels_by_factor), 5)
    width = (WIDTH - 80) // max(columns, 3) - 40
    scale = near_data(runs["best_val_loss"])
    panels = [
        _effect_panel(factor, levels, runs, factors, scale, first=i % columns == 0).properties(width=width, height=300)
        for i, (factor, levels) in enumerate(levels_by_factor.items())
    ]
    return alt.concat(*panels, columns=columns, spacing=24)


def _effect_panel(
    factor: str, levels: pl.DataFrame, runs: pl.DataFrame, factors: Sequence[str], scale: alt.Scale, *, first: bool
) -> alt.LayerChart | alt.FacetChart:
    order = levels["level"].to_list()
    x = alt.X(f"{factor}:N", sort=order, title=factor, axis=alt.Axis(labelAngle=0), scale=alt.Scale(domain=order))
    y_title = VAL_LOSS if first else None
    axis = alt.Axis(labels=first, grid=True)

    def y(field: str) -> alt.Y:
        return alt.Y(f"{field}:Q", title=y_title, scale=scale, axis=axis)

    tooltip = [
        alt.Tooltip(f"{factor}:N"),
        alt.Tooltip("n:Q", title="runs"),
        *(alt.Tooltip(f"{name}:Q", format=".4f") for name in ("mean", "sd", "minimum", "maximum")),
    ]
    described = alt.Chart(inline(levels.rename({"level": factor})))
    dots = alt.Chart(inline(runs)).mark_point(filled=True, size=26, color=GREY, opacity=0.55)
    return alt.layer(
        described.mark_rule(color=LIGHT, strokeWidth=8).encode(x=x, y=y("minimum"), y2="maximum:Q"),
        dots.encode(x=x, y=y("best_val_loss"), tooltip=_run_tooltip(factors)),
        described.mark_line(color=BLUE, strokeWidth=1.5, strokeDash=[4, 3]).encode(x=x, y=y("mean")),
        described.mark_point(filled=True, size=110, color=BLUE, opacity=1).encode(x=x, y=y("mean"), tooltip=tooltip),
        described.mark_text(fontSize=11, color=INK, baseline="top").encode(x=x, y=alt.value(-12), text="n_label:N"),
    )


def inline(table: pl.DataFrame) -> alt.InlineData:
    """Rows inside the specification: the page needs no other file, and Altair's row limit does not apply."""
    return alt.InlineData(values=table.to_dicts())


def fitted(chart: Any, height: int) -> Any:
    """The chart at the page's full width, its labels included."""
    return chart.properties(width=WIDTH, height=height, autosize=FIT)


def label_axis(order: Sequence[str]) -> alt.Y:
    """One line a run, none left out."""
    return alt.Y("label:N", title=None, scale=alt.Scale(domain=list(order)), axis=alt.Axis(labelOverlap=False))


def _run_tooltip(factors: Sequence[str]) -> list[alt.Tooltip]:
    """What pointing at a run tells: its name, its levels, its numbers."""
    return [
        alt.Tooltip("run_id:N", title="run"),
        *(alt.Tooltip(f"{factor}:N") for factor in factors),
        alt.Tooltip("seed:N"),
        alt.Tooltip("status:N"),
        alt.Tooltip("best_val_loss:Q", title="best val loss", format=".4f"),
        alt.Tooltip("best_step:Q", title="at step", format=","),
        alt.Tooltip("params_total:Q", title="parameters", format=","),
        alt.Tooltip("params_non_embedding:Q", title="non-embedding", format=","),
        alt.Tooltip("mfu_percent:Q", title="MFU (%)", format=".3g"),
        alt.Tooltip("tokens_per_s:Q", title="tokens/s", format=",.0f"),
    ]


def fixed_colour(table: pl.DataFrame, field: str, colours: Mapping[str, str], *, legend: bool = True) -> alt.Color:
    """A colour of its own for each of some known values; the legend has those that occur."""
    present = [value for value in colours if value in set(table[field])]
    scale = alt.Scale(domain=present, range=[colours[value] for value in present])
    return alt.Color(f"{field}:N", scale=scale, legend=alt.Legend(title=None) if legend else None)


def _state_colour(table: pl.DataFrame) -> alt.Color:
    return fixed_colour(table, "status", STATE_COLOURS, legend=set(table["status"].drop_nulls()) != {"done"})


def _levels(table: pl.DataFrame, factor: str) -> list[str]:
    """A factor's levels, numbers in their own order."""

    def key(word: str) -> tuple[int, float, str]:
        try:
            return 0, float(word), word
        except ValueError:
            return 1, 0.0, word

    return sorted(table[factor].unique().to_list(), key=key)


def _levels_colour(table: pl.DataFrame, factor: str | None) -> Any:
    if factor is None:
        return alt.value(BLUE)
    levels = _levels(table, factor)
    colours = alt.Scale(domain=levels, range=PALETTE) if len(levels) <= len(PALETTE) else alt.Scale(scheme="viridis")
    return alt.Color(f"{factor}:N", sort=levels, scale=colours)


def near_data(values: pl.Series, right: float = 0.06) -> alt.Scale:
    """A linear scale that begins where the data is; `right` is the share of its range left free at the far end."""
    low, high = _range(values)
    span = (high - low) or 0.3 * abs(high) or 1.0
    return alt.Scale(domain=[low - 0.06 * span, high + right * span], zero=False, nice=False)


def _params_axis(values: pl.Series) -> alt.X:
    return alt.X("params_total:Q", title=PARAMS, **log_axis(values, "~s"))


def log_axis(values: pl.Series, fmt: str) -> dict[str, Any]:
    """Scale and axis of a logarithmic channel with a few round ticks inside the data's range."""
    low, high = _range(values)
    low, high = (low / 1.25, high * 1.25) if high / low > 1.25 else (low / 1.6, high * 1.6)
    axis = alt.Axis(values=log_ticks(low, high), format=fmt, grid=True, labelOverlap=False)
    return {"scale": alt.Scale(type="log", domain=[low, high], nice=False), "axis": axis}


def log_ticks(low: float, high: float) -> list[float]:
    """Round numbers between two positive ones: the finest of 10, 1-3, 1-2-5 and 1-1.5-2-3-5-7 that gives at most 7."""
    found: list[float] = []
    for digits in ((1.0,), (1.0, 3.0), (1.0, 2.0, 5.0), (1.0, 1.5, 2.0, 3.0, 5.0, 7.0)):
        ticks = [digit * 10.0**power for power in range(-12, 16) for digit in digits]
        inside = [tick for tick in ticks if low <= tick <= high]
        if not found or len(inside) <= 7:
            found = inside
    return found


def _range(values: pl.Series) -> tuple[float, float]:
    numbers = [float(value) for value in values.drop_nulls()]
    return min(numbers), max(numbers)
