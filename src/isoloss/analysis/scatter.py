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

ALONE = 1e-9
"""The share of a direction that other blocks determine as well, below which one alone does."""


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

    `source_i` numbers what each of the i rows was estimated from; `df_s` are the degrees of freedom of each such
    source, but those of the first are what `design`, where there is one, leaves to a contrast.
    """

    rows_ixr: Floats
    source_i: NDArray[np.intp]
    df_s: Floats
    name: str
    design: BlockDesign | None = None

    def variance(self, weights_r: Floats) -> tuple[float, float]:
        """The variance of a contrast and its degrees of freedom (Satterthwaite 1946)."""
        return self._pooled((self.rows_ixr @ weights_r) ** 2, weights_r[:, None])

    def test(self, added_rxd: Floats, squares: float) -> FTest:
        """F of a term that adds d orthonormal directions, and its sum of squares, to the model.

        Its expectation under the null is 1 whatever the variances; both degrees of freedom are those at which F has
        the right variance (Box 1954; with blocks Greenhouse and Geisser 1959, with cells Brunner, Dette and Munk 1997).
        """
        rows_ixd = self.rows_ixr @ added_rxd
        of_blocks = _dimensions(rows_ixd[self.source_i == 0]) if self.design else 1.0
        total, error_df = self._pooled((rows_ixd**2).sum(axis=1), added_rxd, of_blocks)
        return FTest(squares / total, _dimensions(rows_ixd), error_df)

    def mean_square(self, added_rxd: Floats) -> tuple[float, float]:
        """The variance of a direction of a term on average, and the degrees of freedom of all of them together."""
        d = added_rxd.shape[1]
        total, df = self._pooled(((self.rows_ixr @ added_rxd) ** 2).sum(axis=1), added_rxd, d)
        return total / d, df

    def _pooled(self, part_i: Floats, weights_rxd: Floats, times: float = 1.0) -> tuple[float, float]:
        """The sum of parts and its degrees of freedom; those between blocks come `times` over, for each contrast."""
        df_s = self.df_s
        if self.design is not None:
            df_s = np.append(times * self.design.df(weights_rxd), df_s[1:])
        part_s = np.bincount(self.source_i, part_i, minlength=len(df_s))
        total, largest = float(part_s.sum()), float(part_s.max())
        if largest == 0.0:
            return 0.0, float(df_s.max())
        return total, (total / largest) ** 2 / float(((part_s / largest) ** 2 / df_s).sum())


def _dimensions(rows_ixd: Floats) -> float:
    """How many equal variances, alike in mean and spread to their own, d correlated variables have (Box 1954)."""
    size = float(np.abs(rows_ixd).max(initial=0.0)) or 1.0
    covariance_dxd = (rows_ixd / size).T @ (rows_ixd / size)
    squares = float((covariance_dxd**2).sum())
    return round(float(np.trace(covariance_dxd)) ** 2 / squares, 9) if squares else 1.0


@dataclass(frozen=True)
class BlockDesign:
    """What b blocks tell of the r coordinates: Aᵦ = XᵦᵀXᵦ, and Aᵦ(I − Aᵦ)^(-1/2), without what block b alone tells.

    Both are None where all blocks tell alike.
    """

    blocks: int
    told_bxrxr: Floats | None = None
    pushed_bxrxr: Floats | None = None

    def df(self, weights_rxd: Floats) -> float:
        """Degrees of freedom of the variance between blocks, a contrast on average (Bell and McCaffrey 2002).

        Those of Satterthwaite for equal noise: blocks − 1 in a balanced table, fewer where a contrast rests on some.
        """
        if self.told_bxrxr is None or self.pushed_bxrxr is None:
            return self.blocks - 1.0
        pushed_bxrxd = self.pushed_bxrxr @ weights_rxd
        covariance_dxbxb = -np.einsum("brd,crd->dbc", pushed_bxrxd, pushed_bxrxd)
        own_dxb = np.einsum("rd,brd->db", weights_rxd, self.told_bxrxr @ weights_rxd)
        diagonal = np.arange(self.blocks)
        covariance_dxbxb[:, diagonal, diagonal] = own_dxb
        squares, contrasts = float((covariance_dxbxb**2).sum()), weights_rxd.shape[1]
        return round(float(own_dxb.sum()) ** 2 / squares / contrasts, 9) if squares > 0 else 1.0  # 4, not 4.000…01


def scatter_between_blocks(runs: FactorialTable, fit: TwoFactorFit) -> Scatter:
    """What the residuals of each block do to the coordinates; `runs` has two blocks or more.

    Block b gives (I − XᵦᵀXᵦ)^(-1/2) Xᵦᵀeᵦ, where Xᵦ are its rows of the orthonormal design and eᵦ its residuals:
    without bias where runs are equally noisy (Bell and McCaffrey 2002). Directions that one block alone determines, as
    of a level with a single run, have no residual; they are taken to vary as all others do on average.
    """
    left_g, r = fit.observed_g - fit.basis_gxr @ fit.response_r, len(fit.response_r)
    blocks = int(runs.counts_cxb.shape[1])
    if np.ptp(runs.counts_cxb) == 0:  # Aᵦ = I / blocks
        own_bxr = np.array([left_g[of] @ fit.basis_gxr[of] for of in (fit.block_g == b for b in range(blocks))])
        rows_bxr, source_b = own_bxr / math.sqrt(1 - 1 / blocks), np.zeros(blocks, dtype=np.intp)
        return Scatter(rows_bxr, source_b, np.full(1, blocks - 1.0), str(runs.block), BlockDesign(blocks))
    rows: list[Floats] = []
    alone: list[Floats] = []
    told_bxrxr, pushed_bxrxr = np.zeros((blocks, r, r)), np.zeros((blocks, r, r))
    for block in range(blocks):
        own_gxr = fit.basis_gxr[fit.block_g == block]
        rest_r, axes_rxr = np.linalg.eigh(np.eye(r) - own_gxr.T @ own_gxr)
        known = rest_r > ALONE
        rest_k, axes_rxk = rest_r[known], axes_rxr[:, known]
        rows.append(axes_rxk @ ((own_gxr @ axes_rxk).T @ left_g[fit.block_g == block] / np.sqrt(rest_k)))
        told_bxrxr[block] = axes_rxk * (1 - rest_k) @ axes_rxk.T
        pushed_bxrxr[block] = axes_rxk * ((1 - rest_k) / np.sqrt(rest_k)) @ axes_rxk.T
        alone += list(axes_rxr[:, ~known].T)
    average = math.sqrt(sum(float(row @ row) for row in rows) / max(r - len(alone), 1))
    rows_ixr = np.stack([*rows, *(average * axis for axis in alone)])
    source_i = np.repeat(np.arange(2, dtype=np.intp), [blocks, len(alone)])
    return Scatter(
        rows_ixr, source_i, np.full(2, blocks - 1.0), str(runs.block), BlockDesign(blocks, told_bxrxr, pushed_bxrxr)
    )


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
