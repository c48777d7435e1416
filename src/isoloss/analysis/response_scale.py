"""A response on another scale: its logarithm, so that effects are ratios, or its rank, in which no run lies far off."""

from __future__ import annotations

from typing import Literal

import polars as pl

from isoloss.analysis.columns import number_column, usable_rows
from isoloss.analysis.roles import check_columns
from isoloss.diagnostic import Diagnostic

Scale = Literal["raw", "log", "rank"]
NAMES: dict[Scale, str] = {"raw": "{}", "log": "ln({})", "rank": "rank({})"}
"""What the column of a response is called on each scale."""
OF_RANKS = Diagnostic(
    "effects_of_ranks",
    "note",
    "Effects are of ranks among all runs (Conover and Iman 1981). Main effects are tested as before; an interaction of "
    "ranks may come from two large main effects alone.",
)


def on_scale(table: pl.DataFrame, response: str, scale: Scale) -> tuple[pl.DataFrame, str]:
    """The table with the response on another scale in place of its own, and the name it has there: 'ln(loss)'.

    Logarithms are natural. Ranks are from 1, the lowest, among the responses that are finite; equal ones share their
    mean rank (Conover and Iman 1981). What is not finite stays missing. Raises ConfigError when the column is missing,
    is not numeric, or for a logarithm has a number at or below zero.
    """
    if scale == "raw":
        return table, response
    check_columns([response], table.columns)
    if scale == "log":
        usable_rows(table, positive=[response])
    value_n = number_column(table[response])
    finite_n = value_n.set(~value_n.is_finite().fill_null(False), None)
    name = NAMES[scale].format(response)
    scaled_n = (finite_n.log() if scale == "log" else finite_n.rank("average")).cast(pl.Float64()).alias(response)
    return table.drop(name, strict=False).with_columns(scaled_n).rename({response: name}), name
