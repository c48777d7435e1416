"""Scaling laws as data: their terms, parameters and derivatives; L = E + A/N^α + B/D^β and its kin.

Everything is computed on logarithms centred at the data, log L = ρ · LSE(s_t − Σ e_v·ln v / ρ) over the terms t, as in
Hoffmann et al. (2022, "Training Compute-Optimal Large Language Models", appendix D.2), who have ρ = 1; centring keeps
scales and exponents apart numerically.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Literal

import numpy as np
import polars as pl
from numpy.typing import NDArray

from isoloss.analysis.repetition import optimal_size, worth
from isoloss.study.datasets import compared_loss, datasets_in

Floats = NDArray[np.float64]
Form = Literal["LND", "LN", "LD", "LC", "LNDX", "LNDU", "LNDUN", "LNDK"]


@dataclass(frozen=True)
class Term:
    """scale / Π variable^exponent, with the names of its scale and of each variable's exponent."""

    scale: str
    exponents: Mapping[str, str]


@dataclass(frozen=True)
class Shape:
    """A form: its formula in words, its terms, the exponent of their sum if it has one, and rates of repetition.

    With R, D is replaced by what repeated tokens are worth beside the unique ones, U. With RN besides, N is replaced by
    what parameters are worth beside those that are compute-optimal for U. See repetition.py.
    """

    formula: str
    terms: tuple[Term, ...]
    power: str | None = None
    repeats: tuple[str, ...] = ()


_IN_N, _IN_D = Term("A", {"N": "alpha"}), Term("B", {"D": "beta"})
SHAPES: dict[Form, Shape] = {
    "LND": Shape("L = E + A/N^α + B/D^β", (_IN_N, _IN_D)),
    "LN": Shape("L = E + A/N^α", (_IN_N,)),
    "LD": Shape("L = E + B/D^β", (_IN_D,)),
    "LC": Shape("L = E + A/C^α", (Term("A", {"C": "alpha"}),)),
    "LNDX": Shape("L = E + A/N^α + B/D^β + G/(N^α·D^β)", (_IN_N, _IN_D, Term("G", {"N": "alpha", "D": "beta"}))),
    "LNDU": Shape("L = E + A/N^α + B/D'^β, D' = U·(1 + R·(1 − e^(−(D/U − 1)/R)))", (_IN_N, _IN_D), repeats=("R",)),
    "LNDUN": Shape(
        "L = E + A/N'^α + B/D'^β, D' as in LNDU, N' = n·(1 + RN·(1 − e^(−(N/n − 1)/RN))), n optimal for U",
        (_IN_N, _IN_D),
        repeats=("R", "RN"),
    ),
    "LNDK": Shape("L = ((Nc/N)^(α/β) + Dc/D)^β", (Term("Nc", {"N": "alpha"}), Term("Dc", {"D": "beta"})), "beta"),
}
"""LND: Hoffmann et al. (2022); LNDUN: Muennighoff et al. (2023), of which LNDU leaves the N term as it is; LNDK: Kaplan
et al. (2020, equation 1.5)."""

AXES: dict[Form, tuple[str, ...]] = {
    form: tuple(dict.fromkeys(variable for term in shape.terms for variable in term.exponents))
    for form, shape in SHAPES.items()
}
"""The variables whose exponents each form has (parameters N, tokens D, compute C), in the order of its terms."""
VARIABLES: dict[Form, tuple[str, ...]] = {
    form: (*AXES[form], "U") if shape.repeats else AXES[form] for form, shape in SHAPES.items()
}
"""All that each form depends on, with unique tokens U."""

SUMMARY_COLUMNS = {"N": "params_non_embedding", "D": "train_tokens", "C": "train_flops", "loss": "final_val_loss"}
"""Where a study's summary has each variable and the loss."""
UNIQUE_TOKENS = "unique_tokens"


