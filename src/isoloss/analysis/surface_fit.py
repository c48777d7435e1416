"""Least squares shrunk group by group: the noise and each group's size are what makes the data most probable.

Coefficients of a group share a normal prior about zero; its variance is found by MacKay's fixed point (1992; Tipping
2001), so that groups which explain nothing vanish and the others are hardly shrunk. The number of columns may exceed
that of rows.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from isoloss.analysis.factorial import Floats

ROUNDS = 60
GONE = 1e-7
"""A group's prior variance over that of the response, below which it has vanished."""


@dataclass(frozen=True)
class ShrunkFit:
    """Coefficients of t centred columns: their mean and covariance given the data, and the variance of the noise.

    `used` is how many parameters the data determine; `leverage_n` how far each row's fit follows its own response.
    """

    mean_t: Floats
    covariance_txt: Floats
    noise: float
    used: float
    leverage_n: Floats


def fit_shrunk(x_nxt: Floats, y_n: Floats, group_t: NDArray[np.intp]) -> ShrunkFit:
    """Fit centred columns to a centred response; `group_t` numbers the group of each column from 0."""
    n, columns = x_nxt.shape
    rows_nxt, target_n, missed = x_nxt, y_n, 0.0
    if n > columns:  # the same likelihood in as many rows as columns
        basis_nxt, rows_nxt = np.linalg.qr(x_nxt)
        target_n = basis_nxt.T @ y_n
        missed = max(float(y_n @ y_n - target_n @ target_n), 0.0)
    groups, total = int(group_t.max()) + 1, float(y_n @ y_n) / n
    prior_g, noise = np.full(groups, total / groups), 0.5 * total
    mean_t, kept_t = np.zeros(columns), np.zeros(columns)
    for _ in range(ROUNDS):
        prior_t = prior_g[group_t]
        kernel = (rows_nxt * prior_t) @ rows_nxt.T + noise * np.eye(len(target_n))
        solved = np.asarray(np.linalg.solve(kernel, np.column_stack([target_n, rows_nxt])), dtype=np.float64)
        mean_t = prior_t * (rows_nxt.T @ solved[:, 0])
        kept_t = prior_t * (rows_nxt * solved[:, 1:]).sum(axis=0)
        squares_g, kept_g = np.bincount(group_t, mean_t**2), np.bincount(group_t, kept_t)
        prior_g = np.where(prior_g > GONE * total, squares_g / np.maximum(kept_g, 1e-12), 0.0)
        left_n = target_n - rows_nxt @ mean_t
        noise = max((float(left_n @ left_n) + missed) / max(n - 1 - float(kept_t.sum()), 1.0), 1e-12 * total)
    prior_t = prior_g[group_t]
    kernel = (rows_nxt * prior_t) @ rows_nxt.T + noise * np.eye(len(target_n))
    scaled_nxt = rows_nxt * prior_t
    covariance_txt = np.diag(prior_t) - scaled_nxt.T @ np.asarray(np.linalg.solve(kernel, scaled_nxt), dtype=np.float64)
    leverage_n = (x_nxt @ covariance_txt * x_nxt).sum(axis=1) / noise + 1 / n
    mean_t = covariance_txt @ (x_nxt.T @ y_n) / noise
    return ShrunkFit(mean_t, covariance_txt, noise, float(kept_t.sum()), np.minimum(leverage_n, 1 - 1e-9))
