"""What the fitted model of a factorial leaves of each run: fitted value, residual and leverage, from the fit itself."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from isoloss.analysis.factorial import Floats, TwoFactorFit
from isoloss.analysis.factorial_table import FactorialTable

Model = Literal["main effects and two-factor interactions", "main effects"]
MIN_DF = 2
"""Residual degrees of freedom: a run is held against what the others leave, which is one less."""
SATURATED = 1e-6
"""Of a run: the share of its own noise left in its residual, below which the fit passes through it."""


@dataclass(frozen=True)
class RunResiduals:
    """Of n runs what a model leaves, on `df` degrees of freedom; `free_n` is one minus a run's leverage.

    `basis_gxr` has the model's orthonormal axes a group of runs; those of blocks, orthogonal to them, are left out.
    """

    runs: FactorialTable
    model: Model
    df: int
    fitted_n: Floats
    residual_n: Floats
    free_n: Floats
    basis_gxr: Floats

    @property
    def studentized_n(self) -> Floats:
        """Residuals over their standard error by all other runs (externally studentized: Cook and Weisberg 1982).

        t on df - 1 degrees of freedom; NaN where the fit passes through a run.
        """
        told_n = (self.free_n > SATURATED) & (self.df >= MIN_DF)
        squares_n = self.residual_n**2 / np.where(told_n, self.free_n, 1.0)
        rest_n = np.maximum(float(self.residual_n @ self.residual_n) - squares_n, self.runs.rounding**2)
        size_n = np.sqrt(squares_n / np.where(rest_n > 0, rest_n, 1.0) * max(self.df - 1, 1))
        return np.where(told_n, np.sign(self.residual_n) * size_n, np.nan)

    def shared_with(self, run: int) -> Floats:
        """Covariances of all residuals with that of a run, in units of the error variance."""
        n_gxb, group = self.runs.counts_cxb, int(self.runs.group_n[run])
        block_g = np.tile(np.arange(n_gxb.shape[1], dtype=np.intp), len(n_gxb))
        roots_g = np.sqrt(np.maximum(n_gxb.ravel(), 1.0))
        hat_g = self.basis_gxr @ self.basis_gxr[group] / roots_g / roots_g[group]
        hat_g += (block_g == block_g[group]) / n_gxb.sum(axis=0)[block_g]
        shared_n = -hat_g[self.runs.group_n]
        shared_n[run] += 1.0
        return shared_n


def run_residuals(runs: FactorialTable, fit: TwoFactorFit) -> RunResiduals:
    """Residuals of the fitted model; of main effects alone where interactions leave nothing to judge a run by."""
    counts_cxb, means_cxb = runs.counts_cxb, runs.means_cxb
    basis_gxr, response_r, df = fit.basis_gxr, fit.response_r, fit.residual.df
    model: Model = "main effects and two-factor interactions"
    mains = sum(slice_.stop - slice_.start for term, slice_ in fit.columns.items() if len(term) == 1)
    kept = int(np.linalg.matrix_rank(fit.coordinates_rxt[:, :mains]))  # the axes of main effects come first
    if df < MIN_DF <= df + len(response_r) - kept:
        basis_gxr, response_r, df = basis_gxr[:, :kept], response_r[:kept], df + len(response_r) - kept
        model = "main effects"
    roots_cxb = np.sqrt(np.maximum(counts_cxb, 1.0))
    mean_b = (counts_cxb * means_cxb).sum(axis=0) / counts_cxb.sum(axis=0)
    fitted_cxb = mean_b + (basis_gxr @ response_r).reshape(counts_cxb.shape) / roots_cxb
    leverage_cxb = 1 / counts_cxb.sum(axis=0) + (basis_gxr**2).sum(axis=1).reshape(counts_cxb.shape) / roots_cxb**2
    at: NDArray[np.intp] = runs.group_n
    fitted_n = fitted_cxb.ravel()[at]
    return RunResiduals(runs, model, df, fitted_n, runs.response_n - fitted_n, 1 - leverage_cxb.ravel()[at], basis_gxr)
