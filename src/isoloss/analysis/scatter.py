"""How far contrasts and whole terms of a factorial are uncertain, whatever the noise of each level.

With blocks (seeds), the residuals of each show how an effect differs from block to block: in a balanced table a
contrast's error is that of the t test of its values in the blocks. Without blocks, the runs of each cell show that
cell's own noise (Welch 1947). Neither takes levels to be equally noisy.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from isoloss.analysis.factorial import Floats, TwoFactorFit, f_upper
from isoloss.analysis.factorial_table import FactorialTable

TOLERANCE = 1e-9
"""Of the share of a direction that other blocks determine as well; below it one alone does."""


@dataclass(frozen=True)
class FTest:
    """The F of a whole term and its p; `df` and `error_df` allow for unequal variances and need not be whole."""

    f: float
    df: float
    error_df: float

    @property
    def p(self) -> float:
        """The probability of a larger F without any effect."""
        return f_upper(self.f, self.df, self.error_df)


@dataclass(frozen=True)
class Scatter:
    """Rows whose outer products sum to the covariance of the model's r coordinates.

    `source_i` numbers what each of the i rows was estimated from, `df_s` are the degrees of freedom of each such
    source: all blocks together are one, every cell with replicates is one.
    """

    rows_ixr: Floats
    source_i: NDArray[np.intp]
    df_s: Floats
    name: str

    @property
    def by_block(self) -> bool:
        """Whether it is estimated from blocks."""
        return len(self.df_s) == 1 < len(self.source_i)

    def variance(self, weights_r: Floats) -> tuple[float, float]:
        """The variance of a contrast and its degrees of freedom (Satterthwaite 1946)."""
        return self._pooled((self.rows_ixr @ weights_r) ** 2)

    def test(self, added_rxd: Floats, squares: float) -> FTest:
        """F of a term that adds d orthonormal directions, and its sum of squares, to the model.

        Its expectation under the null is 1 whatever the variances; both degrees of freedom are those at which F has
        the right variance (Box 1954; with blocks Greenhouse and Geisser 1959, with cells Brunner, Dette and Munk 1997).
        """
        rows_ixd = self.rows_ixr @ added_rxd
        total, error_df = self._pooled((rows_ixd**2).sum(axis=1))
        df = total**2 / float(((rows_ixd.T @ rows_ixd) ** 2).sum())
        return FTest(squares / total, df, error_df * df if self.by_block else error_df)

    def _pooled(self, part_i: Floats) -> tuple[float, float]:
        part_s = np.bincount(self.source_i, part_i, minlength=len(self.df_s))
        total, largest = float(part_s.sum()), float(part_s.max())
        if largest == 0.0:
            return 0.0, float(self.df_s.max())
        return total, (total / largest) ** 2 / float(((part_s / largest) ** 2 / self.df_s).sum())


def scatter_between_blocks(runs: FactorialTable, fit: TwoFactorFit) -> Scatter:
    """What the residuals of each block do to the coordinates; `runs` has two blocks or more.

    Block b gives (I − XᵦᵀXᵦ)^(-1/2) Xᵦᵀeᵦ, where Xᵦ are its rows of the orthonormal design and eᵦ its residuals:
    without bias where runs are equally noisy (Bell and McCaffrey 2002). Directions that one block alone determines, as
    of a level with a single run, have no residual; they are taken to vary as all others do on average.
    """
    left_g, r = fit.observed_g - fit.basis_gxr @ fit.response_r, len(fit.response_r)
    blocks = int(runs.counts_cxb.shape[1])
    rows: list[Floats] = []
    alone: list[Floats] = []
    for block in range(blocks):
        own_gxr = fit.basis_gxr[fit.block_g == block]
        rest_r, axes_rxr = np.linalg.eigh(np.eye(r) - own_gxr.T @ own_gxr)
        known_r = rest_r > TOLERANCE
        pushed_r = axes_rxr.T @ (own_gxr.T @ left_g[fit.block_g == block])
        rows.append(axes_rxr[:, known_r] @ (pushed_r[known_r] / np.sqrt(rest_r[known_r])))
        alone += list(axes_rxr[:, ~known_r].T)
    average = math.sqrt(sum(float(row @ row) for row in rows) / max(r - len(alone), 1))
    rows_ixr = np.stack([*rows, *(average * axis for axis in alone)])
    return Scatter(rows_ixr, np.zeros(len(rows_ixr), dtype=np.intp), np.array([blocks - 1.0]), str(runs.block))


def scatter_within_cells(runs: FactorialTable, fit: TwoFactorFit) -> Scatter:
    """What the variance within each cell does to the coordinates; `runs` has replicates and no block.

    Cells with one run are taken to be as noisy as the others are on average.
    """
    df_c, squares_c = runs.counts_cxb.sum(axis=1) - 1.0, runs.within_ss_c
    known_c: NDArray[np.bool_] = df_c > 0
    known = int(known_c.sum())
    pooled = float(squares_c.sum() / df_c.sum())
    sd_c = np.sqrt(np.where(known_c, squares_c / np.maximum(df_c, 1), pooled))
    source_c: NDArray[np.intp] = np.full(len(df_c), known, dtype=np.intp)
    source_c[known_c] = np.arange(known)
    df_s: Floats = np.array([*df_c[known_c], df_c.sum()])
    return Scatter(sd_c[:, None] * fit.basis_gxr, source_c, df_s, "the spread within each cell")
