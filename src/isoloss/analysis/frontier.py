"""What a scaling fit says beyond its data: losses at other sizes, the compute-optimal frontier, a held-out test.

The frontier minimises L(N, D) at C = k·N·D: N* = G·(C/k)^a and D* = (C/k)^b / G with a = β/(α+β), b = α/(α+β) and G =
(αA/βB)^(1/(α+β)) (Hoffmann et al. 2022, equation 4).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from math import exp, log
from typing import Any

import numpy as np
import polars as pl

from isoloss.analysis.cells import close_groups
from isoloss.analysis.columns import MAX_MAGNITUDE, usable_rows
from isoloss.analysis.estimate import Estimate
from isoloss.analysis.laws import AXES, Floats
from isoloss.analysis.scaling import Fit, fit_law
from isoloss.analysis.uncertainty import Uncertainty
from isoloss.diagnostic import Diagnostic
from isoloss.errors import ConfigError

FLOPS_PER_PARAMETER_TOKEN = 6.0
"""k in C = k·N·D, forward and backward (Kaplan et al. 2020)."""
FAR = 10.0
"""Predictions at more than this many times the data's largest compute are said to extrapolate."""


@dataclass(frozen=True)
class Prediction:
    """The loss at a point: of the law itself, and of one new run there (the same value, a wider interval)."""

    point: Mapping[str, float]
    law: Estimate
    new_run: Estimate
    cautions: tuple[Diagnostic, ...]


@dataclass(frozen=True)
class Optimum:
    """The size and the tokens that reach the lowest loss at a compute of `flops`, and that loss."""

    flops: float
    n_params: Estimate
    tokens: Estimate
    loss: Estimate
    beyond: bool
    """Whether size or tokens lie outside what the runs have."""


@dataclass(frozen=True)
class Frontier:
    """N* ∝ C^a and D* ∝ C^b at C = `flops_per` · N · D."""

    a: Estimate
    b: Estimate
    flops_per: float
    optima: tuple[Optimum, ...]


@dataclass(frozen=True)
class HeldOutRow:
    """One row that the fit has not seen; `error` is observed minus predicted, in nats."""

    point: Mapping[str, float]
    observed: float
    predicted: Estimate
    """With the prediction interval of one new run."""
    error: float
    inside: bool
    seed: Any = None
    """What the table's column `seed` holds, if it has one."""


@dataclass(frozen=True)
class HoldOut:
    """How the law, fitted without the largest level of a variable, predicts the rows there."""

    variable: str
    level: float
    rows: tuple[HeldOutRow, ...]
    mean_error: float
    n_inside: int
    fit: Fit


def predict(fit: Fit, point: Mapping[str, float]) -> Prediction:
    """The loss at positive N, D or C, by the fit's form. Raises ConfigError when a variable is missing or unknown."""
    axes, uncertainty = AXES[fit.form], _identified(fit)
    given = ", ".join(f"{name}={value:g}" for name, value in point.items())
    if set(point) != set(axes):
        raise ConfigError(f"cannot predict at {given}: {fit.form} needs {' and '.join(axes)}, no more", ("predict",))
    if not all(1 / MAX_MAGNITUDE < value < MAX_MAGNITUDE for value in point.values()):
        raise ConfigError(f"cannot predict at {given}: not between 1e-100 and 1e100", ("predict",))
    x_kx1 = fit.law.centred(np.array([point[axis] for axis in axes]))
    log = fit.objective.name != "ls"

    def loss(theta_p: Floats) -> float:
        value = float(fit.law.log_loss(theta_p, x_kx1)[0][0])
        return value if log else float(np.exp(value))

    law = uncertainty.estimate(loss, log=log)
    new_run = uncertainty.estimate(loss, log=log, extra=uncertainty.noise**2)
    return Prediction(dict(point), law, new_run, tuple(_extrapolation(fit, point)))