def summary_columns(table: pl.DataFrame) -> dict[str, str]:
    """The same for one summary, in the unit in which its losses compare, with unique tokens where they are known."""
    unique = {"U": UNIQUE_TOKENS} if UNIQUE_TOKENS in table.columns and table[UNIQUE_TOKENS].null_count() == 0 else {}
    return {**SUMMARY_COLUMNS, "loss": f"final_{compared_loss(datasets_in(table))}", **unique}


EXPONENT_OF: dict[str, str] = {"N": "alpha", "D": "beta", "C": "alpha"}
"""The exponent of each variable, as published."""

EXPONENTS = ("alpha", "beta")
ORDER = ("E", "A", "B", "G", "Nc", "Dc", "R", "RN", "alpha", "beta")
MIN_EXPONENT, MAX_EXPONENT = 0.01, 3.0
MIN_FLOOR_SHARE = 1e-3
"""The floor's lower bound, as a share of the lowest loss: below it, the data show no floor."""
START_REPEATS = 10.0
"""R and RN to start from; Muennighoff et al. (2023) find 15 and 5."""


@dataclass(frozen=True)
class Restrictions:
    """Parameters that are not estimated: `fixed` at published values, or `tied`, an exponent equal to another."""

    fixed: Mapping[str, float]
    tied: Mapping[str, str]


FREE = Restrictions({}, {})


