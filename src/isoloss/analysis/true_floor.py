"""The floor that a law fits, beside the loss of the source itself where a synthetic text makes it known."""

from __future__ import annotations

from dataclasses import dataclass
from math import log

import polars as pl

from isoloss.analysis.columns import number_column
from isoloss.analysis.scaling import FIXED, Fit

TRUE_LOSS = "true_val_loss"
"""Column of what the source of a text loses on the windows that its runs are validated on: no model loses less."""
OTHER_WINDOWS = ("final_train_loss",)
IN_BITS = ("best_val_bpb", "final_val_bpb", "best_ema_val_bpb", "final_ema_val_bpb")
"""Columns of a summary in bits per byte: a symbol of a source is a byte."""
SAME = 1e-6


@dataclass(frozen=True)
class TrueFloor:
    """The least loss that any model can have, and whether the interval of the fitted floor covers it."""

    loss: float
    covered: bool | None
    """None where the law has no floor with an interval, and for a law in size or tokens alone.

    The floor of the latter holds what the other leaves.
    """
    unit: str


def true_floor(fit: Fit, runs: pl.DataFrame) -> TrueFloor | None:
    """None where it is not known, or not the same for all runs, and for a law of another loss.

    Raises ConfigError where it is no number.
    """
    if fit.columns["loss"] in OTHER_WINDOWS:
        return None
    losses = number_column(runs[TRUE_LOSS]).to_list() if TRUE_LOSS in runs.columns else [None]
    known = [loss for loss in losses if loss is not None]
    if len(known) < len(losses) or max(known) - min(known) > SAME:
        return None
    loss, unit = (known[0] / log(2), "bits/byte") if fit.columns["loss"] in IN_BITS else (known[0], "nats/token")
    floor = fit.parameters["E"].estimate if "E" in fit.parameters else None
    alone = fit.form in ("LN", "LD")
    if alone or floor is None or floor.method == FIXED or floor.low is None or floor.high is None:
        return TrueFloor(loss, None, unit)
    return TrueFloor(loss, floor.low <= loss <= floor.high, unit)