def frontier(fit: Fit, flops: Sequence[float], flops_per: float = FLOPS_PER_PARAMETER_TOKEN) -> Frontier:
    """The compute-optimal frontier of an LND fit at each compute of `flops`. Raises ConfigError for any other fit."""
    if fit.form != "LND":
        raise ConfigError(f"a frontier needs the form LND, not {fit.form}")
    uncertainty, law = _identified(fit), fit.law

    def log_odds(theta_p: Floats) -> float:
        return float(np.log(theta_p[3] / theta_p[2]))

    def log_size(log_nd: float, theta_p: Floats) -> float:
        (log_a, log_b, alpha, beta, *_), _ = law.published(theta_p)
        return float((np.log(alpha / beta) + log_a - log_b + beta * log_nd) / (alpha + beta))

    def log_loss(log_nd: float, theta_p: Floats) -> float:
        size = log_size(log_nd, theta_p)
        x_kx1 = (np.array([size, log_nd - size]) - law.centre_k)[:, None]
        return float(law.log_loss(theta_p, x_kx1)[0][0])

    def optimum(compute: float) -> Optimum:
        log_nd = float(np.log(compute / flops_per))
        n_params = uncertainty.estimate(lambda theta_p: log_size(log_nd, theta_p), log=True)
        tokens = uncertainty.estimate(lambda theta_p: log_nd - log_size(log_nd, theta_p), log=True)
        x_k = law.centred(np.array([n_params.value, tokens.value]))[:, 0]
        inside = np.all((law.x_Kxn.min(axis=1) <= x_k) & (x_k <= law.x_Kxn.max(axis=1)))
        loss = uncertainty.estimate(lambda theta_p: log_loss(log_nd, theta_p), log=True)
        return Optimum(compute, n_params, tokens, loss, not bool(inside))

    odds = uncertainty.estimate(log_odds)  # of a : b; the interval of a share stays between 0 and 1
    a, b = _share(odds, 1), _share(odds, -1)
    return Frontier(a, b, flops_per, tuple(optimum(compute) for compute in flops))


def _share(odds: Estimate, sign: int) -> Estimate:
    assert odds.low is not None and odds.high is not None
    value, *ends = (1 / (1 + exp(min(-sign * x, 700.0))) for x in (odds.value, odds.low, odds.high))
    return replace(odds, value=value, low=min(ends), high=max(ends))


def hold_out_largest(fit: Fit, table: pl.DataFrame) -> HoldOut | Diagnostic:
    """Fit again without the rows of the largest N (D or C where the form has no N), and predict them.

    A diagnostic says so when what is left, or already the whole table, does not identify the law.
    """
    nothing = "Without its largest level the table does not identify the law, so nothing was predicted."
    unidentified = Diagnostic("holdout_unidentified", "blocks", nothing)
    if fit.uncertainty is None:
        return unidentified
    axes = AXES[fit.form]
    rows = usable_rows(table, positive=[fit.columns[axis] for axis in (*axes, "loss")])
    column = fit.columns[axes[0]]
    level_n = close_groups(np.log(rows.floats(column)))
    largest_n = pl.Series(level_n == level_n.max())
    seen = fit_law(
        rows.table.filter(~largest_n),
        fit.form,
        fit.columns,
        floor=fit.law.floor,
        objective=fit.objective,
    )
    if seen.uncertainty is None:
        return unidentified
    held: list[HeldOutRow] = []
    largest = rows.table.filter(largest_n)
    for row in largest.to_dicts():
        point = {axis: float(row[fit.columns[axis]]) for axis in axes}
        predicted, observed = predict(seen, point).new_run, float(row[fit.columns["loss"]])
        assert predicted.low is not None and predicted.high is not None
        inside = predicted.low <= observed <= predicted.high
        held.append(HeldOutRow(point, observed, predicted, observed - predicted.value, inside, row.get("seed")))
    mean = sum(row.error for row in held) / len(held)
    return HoldOut(axes[0], float(rows.floats(column).max()), tuple(held), mean, sum(row.inside for row in held), seen)


def data_compute(fit: Fit, flops_per: float = FLOPS_PER_PARAMETER_TOKEN) -> tuple[float, float]:
    """The smallest and the largest compute among the rows of an LND or LC fit, in FLOPs."""
    log_n = (fit.law.x_Kxn + fit.law.centre_k[:, None]).sum(axis=0)
    per = flops_per if fit.form == "LND" else 1.0
    return per * float(np.exp(log_n.min())), per * float(np.exp(log_n.max()))


def _extrapolation(fit: Fit, point: Mapping[str, float]) -> list[Diagnostic]:
    """Where a point lies far outside the data, up or down, in any of its variables or in N·D."""
    logs_Kxn = fit.law.x_Kxn + fit.law.centre_k[:, None]
    places = {axis: (log_n, log(point[axis])) for axis, log_n in zip(AXES[fit.form], logs_Kxn, strict=True)}
    if fit.form == "LND":
        places["compute"] = logs_Kxn.sum(axis=0), sum(map(log, point.values()))
    said: list[str] = []
    for name, (log_n, at) in places.items():
        above, below = exp(at - float(log_n.max())), exp(float(log_n.min()) - at)
        if above > FAR:
            said.append(f"{above:.3g} times the largest {name} of the data")
        elif below > FAR:
            said.append(f"1/{below:.3g} of the smallest {name} of the data")
    where = ", ".join(f"{name} = {value:.4g}" for name, value in point.items())
    return [Diagnostic("extrapolates", "limits", f"{where} has {', '.join(said)}.")] if said else []


def _identified(fit: Fit) -> Uncertainty:
    if fit.uncertainty is None:
        raise ConfigError(f"the {fit.form} fit is unidentified, so nothing can be predicted from it")
    return fit.uncertainty