@dataclass(frozen=True)
class Law:
    """A form over K variables on n rows of data.

    Its parameters are the terms' log sizes at the data's centre, the exponents, log R and log E where it has them; θ
    are the p of them that are estimated.
    """

    form: Form
    floor: bool
    x_Kxn: Floats
    """Centred logarithms of each variable."""
    centre_k: Floats
    y_n: Floats
    """Log losses."""
    restrictions: Restrictions = FREE
    weight_n: Floats | None = None
    """Inverse variances, 1 on average; None where all rows are alike."""

    @property
    def shape(self) -> Shape:
        """The form's terms."""
        return SHAPES[self.form]

    @property
    def n_terms(self) -> int:
        """Terms besides the floor."""
        return len(self.shape.terms)

    @property
    def n_parameters(self) -> int:
        """p, with the floor if there is one."""
        return len(self.free_names)

    @property
    def formula(self) -> str:
        """The law in words."""
        return self.shape.formula if self.floor else self.shape.formula.replace("E + ", "")

    @cached_property
    def names(self) -> list[str]:
        """Published names of all parameters, in order."""
        exponents = [EXPONENT_OF[axis] for axis in AXES[self.form]]
        scales = [term.scale for term in self.shape.terms]
        return [*scales, *exponents, *self.shape.repeats, *(["E"] if self.floor else [])]

    @cached_property
    def free_names(self) -> list[str]:
        """Names of the parameters θ that are estimated."""
        return [name for name in self.names if not {name} & {*self.restrictions.fixed, *self.restrictions.tied}]

    @cached_property
    def _free(self) -> tuple[Floats, Floats]:
        """All parameters are the first, [a], plus the second, [a, p], times θ."""
        names, eye = self.names, np.eye(len(self.names))
        offset_a, matrix_axa = np.zeros(len(names)), eye.copy()
        for name, value in self.restrictions.fixed.items():
            if name not in names:
                continue
            i = names.index(name)
            offset_a[i], matrix_axa[i] = value if name in EXPONENTS else np.log(value), 0.0
        for name, other in self.restrictions.tied.items():
            i, j = names.index(name), names.index(other)
            offset_a[i], matrix_axa[i] = offset_a[j], matrix_axa[j]
        for i, term in enumerate(self.shape.terms):
            if term.scale in self.restrictions.fixed:  # its size at the centre follows from the exponents
                for variable, exponent in term.exponents.items():
                    centre, j = self.centre_k[AXES[self.form].index(variable)], names.index(exponent)
                    offset_a[i] -= centre * offset_a[j]
                    matrix_axa[i] -= centre * matrix_axa[j]
        return offset_a, matrix_axa[:, [names.index(name) for name in self.free_names]]

    @cached_property
    def _all_free(self) -> bool:
        return len(self.free_names) == len(self.names)

    @cached_property
    def _uses(self) -> Floats:
        """Which variables each term holds, 1 or 0, shape [T, k]."""
        return np.array([[float(axis in term.exponents) for axis in AXES[self.form]] for term in self.shape.terms])

    def parameters(self, theta_p: Floats) -> Floats:
        """All parameters from θ, shape [a]."""
        if self._all_free:
            return theta_p
        offset_a, matrix_axp = self._free
        return offset_a + theta_p @ matrix_axp.T

    def bounds(self) -> tuple[Floats, Floats]:
        """Lower and upper bounds of θ, shape [p] each."""
        t, k = self.n_terms, len(AXES[self.form])
        low_size, high_size = np.log(1e-6) + self.y_n.min(), np.log(10.0) + self.y_n.max()
        if self.shape.power is not None:  # sizes of what is raised to a small power
            low_size, high_size = -300.0, 300.0
        repeats = [(np.log(1e-2), np.log(1e4))] * len(self.shape.repeats)
        floor = [(np.log(MIN_FLOOR_SHARE) + self.y_n.min(), self.y_n.max())] if self.floor else []
        every = [(low_size, high_size)] * t + [(MIN_EXPONENT, MAX_EXPONENT)] * k + repeats + floor
        low_a, high_a = np.array(every).T
        free = [self.names.index(name) for name in self.free_names]
        return low_a[free], high_a[free]

    def log_loss(self, theta_p: Floats, x_Kxn: Floats) -> tuple[Floats, Floats]:
        """Predicted log losses at centred logarithms, shape [n], and their derivatives by θ, shape [n, p].

        Of several θ, [s, p], they are of the shapes [s, n] and [s, n, p].
        """
        value_a, shape, t = self.parameters(theta_p), self.shape, self.n_terms
        axes = AXES[self.form]
        exponent_k = value_a[..., t : t + len(axes)]
        seen_Kxn, by_parameter_kxaxn = x_Kxn[: len(axes)], None
        if shape.repeats:
            seen_Kxn, by_parameter_kxaxn = self._worth(value_a, x_Kxn)
        powered = [i for i, axis in enumerate(axes) if EXPONENT_OF[axis] == shape.power]
        power_1x1 = exponent_k[..., powered, None] if powered else 1.0
        uses_Txk = self._uses
        falls_Txn = (uses_Txk * exponent_k[..., None, :]) @ seen_Kxn
        terms_Txn = np.repeat(value_a[..., -1:, None], falls_Txn.shape[-1], axis=-1)
        terms_Txn = np.concatenate(
            [value_a[..., :t, None] - falls_Txn / power_1x1, terms_Txn[..., : self.floor, :]], -2
        )
        top_n = terms_Txn.max(axis=-2, keepdims=True)
        shares_Txn = np.exp(terms_Txn - top_n)
        total_n = shares_Txn.sum(axis=-2, keepdims=True)
        shares_Txn /= total_n
        log_1xn = top_n + np.log(total_n)
        by_exponent_kxn = -(uses_Txk.T @ shares_Txn[..., :t, :]) * seen_Kxn
        if powered:
            own_1xn = log_1xn + (shares_Txn[..., :t, :] * falls_Txn).sum(axis=-2, keepdims=True) / power_1x1
            by_exponent_kxn[..., powered, :] += own_1xn
        rates_rxn = np.zeros((*log_1xn.shape[:-2], len(shape.repeats), log_1xn.shape[-1]))
        rows = [power_1x1 * shares_Txn[..., :t, :], by_exponent_kxn, rates_rxn, shares_Txn[..., t:, :]]
        jacobian_axn = np.concatenate(rows, axis=-2)
        if by_parameter_kxaxn is not None:
            by_seen_kxn = -exponent_k[..., None] * (uses_Txk.T @ shares_Txn[..., :t, :])
            jacobian_axn += (by_seen_kxn[..., None, :] * by_parameter_kxaxn).sum(axis=-3)
        jacobian_nxa = jacobian_axn.swapaxes(-1, -2)
        log_n = (power_1x1 * log_1xn)[..., 0, :]
        return log_n, jacobian_nxa if self._all_free else jacobian_nxa @ self._free[1]

    def _worth(self, value_a: Floats, x_Kxn: Floats) -> tuple[Floats, Floats]:
        """Centred logs of what N and D are worth, [2, n], and their derivatives by all parameters, [2, a, n]."""
        named = {name: value_a[..., i, None] for i, name in enumerate(self.names)}
        unique_n = np.minimum(x_Kxn[2] + self.centre_k[2] - self.centre_k[1], x_Kxn[1])
        tokens_n, by_rate_n, _ = worth(x_Kxn[1], unique_n, np.exp(named["R"]))
        size_n = np.broadcast_to(x_Kxn[0], tokens_n.shape)
        derivative_kxaxn = np.zeros((*value_a.shape[:-1], 2, len(self.names), x_Kxn.shape[1]))
        derivative_kxaxn[..., 1, self.names.index("R"), :] = by_rate_n
        if "RN" in self.shape.repeats:
            optimal_n, by_optimal = optimal_size(named, unique_n)
            size_n, by_rate_n, by_base_n = worth(x_Kxn[0], np.minimum(x_Kxn[0], optimal_n), np.exp(named["RN"]))
            derivative_kxaxn[..., 0, self.names.index("RN"), :] = by_rate_n
            for name, slope_n in by_optimal.items():
                derivative_kxaxn[..., 0, self.names.index(name), :] = by_base_n * slope_n
        return np.stack([size_n, tokens_n], axis=-2), derivative_kxaxn

    def centred(self, point_k: Floats) -> Floats:
        """A point's variables as centred logarithms, shape [k, 1]."""
        return (np.log(point_k) - self.centre_k)[:, None]

    def published(self, theta_p: Floats) -> Floats:
        """log scales, exponents, log R and log E from θ, shape [a], in the order of `names`."""
        value_a = self.parameters(theta_p).copy()
        exponent_of = dict(zip(self.names, value_a.tolist(), strict=True))
        power = exponent_of[self.shape.power] if self.shape.power else 1.0
        for i, term in enumerate(self.shape.terms):
            falls = [exponent_of[name] / power for name in term.exponents.values()]
            centres = [self.centre_k[AXES[self.form].index(variable)] for variable in term.exponents]
            value_a[i] += float(np.dot(falls, centres))
            if self.shape.power:
                value_a[i] /= falls[0]
        return value_a

    @property
    def additive(self) -> Law:
        """The law without restrictions whose terms add up and hold one variable each, from which starts are made."""
        form: Form = "LND" if len(AXES[self.form]) == 2 else self.form
        x_Kxn = self.x_Kxn[: len(AXES[form])]
        return replace(self, form=form, x_Kxn=x_Kxn, restrictions=FREE)

    def start(self, additive_a: Floats) -> Floats:
        """θ near the parameters of the additive law, shape [p]."""
        known = dict(zip(self.additive.names, additive_a.tolist(), strict=True))
        if self.shape.power:
            power = known["beta"]
            known |= {"Nc": known["A"] / power, "Dc": known["B"] / power}
        if "G" in self.names:
            known["G"] = min(known["A"], known["B"]) - np.log(10.0)
        known |= dict.fromkeys(self.shape.repeats, np.log(START_REPEATS))
        return np.array([known[name] for name in self.free_names])


def make_law(
    form: Form,
    floor: bool,
    variables_Kxn: Floats,
    loss_n: Floats,
    restrictions: Restrictions = FREE,
    weight_n: Floats | None = None,
) -> Law:
    """A law on data: positive variables, shape [k, n], losses, shape [n], and weights, of which ratios alone count."""
    logs_Kxn = np.log(variables_Kxn)
    centre_k = logs_Kxn.mean(axis=1)
    scaled_n = None if weight_n is None else weight_n / weight_n.mean()
    return Law(form, floor, logs_Kxn - centre_k[:, None], centre_k, np.log(loss_n), restrictions, scaled_n)
