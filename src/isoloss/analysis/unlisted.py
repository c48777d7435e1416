"""Columns that vary among runs taken for equal: settings that nobody listed, whose effects then count as noise."""

from __future__ import annotations

from collections.abc import Callable, Collection, Sequence

import numpy as np
import polars as pl
from numpy.typing import NDArray
from scipy import special

from isoloss.analysis.roles import counts_steps, few_levels, is_measured, is_setting, names_runs, names_seeds
from isoloss.diagnostic import Diagnostic
from isoloss.wording import listed

Floats = NDArray[np.float64]
_CELL = "\0cell"
MOST_NAMED = 5
"""Columns named in a caution; more are counted."""


def unlisted_columns(
    table: pl.DataFrame,
    value_n: Floats,
    cells: Sequence[str],
    others: Collection[str],
    remedy: Callable[[Sequence[str]], str],
) -> list[Diagnostic]:
    """A caution that names the settings which vary among rows that agree in `cells`, without those in `others`.

    Runs' names, seeds, steps and what is measured are no settings; a column with another name is one when its values
    repeat. `value_n` is the response, whose variance within cells each is said to explain a share of. `remedy` words
    what to do about columns.
    """
    candidates = [column for column in table.columns if column not in (*cells, *others) and _may_be_set(table[column])]
    if not candidates or not cells:
        return []
    codes = table.select(pl.struct(cells).rank("dense").alias(_CELL), *candidates)
    within = codes.group_by(_CELL).agg(pl.col(candidates).n_unique())
    varying = [column for column in candidates if (within[column] > 1).any()]
    found: list[str] = []
    for column in sorted(varying, key=lambda name: not is_setting(name)):
        if not any(_same(table, column, other) for other in found):
            found.append(column)
    if not found:
        return []
    cell_n = (codes[_CELL].to_numpy() - 1).astype(np.intp)
    scaled_n = value_n / (float(np.abs(value_n).max()) or 1.0)  # its squares must not overflow
    shares = {column: each[0] if (each := explained(table[column], scaled_n, cell_n)) else None for column in found}
    found.sort(key=lambda column: -(shares[column] or 0.0))
    named, left = found[:MOST_NAMED], len(found) - MOST_NAMED
    more = f" and {left} more" if left > 0 else ""
    told = [f"{name} {_percent(share)}" for name in named if (share := shares[name]) is not None]
    verb = "varies" if len(found) == 1 else "vary"
    text = f"Not listed, but {verb} among runs of equal {listed(cells)}: {', '.join(named)}{more}."
    text += " What it changes counts as noise." if len(found) == 1 else " What they change counts as noise."
    if told:
        text += f" Share of the variance within cells that each explains: {', '.join(told)}."
    return [Diagnostic("unlisted_columns", "limits", text, remedy(named))]


def _may_be_set(column: pl.Series) -> bool:
    name = column.name
    if column.dtype.is_nested() or column.dtype in (pl.Object(), pl.Binary(), pl.Null()):
        return False
    if names_runs(name) or names_seeds(name) or counts_steps(name) or is_measured(name):
        return False
    return column.n_unique() > 1 and (is_setting(name) or few_levels(column))


def _same(table: pl.DataFrame, one: str, other: str) -> bool:
    """Whether two columns divide the rows alike, as a width and the parameters that follow from it."""
    return table.select(one, other).n_unique() == table[one].n_unique() == table[other].n_unique()


def explained(column: pl.Series, value_n: Floats, cell_n: NDArray[np.intp]) -> tuple[float, float] | None:
    """Adjusted share of the variance within cells that a column explains, added to the cells, and the p of its F test.

    By its levels where they are few, else by a parabola in the ranks of its values. None where too few rows are left.
    """
    code_n = column.cast(pl.String() if not column.dtype.is_numeric() else column.dtype).rank("dense").fill_null(0)
    rank_n = code_n.to_numpy().astype(np.float64)
    levels = np.unique(rank_n)
    few = few_levels(column)
    basis_nxt = (rank_n[:, None] == levels[1:]).astype(np.float64) if few else np.vander(rank_n / len(rank_n), 3)[:, :2]
    count_c = np.bincount(cell_n)

    def about_cells(y_n: Floats) -> Floats:
        return y_n - (np.bincount(cell_n, y_n) / count_c)[cell_n]

    inside_nxt = np.column_stack([about_cells(each) for each in basis_nxt.T])
    within_n = about_cells(value_n)
    coefficients_t, _, rank, _ = np.linalg.lstsq(inside_nxt, within_n, rcond=None)
    df = len(value_n) - len(count_c)
    total, left = float(within_n @ within_n), float(((within_n - inside_nxt @ coefficients_t) ** 2).sum())
    if df - int(rank) < 1 or total <= 0:
        return None
    unexplained = left / (df - int(rank))
    ratio = (total - left) / max(int(rank), 1) / max(unexplained, 1e-300)
    p = float(special.fdtrc(max(int(rank), 1), df - int(rank), ratio)) if rank else 1.0
    return max(0.0, 1 - unexplained / (total / df)), p


def _percent(share: float) -> str:
    return "over 99%" if share > 0.99 else f"{share:.0%}"
