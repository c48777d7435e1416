"""Scaling laws as functions: L = E + A/N^α + B/D^β and its kin, their parameters and derivatives.

Everything is computed on logarithms centred at the data, log L = LSE(a − α ln N, b − β ln D, e), as in Hoffmann et
al. (2022, "Training Compute-Optimal Large Language Models", appendix D.2); centring keeps scales and exponents apart
numerically.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]
Form = Literal["LND", "LN", "LD", "LC"]

AXES: dict[Form, tuple[str, ...]] = {"LND": ("N", "D"), "LN": ("N",), "LD": ("D",), "LC": ("C",)}
"""The variables each form depends on (parameters N, tokens D, compute C), in the order of its terms."""

FORMULAS: dict[Form, str] = {
    "LND": "L = E + A/N^α + B/D^β",
    "LN": "L = E + A/N^α",
    "LD": "L = E + B/D^β",
    "LC": "L = E + A/C^α",
}

SUMMARY_COLUMNS = {"N": "params_non_embedding", "D": "train_tokens", "C": "train_flops", "loss": "final_val_loss"}
"""Where a study's summary has each variable and the loss."""

NAMES: dict[str, tuple[str, str]] = {"N": ("A", "alpha"), "D": ("B", "beta"), "C": ("A", "alpha")}
"""Scale and exponent of the term of each variable, as published."""

FLOPS_PER_PARAMETER_TOKEN = 6.0
"""k in C = k·N·D, forward and backward (Kaplan et al. 2020)."""
EXPONENTS = ("alpha", "beta")
MIN_EXPONENT, MAX_EXPONENT = 0.01, 3.0
MIN_FLOOR_SHARE = 1e-3
"""The floor's lower bound, as a share of the lowest loss: below it, the data show no floor."""


@dataclass(frozen=True)
class Law:
    """A form over K variables on n rows of data.

    Its p parameters θ are the K terms' log sizes at the data's centre, their exponents, and log E if there is a floor.
    """

    form: Form
    floor: bool
    x_Kxn: Floats
    """Centred logarithms of each variable."""
    centre_k: Floats
    y_n: Floats
    """Log losses."""

    @property
    def n_terms(self) -> int:
        """K."""
        return len(self.x_Kxn)

    @property
    def n_parameters(self) -> int:
        """p, with the floor if there is one."""
        return 2 * self.n_terms + self.floor

    @property
    def formula(self) -> str:
        """The law in words."""
        return FORMULAS[self.form] if self.floor else FORMULAS[self.form].replace("E + ", "")

    @property
    def names(self) -> list[str]:
        """Published names of the parameters in the order of θ."""
        scales, exponents = zip(*(NAMES[axis] for axis in AXES[self.form]), strict=True)
        return [*scales, *exponents, *(["E"] if self.floor else [])]

    def bounds(self) -> tuple[Floats, Floats]:
        """Lower and upper bounds of θ, shape [p] each."""
        k = self.n_terms
        low_size, high_size = np.log(1e-6) + self.y_n.min(), np.log(10.0) + self.y_n.max()
        low = [low_size] * k + [MIN_EXPONENT] * k + [np.log(MIN_FLOOR_SHARE) + self.y_n.min()] * self.floor
        high = [high_size] * k + [MAX_EXPONENT] * k + [self.y_n.max()] * self.floor
        return np.array(low), np.array(high)

    def log_loss(self, theta_p: Floats, x_Kxn: Floats) -> tuple[Floats, Floats]:
        """Predicted log losses at centred logarithms, shape [n], and their derivatives by θ, shape [n, p]."""
        k = self.n_terms
        terms_Txn = theta_p[:k, None] - theta_p[k : 2 * k, None] * x_Kxn
        if self.floor:
            terms_Txn = np.vstack([terms_Txn, np.full(x_Kxn.shape[1], theta_p[-1])])
        top_n = terms_Txn.max(axis=0)
        shares_Txn = np.exp(terms_Txn - top_n)
        total_n = shares_Txn.sum(axis=0)
        shares_Txn /= total_n
        jacobian_pxn = np.vstack([shares_Txn[:k], -shares_Txn[:k] * x_Kxn, shares_Txn[k:]])
        return top_n + np.log(total_n), jacobian_pxn.T

    def centred(self, point_k: Floats) -> Floats:
        """A point's variables as centred logarithms, shape [k, 1]."""
        return (np.log(point_k) - self.centre_k)[:, None]

    def published(self, theta_p: Floats) -> tuple[Floats, Floats]:
        """log A, log B, exponents and log E from θ, shape [p], and the matrix that takes θ to them, [p, p]."""
        k = self.n_terms
        matrix_pxp = np.eye(self.n_parameters)
        matrix_pxp[np.arange(k), k + np.arange(k)] = self.centre_k
        return matrix_pxp @ theta_p, matrix_pxp


def make_law(form: Form, floor: bool, variables_Kxn: Floats, loss_n: Floats) -> Law:
    """A law on data: positive variables, shape [k, n], and losses, shape [n]."""
    logs_Kxn = np.log(variables_Kxn)
    centre_k = logs_Kxn.mean(axis=1)
    return Law(form, floor, logs_Kxn - centre_k[:, None], centre_k, np.log(loss_n))
