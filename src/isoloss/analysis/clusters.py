"""Rows that share an error, as the checkpoints of one run do: errors and bootstrap by whole clusters.

The sandwich is CR3, each cluster's residuals divided by what the fit leaves free of them, which is the jackknife that
deletes one cluster at a time (Bell and McCaffrey 2002); the bootstrap is the wild one, with six-point weights a
cluster (Webb 2014; Cameron, Gelbach and Miller 2008).
"""

from __future__ import annotations

from collections.abc import Sequence
from math import sqrt

import numpy as np
import polars as pl

from isoloss.analysis.cells import Codes
from isoloss.analysis.laws import Floats
from isoloss.analysis.roles import names_runs
from isoloss.diagnostic import Diagnostic
from isoloss.errors import ConfigError
from isoloss.wording import counted, listed

FEWEST_CLUSTERS = 3
FEW_CLUSTERS = 6
"""Fewer clusters than this leave intervals with little to stand on."""
NOT_FREE = 1e-6
"""Directions of a cluster's residuals of which the fit leaves less than this share are left out."""
WEBB = np.array([-sqrt(1.5), -1.0, -sqrt(0.5), sqrt(0.5), 1.0, sqrt(1.5)])


def cluster_codes(column: pl.Series) -> Codes:
    """The cluster of each row, shape [n], counted from 0. Raises ConfigError with fewer than three."""
    code_n = (column.rank("dense").to_numpy() - 1).astype(np.intp)
    if int(code_n.max()) + 1 < FEWEST_CLUSTERS:
        text = f"--cluster {column.name}: {counted(int(code_n.max()) + 1, 'value')}; {FEWEST_CLUSTERS} are needed"
        raise ConfigError(text, (column.name,))
    return code_n


def freed_residuals(residuals_n: Floats, jacobian_nxp: Floats, cluster_n: Codes) -> Floats:
    """Residuals as if each cluster had not been fitted: (I − H_gg)⁻¹ r_g for each cluster g, shape [n]."""
    width_p = np.linalg.norm(jacobian_nxp, axis=0)
    basis_nxp, _ = np.linalg.qr(jacobian_nxp / width_p)
    freed_n = np.empty_like(residuals_n)
    for cluster in range(int(cluster_n.max()) + 1):
        rows = np.flatnonzero(cluster_n == cluster)
        directions_nxp, sizes_p, _ = np.linalg.svd(basis_nxp[rows], full_matrices=False)
        free_p = 1 - sizes_p**2
        along_p = directions_nxp.T @ residuals_n[rows]
        gain_p = np.where(free_p > NOT_FREE, 1 / np.maximum(free_p, NOT_FREE), 0.0) - 1
        freed_n[rows] = residuals_n[rows] + directions_nxp @ (gain_p * along_p)
    return freed_n


def clustered_covariance(residuals_n: Floats, jacobian_nxp: Floats, cluster_n: Codes) -> Floats:
    """CR3 covariance of least squares, shape [p, p]."""
    width_p = np.linalg.norm(jacobian_nxp, axis=0)
    unit_nxp = jacobian_nxp / width_p
    n_clusters = int(cluster_n.max()) + 1
    freed_n = freed_residuals(residuals_n, jacobian_nxp, cluster_n)
    score_nxp = unit_nxp * freed_n[:, None]
    score_gxp = np.array([score_nxp[cluster_n == cluster].sum(axis=0) for cluster in range(n_clusters)])
    bread_pxp = np.asarray(np.linalg.inv(unit_nxp.T @ unit_nxp), dtype=np.float64)
    covariance_pxp = bread_pxp @ (score_gxp.T @ score_gxp) @ bread_pxp * (n_clusters - 1) / n_clusters
    return covariance_pxp / np.outer(width_p, width_p)


def cluster_doubts(table: pl.DataFrame, cluster: str | None, others: Sequence[str]) -> list[Diagnostic]:
    """A caution where a column names runs of several rows and is not the cluster, or where clusters are few."""
    if cluster is not None:
        found = table[cluster].n_unique()
        text = f"Intervals rest on {counted(found, 'cluster')} of {cluster}; errors of so few are uncertain themselves."
        return [Diagnostic("few_clusters", "limits", text)] if found < FEW_CLUSTERS else []
    runs = [
        name
        for name in table.columns
        if name not in others and names_runs(name) and 1 < table[name].n_unique() <= len(table) / 2
    ]
    if not runs:
        return []
    rows = len(table) / table[runs[0]].n_unique()
    text = (
        f"Rows of equal {listed(runs)} share its error: {rows:.3g} rows each on average. Intervals take rows for "
        "runs of their own and are too narrow."
    )
    return [Diagnostic("rows_share_runs", "limits", text, f"Name the column: --cluster {runs[0]}.")]
