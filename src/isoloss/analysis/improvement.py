"""The probability that a run at one level has a lower response than a run at another that shares all else.

As in Agarwal and others (2021), but paired: the difference of two runs that agree in the other factors and in the block
is taken to be normal, with a variance from cell to cell, from block to block and from run to run. Its mean over its
standard deviation has a generalized interval (Weerahandi 1993): each mean square over its chi-square, drawn.
"""

from __future__ import annotations

from dataclasses import dataclass
from statistics import NormalDist

import numpy as np
from numpy.typing import NDArray
from scipy import special

from isoloss.analysis.estimate import LEVEL, Estimate
from isoloss.analysis.factorial_table import FactorialTable
from isoloss.wording import counted

Floats = NDArray[np.float64]
DRAWS = 20_000


@dataclass(frozen=True)
class _Part:
    """A mean square of differences on `df`, with its factor in the variance of a pair and in that of their mean."""

    square: float
    df: float
    of_pair: float
    of_mean: float


def probability_lower(runs: FactorialTable, position: int, first: int, second: int) -> Estimate | None:
    """P(a run at level `second` of a factor < one at `first`), both by position, over cells and blocks alike.

    From the cells of the other factors that have both levels in every block, or from the blocks that have both in every
    cell, whichever are more pairs. None without replicates or blocks, where nothing shows how much runs differ, and
    where no such cell is left or nothing differs.
    """
    counts, means = _pairs(runs, position, first, second)
    if not counts.size:
        return None
    difference_cxb = means[1] - means[0]
    parts = _parts(runs, counts, difference_cxb, position, (first, second))
    if not parts:
        return None
    mean, generator = float(difference_cxb.mean()), np.random.default_rng(0)
    variance = sum(part.of_pair * part.square for part in parts)
    if variance <= runs.rounding**2:
        return None
    normal_d = generator.standard_normal(DRAWS)
    drawn = [(part, part.square * part.df / generator.chisquare(part.df, DRAWS)) for part in parts]
    pair_d = np.sqrt(sum(part.of_pair * square_d for part, square_d in drawn))
    mean_d = mean - normal_d * np.sqrt(sum(part.of_mean * square_d for part, square_d in drawn))
    probability_d: Floats = special.ndtr(-mean_d / pair_d)
    low, high = np.quantile(probability_d, [(1 - LEVEL) / 2, (1 + LEVEL) / 2])
    n = int(difference_cxb.size if runs.block else counts.min(axis=0).sum())
    cells, blocks = difference_cxb.shape
    over = f"{counted(cells, 'cell')} of the other factors" + (f" × {counted(blocks, 'block')}" if runs.block else "")
    method = f"normal differences of runs that share all else, over {over}; generalized interval"
    return Estimate(NormalDist().cdf(-mean / variance**0.5), float(low), float(high), LEVEL, n, method)


def _pairs(runs: FactorialTable, position: int, first: int, second: int) -> tuple[Floats, Floats]:
    """Counts and means of runs at the two levels, [2, c, b], of the other factors' cells, or blocks, that have all."""
    others_cxf = np.delete(runs.cells_cxf, position, axis=1)
    _, place_c = np.unique(others_cxf, axis=0, return_inverse=True)
    counts, means = (np.zeros((2, int(place_c.max()) + 1, runs.counts_cxb.shape[1])) for _ in range(2))
    for cell, level in enumerate(runs.cells_cxf[:, position]):
        if level in (first, second):
            place = int(level == second), int(place_c[cell])
            counts[place], means[place] = runs.counts_cxb[cell], runs.means_cxb[cell]
    paired_cxb: NDArray[np.bool_] = (counts[0] > 0) & (counts[1] > 0)
    by_cell, by_block = paired_cxb.all(axis=1), paired_cxb.all(axis=0)
    if paired_cxb[by_cell].size >= paired_cxb[:, by_block].size:
        return counts[:, by_cell], means[:, by_cell]
    return counts[:, :, by_block], means[:, :, by_block]


def _parts(
    runs: FactorialTable, counts: Floats, difference_cxb: Floats, position: int, ends: tuple[int, int]
) -> list[_Part]:
    """What a pair's difference varies by: cells, blocks, both together, and runs of equal cell and block."""
    c, b = difference_cxb.shape
    by_cell, by_block = difference_cxb.mean(axis=1), difference_cxb.mean(axis=0)
    both = difference_cxb - by_cell[:, None] - by_block + difference_cxb.mean()
    parts: list[_Part] = []
    if b > 1:
        df = (c - 1) * (b - 1)
        parts.append(_Part(c * float(by_block.var(ddof=1)), b - 1, 1 / c, 1 / (c * b)))
        if c > 1:
            parts.append(_Part(float((both**2).sum()) / df, df, 1 - 1 / b - 1 / c, 0.0))
    if c > 1:
        parts.append(_Part(b * float(by_cell.var(ddof=1)), c - 1, 1 / b, 0.0))
    compared_c = np.isin(runs.cells_cxf[:, position], ends)
    counts_cxb = runs.counts_cxb[compared_c]
    within_df = int(counts_cxb.sum()) - int((counts_cxb > 0).sum())
    if within_df:
        each = float(1 / (1 / counts).mean())
        alone = 0.0 if b > 1 or c > 1 else 1 / each
        of_mean = 1 / (each * c) if b == 1 else 0.0
        parts.append(
            _Part(2 * float(runs.within_ss_c[compared_c].sum()) / within_df, within_df, 1 - 1 / each + alone, of_mean)
        )
    return parts if any(part.of_mean for part in parts) else []
