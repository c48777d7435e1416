"""Runs of equal size and tokens that differ beyond noise: another variable, or two metrics, is hidden in the table."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import polars as pl
from scipy import special

from isoloss.analysis.cells import Codes
from isoloss.analysis.laws import VARIABLES, Floats, Law
from isoloss.analysis.roles import few_levels, is_measured, is_setting, names_runs, names_seeds
from isoloss.analysis.uncertainty import cells
from isoloss.analysis.unlisted import explained
from isoloss.diagnostic import Diagnostic
from isoloss.wording import count, level

MOST_SPREAD = 0.05
"""Standard deviation of log losses within cells beyond which no seed is the reason; a rule of thumb."""
RARE = 1e-3
"""p below which a column, or the spread of one cell, is more than chance; shared by all that are tried."""
MOST_OF_IT = 0.5
"""The share of the variance within cells that a column has to explain."""


def varies_within_cells(table: pl.DataFrame, law: Law, columns: Mapping[str, str]) -> list[Diagnostic]:
    """A caution where runs of a cell differ by more than noise, with the column that explains it where one does.

    More than noise is: a column explains most of it, or they differ by 5%, or those of one cell differ far more than
    those of the others. `table` has the law's rows.
    """
    cell_n, n_cells = cells(law)
    df = len(cell_n) - n_cells
    if df < 1:
        return []
    within_n = law.y_n - (np.bincount(cell_n, law.y_n) / np.bincount(cell_n))[cell_n]
    sd = float(np.sqrt(np.sum(within_n**2) / df))
    column = _explaining(table, law.y_n, cell_n, columns)
    wildest = _wildest(within_n, cell_n, n_cells)
    if column is None and sd <= MOST_SPREAD and wildest is None:
        return []
    axes = " and ".join(VARIABLES[law.form])
    ratio_c = np.exp([float(np.ptp(law.y_n[cell_n == cell])) for cell in range(n_cells)])
    most = int(np.argmax(ratio_c)) if wildest is None or sd > MOST_SPREAD else wildest
    row = int(np.flatnonzero(cell_n == most)[0])
    point = np.exp(law.x_Kxn[:, row] + law.centre_k)
    where = ", ".join(
        f"{axis} = {count(value)}" for axis, value in zip(VARIABLES[law.form], point.tolist(), strict=True)
    )
    text = f"Runs of equal {axes} differ by more than noise: by a factor of {ratio_c[most]:.4g} at {where}."
    if column is None:
        text += " No single column of the table explains most of it."
        return [Diagnostic("varies_within_cells", "limits", text, "Fit runs that differ in these and in nothing else.")]
    text += f" {column} explains it; one law for all its values describes none of them."
    value = table[column].drop_nulls()[0]
    value = f"'{value}'" if isinstance(value, str) else level(value)
    remedy = f'Fit each value of {column} by itself (--by {column}, or --where "{column} = {value}").'
    return [Diagnostic("varies_within_cells", "limits", text, remedy)]


def _explaining(table: pl.DataFrame, y_n: Floats, cell_n: Codes, columns: Mapping[str, str]) -> str | None:
    """The column that explains the most of the variance within cells, where it is most of it and no chance."""
    candidates = [name for name in table.columns if name not in columns.values() and _may_explain(table[name])]
    found = {name: explained(table[name], y_n, cell_n) for name in candidates}
    sure = {name: each[0] for name, each in found.items() if each and each[1] * len(candidates) < RARE}
    best = max(sure, key=lambda name: (round(sure[name], 9), is_setting(name)), default=None)
    return best if best is not None and sure[best] > MOST_OF_IT else None


def _may_explain(column: pl.Series) -> bool:
    name, dtype = column.name, column.dtype
    if not (dtype.is_numeric() or dtype in (pl.String(), pl.Boolean(), pl.Categorical())):
        return False
    if names_seeds(name) or names_runs(name) or column.n_unique() < 2 or (dtype.is_numeric() and is_measured(name)):
        return False
    return few_levels(column) or (dtype.is_numeric() and is_setting(name))


def _wildest(within_n: Floats, cell_n: Codes, n_cells: int) -> int | None:
    """The cell whose runs differ more than those of all others, by an F test shared by the cells; None without one."""
    squares_c, df_c = np.bincount(cell_n, within_n**2), np.bincount(cell_n) - 1
    others_c = (squares_c.sum() - squares_c) / np.maximum(df_c.sum() - df_c, 1)
    ratio_c = squares_c / np.maximum(df_c, 1) / np.maximum(others_c, 1e-300)
    testable_c = (df_c > 0) & (df_c.sum() - df_c > 0) & (squares_c > 0)
    p_c = np.where(testable_c, special.fdtrc(np.maximum(df_c, 1), np.maximum(df_c.sum() - df_c, 1), ratio_c), 1.0)
    cell = int(np.argmin(p_c))
    return cell if p_c[cell] * n_cells < RARE else None
