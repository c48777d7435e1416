"""Units in anyone's table: tokens that follow from compute, and whether sizes, tokens and compute are in ones."""

from __future__ import annotations

from collections.abc import Mapping
from math import isclose, log10

import numpy as np
import polars as pl

from isoloss.analysis.columns import number_column
from isoloss.analysis.cost import FLOPS_PER_PARAMETER_TOKEN, SIX_ND, Cost
from isoloss.analysis.laws import AXES, Floats, Form
from isoloss.diagnostic import Diagnostic
from isoloss.wording import number

MOST_OFF = 3.0
"""C may be this many times 6ND, or a third of it: attention, and embeddings counted or not, stay within."""
SAID_FROM = 1.05
"""From this ratio on it is said that C is not 6ND."""
FLOPS_OF_UNIT = {
    "MFLOPs": 1e6, "GFLOPs": 1e9, "TFLOPs": 1e12, "PFLOPs": 1e15, "EFLOPs": 1e18, "ZFLOPs": 1e21,
    "PFLOP/s-days": 8.64e19,
}  # fmt: skip
FEWEST_PER_PARAMETER, MOST_PER_PARAMETER = 1e-3, 1e6
"""Tokens a parameter; beyond, one of the two is taken to be in another unit."""
FEWEST_PARAMETERS = 100
MIN_SIZE_POWER = 0.3
"""Compute that grows less than so with size is no cost of training one."""
SAME_UNIT = 0.5
"""A unit is named where it brings C within this many powers of ten of 6ND."""


def with_tokens(
    table: pl.DataFrame, form: Form, columns: Mapping[str, str]
) -> tuple[pl.DataFrame, tuple[Diagnostic, ...]]:
    """The table with D = C/(6N) where the form needs D, and the table has N and C alone; a note says so."""
    size, tokens, compute = (columns.get(axis, axis) for axis in ("N", "D", "C"))
    if "D" not in AXES[form] or tokens in table.columns or not {size, compute} <= set(table.columns):
        return table, ()
    numbers = {name: number_column(table[name]) for name in (size, compute)}
    derived = (numbers[compute] / (FLOPS_PER_PARAMETER_TOKEN * numbers[size])).alias(tokens)
    text = f"There is no column {tokens}: D is taken as {compute} / (6 · {size})."
    found = [Diagnostic("tokens_from_compute", "note", text)]
    ratio = (derived / numbers[size]).drop_nulls().drop_nans().median()
    if isinstance(ratio, float) and not FEWEST_PER_PARAMETER < ratio < MOST_PER_PARAMETER:
        text = (
            f"That is {number(ratio)} tokens a parameter: {compute} may not be in FLOPs, or {size} not in parameters."
        )
        found.append(Diagnostic("tokens_implausible", "limits", text, f"Give {compute} in FLOPs."))
    return table.with_columns(derived), tuple(found)


def unit_doubts(table: pl.DataFrame, columns: Mapping[str, str]) -> list[Diagnostic]:
    """Whether sizes and tokens may be in thousands, millions or billions, in which no FLOPs can be told."""
    names = {axis: columns.get(axis, axis) for axis in ("N", "D")}
    median = {axis: number_column(table[name]).median() for axis, name in names.items() if name in table.columns}
    n, d = (value if isinstance(value, float) else None for value in (median.get("N"), median.get("D")))
    if n is not None and n < FEWEST_PARAMETERS:
        text = f"The median of {names['N']} is {number(n)}: that is no number of parameters"
    elif n is not None and d is not None and not FEWEST_PER_PARAMETER < d / n < MOST_PER_PARAMETER:
        text = (
            f"{names['D']} is {number(d / n)} times {names['N']} in the median: that is no number of tokens a parameter"
        )
    else:
        return []
    text += (
        ", so a column is likely in thousands, millions or billions. FLOPs, and what follows from them, are wrong then."
    )
    return [
        Diagnostic("units_implausible", "limits", text, "Give parameters and tokens in ones, such as 1.3e9 or 1.3B.")
    ]


def cost_of(table: pl.DataFrame, columns: Mapping[str, str]) -> Cost:
    """C = k·N^p·D by least squares on logarithms; 6·N·D where that has no meaning: p is small, or a column missing."""
    names = [columns.get(axis, axis) for axis in ("N", "D", "C")]
    if not set(names) <= set(table.columns):
        return SIX_ND
    with np.errstate(all="ignore"):
        n, d, c = (np.log(number_column(table[name]).to_numpy()) for name in names)
    known = np.isfinite(n + d + c)
    if len(np.unique(n[known])) < 2:
        return SIX_ND
    power, log_per = np.polyfit(n[known], (c - d)[known], 1)
    return Cost(float(np.exp(log_per)), float(power)) if power > MIN_SIZE_POWER else SIX_ND


def compute_doubts(table: pl.DataFrame, columns: Mapping[str, str]) -> list[Diagnostic]:
    """Whether the table has compute of about 6·N·D FLOPs (Kaplan et al. 2020), with the likely unit where not."""
    names = [columns.get(axis, axis) for axis in ("N", "D", "C")]
    if not set(names) <= set(table.columns):
        return []
    n, d, c = (number_column(table[name]).to_numpy() for name in names)
    with np.errstate(all="ignore"):
        ratio_n: Floats = c / (FLOPS_PER_PARAMETER_TOKEN * n * d)
    ratio_n = ratio_n[np.isfinite(ratio_n) & (ratio_n > 0)]
    if not len(ratio_n):
        return []
    ratio, low, high = (float(x) for x in (np.median(ratio_n), ratio_n.min(), ratio_n.max()))
    spread = "" if high < low * SAID_FROM else f" (from {number(low)} to {number(high)})"
    text = f"{names[2]} is {number(ratio)} times 6·{names[0]}·{names[1]}{spread}"
    if 1 / MOST_OFF <= ratio <= MOST_OFF or isclose(ratio, MOST_OFF) or isclose(ratio, 1 / MOST_OFF):
        if low >= 1 / SAID_FROM and high <= SAID_FROM:
            return []
        text += ", which how attention and embeddings are counted may explain. The frontier uses 6·N·D."
        return [Diagnostic("compute_differs", "note", text)]
    unit = min(FLOPS_OF_UNIT, key=lambda name: abs(log10(ratio * FLOPS_OF_UNIT[name])))
    remedy = f"Give {names[2]} in FLOPs, {names[0]} in parameters and {names[1]} in tokens."
    if abs(log10(ratio * FLOPS_OF_UNIT[unit])) < SAME_UNIT:
        text += f": it is likely in {unit}"
        remedy = f"Multiply {names[2]} by {FLOPS_OF_UNIT[unit]:g}."
    elif ratio > MOST_OFF and abs(log10(ratio) / 3 - round(log10(ratio) / 3)) < SAME_UNIT / 3:
        text += f": {names[0]} or {names[1]} is likely in thousands, millions or billions"
    text += ". What is said of profiles and of the frontier at a compute does not go together."
    return [Diagnostic("compute_mismatch", "limits", text, remedy)]
