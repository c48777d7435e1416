"""Which runs are replicates: rows whose variables agree but for 1%, as token counts rounded to whole batches do."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]
Codes = NDArray[np.intp]
SAME = 0.01
"""Values that differ by no more than this share of the smaller are one level."""


def close_groups(log_n: Floats, tolerance: float = SAME) -> Codes:
    """The group of each value, shape [n], counted upwards: all of a group lie within `tolerance` of each other.

    Values are logarithms. Groups part where neighbours are further apart; what is still too wide, as the dense
    checkpoints of one run, is cut into pieces from its least value on.
    """
    order = np.argsort(log_n, kind="stable")
    sorted_n, most = log_n[order], float(np.log1p(tolerance)) + 1e-12
    first_n = np.diff(sorted_n, prepend=-np.inf) > most
    starts: list[int] = np.flatnonzero(first_n).tolist()
    for low, high in zip(starts, [*starts[1:], len(sorted_n)], strict=True):
        at = low
        while sorted_n[high - 1] - sorted_n[at] > most:
            at += int(np.count_nonzero(sorted_n[at:high] <= sorted_n[at] + most))
            first_n[at] = True
    group_n = np.empty(len(log_n), dtype=np.intp)
    group_n[order] = np.cumsum(first_n) - 1
    return group_n


def cells_of(x_Kxn: Floats) -> tuple[Codes, int]:
    """The cell of each row, shape [n], and how many there are: rows that agree in every variable (logarithms)."""
    cell_n = close_groups(x_Kxn[0])
    for x_n in x_Kxn[1:]:
        within_n = np.zeros(len(x_n), dtype=np.intp)
        for cell in range(int(cell_n.max()) + 1):
            rows = np.flatnonzero(cell_n == cell)
            within_n[rows] = close_groups(x_n[rows])
        _, cell_n = np.unique(cell_n * len(x_n) + within_n, return_inverse=True)
        cell_n = cell_n.reshape(-1).astype(np.intp)
    return cell_n, int(cell_n.max()) + 1
