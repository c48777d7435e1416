"""Tables of what runs recorded: rows, thinned curves, and losses by position."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

import polars as pl

from isoloss.store.records import ByPosition, ThinnedEvals, ThinnedSteps

METRICS_SCHEMA: dict[str, pl.DataType] = {
    "step": pl.Int64(),
    "loss": pl.Float64(),
    "lr": pl.Float64(),
    "grad_norm": pl.Float64(),
    "step_time_s": pl.Float64(),
    "tokens_per_s": pl.Float64(),
    "mfu": pl.Float64(),
    "mfu_a100": pl.Float64(),
}
EVALS_SCHEMA: dict[str, pl.DataType] = {
    "step": pl.Int64(),
    "train_loss": pl.Float64(),
    "val_loss": pl.Float64(),
    "eval_time_s": pl.Float64(),
    "val_bpb": pl.Float64(),
    "ema_train_loss": pl.Float64(),
    "ema_val_loss": pl.Float64(),
    "ema_val_bpb": pl.Float64(),
}
THINNED_STEPS_SCHEMA = {
    **{name: METRICS_SCHEMA[name] for name in ("step", "loss", "lr", "grad_norm")},
    "seconds": pl.Float64(),
}
THINNED_EVALS_SCHEMA = {name: EVALS_SCHEMA[name] for name in ("step", "train_loss", "val_loss", "ema_val_loss")}
POSITIONS_SCHEMA = {"run_id": pl.String(), "first": pl.Int64(), "last": pl.Int64(), "loss": pl.Float64()}


@dataclass(frozen=True)
class ThinnedCurves:
    """The curves of many runs, at most 64 rows each; a shorter record is kept whole.

    `steps` has run_id, step, loss, lr, grad_norm, seconds: the first and the last step of a run and more, closer
    together at the beginning; `loss` and `grad_norm` are means over the steps a row stands for, `seconds` is the
    training time before its step. `evals` has run_id, step, train_loss, val_loss, ema_val_loss: the first evaluation,
    the last, the best and some between, exactly. `positions` has run_id, first, last, loss: at the last evaluation the
    mean validation loss of targets that first to last tokens of their window stand before; none of older runs.
    """

    steps: pl.DataFrame
    evals: pl.DataFrame
    positions: pl.DataFrame


def curve_frame(
    schema: Mapping[str, pl.DataType], curves: Iterable[tuple[str, ThinnedSteps | ThinnedEvals]]
) -> pl.DataFrame:
    """Curves of many runs by column, one below the other, with their runs' ids."""
    frame: dict[str, list[Any]] = {name: [] for name in ("run_id", *schema)}
    for run, columns in curves:
        frame["run_id"] += [run] * len(columns["step"])
        for name in schema:
            frame[name] += columns.get(name) or [None] * len(columns["step"])
    return pl.DataFrame(frame, schema={"run_id": pl.String(), **schema})


def positions_frame(found: Iterable[tuple[str, ByPosition]]) -> pl.DataFrame:
    """Losses by position of many runs, with the ends of each bin."""
    rows: list[tuple[str, int, int, float | None]] = []
    for run, by_position in found:
        lasts = sorted(map(int, by_position))
        firsts = [1, *(last + 1 for last in lasts)]
        rows += [(run, first, last, by_position[str(last)]) for first, last in zip(firsts, lasts, strict=False)]
    return pl.DataFrame(rows, schema=POSITIONS_SCHEMA, orient="row")
