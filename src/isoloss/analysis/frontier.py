"""What a scaling fit says beyond its data: losses at other sizes, the compute-optimal frontier, a held-out test.

The frontier minimises L(N, D) at C = k·N·D (`best_size.py`): N* ∝ C^a and D* ∝ C^b with a = β/(α+β) and b = α/(α+β)
(Hoffmann et al. 2022, equation 4). With a term in both N and D the optimum is no power of C, and a = d log N*/d log C =
(A/N*^α)/(A/N*^α + B/D*^β) changes with it. Where a run takes C = k·N^p·D (`Cost`), α/p stands for α and p·a for a.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from math import exp, log, prod, sqrt
from typing import Any

import numpy as np
import polars as pl
from scipy import special

from isoloss.analysis.best_size import log_best_size
from isoloss.analysis.cells import close_groups
from isoloss.analysis.clusters import FEWEST_CLUSTERS
from isoloss.analysis.columns import MAX_MAGNITUDE
from isoloss.analysis.cost import SIX_ND, Cost
from isoloss.analysis.estimate import Estimate
from isoloss.analysis.laws import AXES, VARIABLES, Floats, Form
from isoloss.analysis.scaling import Fit, fit_law, rows_of_law
from isoloss.analysis.uncertainty import Uncertainty
from isoloss.diagnostic import Diagnostic
from isoloss.errors import ConfigError
from isoloss.wording import counted

FRONTIER_FORMS: tuple[Form, ...] = ("LND", "LNDX", "LNDU", "LNDUN", "LNDK")
"""Forms in N and D, which have an optimum at each compute; of LNDU and LNDUN with tokens that are all new."""
FAR = 3.0
"""Predictions at more than this many times the data's largest compute are said to extrapolate."""


@dataclass(frozen=True)
class Prediction:
    """The loss at a point: of the law itself, and of one new run there (the same value, a wider interval).

    At a compute alone, of a law of N and D, it is that at the `optimum`, the best size and tokens.
    """

    point: Mapping[str, float]
    law: Estimate
    new_run: Estimate
    cautions: tuple[Diagnostic, ...]
    optimum: Optimum | None = None


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
    """N* ∝ C^a and D* ∝ C^b at C = `flops_per` · N · D, or N to the power of the `Cost` it was asked for."""

    a: Estimate
    b: Estimate
    flops_per: float
    optima: tuple[Optimum, ...]
    near: float | None = None
    """The compute near which a and b hold, the middle of the data's; None where they are the same at every compute."""


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
    """The loss at positive N, D or C, by the fit's form; where it has a frontier also at C alone.

    Raises ConfigError when a variable is missing or unknown.
    """
    if fit.form in FRONTIER_FORMS and set(point) == {"C"}:
        return _at_optimum(fit, point)
    axes, uncertainty = VARIABLES[fit.form], _identified(fit)
    if "U" in axes and "U" not in point:
        point = {**point, "U": point.get("D", 0.0)}  # all tokens are new
    given = ", ".join(f"{name}={value:g}" for name, value in point.items())
    if set(point) != set(axes):
        or_compute = ", or C alone" if fit.form in FRONTIER_FORMS else ""
        needed = f"{fit.form} needs {' and '.join(axes)}, no more{or_compute}"
        raise ConfigError(f"cannot predict at {given}: {needed}", ("predict",))
    _check_range(point)
    x_kx1 = fit.law.centred(np.array([point[axis] for axis in axes]))
    log = fit.objective.name != "ls"

    def loss(theta_p: Floats) -> float:
        value = float(fit.law.log_loss(theta_p, x_kx1)[0][0])
        return value if log else float(np.exp(value))

    law = uncertainty.estimate(loss, log=log)
    new_run = uncertainty.estimate(loss, log=log, extra=uncertainty.noise**2)
    return Prediction(dict(point), law, new_run, tuple(_extrapolation(fit, point)))


def _at_optimum(fit: Fit, point: Mapping[str, float]) -> Prediction:
    uncertainty = _identified(fit)
    _check_range(point)
    (best,) = frontier(fit, [point["C"]]).optima
    found = predict(fit, {"N": best.n_params.value, "D": best.tokens.value})
    variance = uncertainty.noise**2 if fit.objective.name != "ls" else (uncertainty.noise / best.loss.value) ** 2
    new_run = uncertainty.estimate(lambda theta_p: _log_loss_at(fit, point["C"], theta_p), log=True, extra=variance)
    return Prediction(dict(point), best.loss, new_run, found.cautions, best)


def _check_range(point: Mapping[str, float]) -> None:
    if not all(1 / MAX_MAGNITUDE < value < MAX_MAGNITUDE for value in point.values()):
        given = ", ".join(f"{name}={value:g}" for name, value in point.items())
        raise ConfigError(f"cannot predict at {given}: not between 1e-100 and 1e100", ("predict",))


def frontier(fit: Fit, flops: Sequence[float], cost: Cost = SIX_ND) -> Frontier:
    """The compute-optimal frontier at each compute of `flops`. Raises ConfigError for a form without one."""
    if fit.form not in FRONTIER_FORMS:
        raise ConfigError(f"a frontier needs one of the forms {', '.join(FRONTIER_FORMS)}, not {fit.form}")
    uncertainty, law, power = _identified(fit), fit.law, cost.size_power
    near = None if fit.form != "LNDX" else sqrt(prod(data_compute(fit, cost)))

    def log_odds(theta_p: Floats) -> float:
        known = dict(zip(law.names, law.published(theta_p).tolist(), strict=True))
        alpha, beta = known["alpha"], known["beta"]
        if near is None:
            return log(power * beta / alpha)
        log_nd = cost.log_product(near)
        size = log_best_size(law, log_nd, theta_p, power)
        return known["A"] - alpha * size - known["B"] + beta * (log_nd - power * size)

    def optimum(compute: float) -> Optimum:
        log_nd = cost.log_product(compute)

        def size(theta_p: Floats) -> float:
            return log_best_size(law, log_nd, theta_p, power)

        n_params = uncertainty.estimate(size, log=True)
        tokens = uncertainty.estimate(lambda theta_p: log_nd - power * size(theta_p), log=True)
        x_k = np.log([n_params.value, tokens.value]) - law.centre_k[:2]
        inside = np.all((law.x_Kxn[:2].min(axis=1) <= x_k) & (x_k <= law.x_Kxn[:2].max(axis=1)))
        loss = uncertainty.estimate(lambda theta_p: _log_loss_at(fit, compute, theta_p, cost), log=True)
        return Optimum(compute, n_params, tokens, loss, not bool(inside))

    odds = uncertainty.estimate(log_odds)  # of power·a : b; the interval of a share stays between 0 and 1
    a, b = _share(odds, 1, power), _share(odds, -1)
    return Frontier(a, b, cost.per, tuple(optimum(compute) for compute in flops), near)


def _log_loss_at(fit: Fit, compute: float, theta_p: Floats, cost: Cost = SIX_ND) -> float:
    """The log of the lowest loss at a compute."""
    log_nd = cost.log_product(compute)
    size = log_best_size(fit.law, log_nd, theta_p, cost.size_power)
    tokens = log_nd - cost.size_power * size
    at = {"N": size, "D": tokens, "U": tokens}  # tokens are new
    x_kx1 = (np.array([at[variable] for variable in VARIABLES[fit.form]]) - fit.law.centre_k)[:, None]
    return float(fit.law.log_loss(theta_p, x_kx1)[0][0])


def _share(odds: Estimate, sign: int, whole: float = 1.0) -> Estimate:
    assert odds.low is not None and odds.high is not None
    value, *ends = (1 / (1 + exp(min(-sign * x, 700.0))) / whole for x in (odds.value, odds.low, odds.high))
    return replace(odds, value=value, low=min(ends), high=max(ends))


def hold_out_largest(fit: Fit, table: pl.DataFrame) -> HoldOut | Diagnostic:
    """Fit again without the rows of the largest N (D or C where the form has no N), and predict them.

    A diagnostic says so when what is left, or already the whole table, does not identify the law.
    """
    nothing = "Without its largest level the table does not identify the law, so nothing was predicted."
    unidentified = Diagnostic("holdout_unidentified", "blocks", nothing)
    if fit.uncertainty is None:
        return unidentified
    axes = VARIABLES[fit.form]
    rows = rows_of_law(table, fit.form, fit.columns)
    column = fit.columns[axes[0]]
    level_n = close_groups(np.log(rows.floats(column)))
    largest_n = pl.Series(level_n == level_n.max())
    if "cluster" in fit.columns and rows.table.filter(~largest_n)[fit.columns["cluster"]].n_unique() < FEWEST_CLUSTERS:
        return unidentified
    seen = fit_law(
        rows.table.filter(~largest_n),
        fit.form,
        fit.columns,
        floor=fit.law.floor,
        objective=fit.objective,
        restrictions=fit.law.restrictions,
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


def held_out_doubts(held: HoldOut) -> list[Diagnostic]:
    """A caution where held-out rows lie outside their prediction intervals; a note where chance alone leaves so many.

    The rows share one fit, so more than their binomial share may be outside together.
    """
    total = len(held.rows)
    outside = total - held.n_inside
    if outside == 0:
        return []
    by_chance = float(special.bdtrc(outside - 1, total, 1 - held.rows[0].predicted.level))
    text = (
        f"{outside:,} of {counted(total, 'row')} at the largest {held.variable} lie outside their 95% prediction "
        f"intervals, on average {abs(held.mean_error):.2g} {'above' if held.mean_error > 0 else 'below'} what the law "
        "of the others predicts"
    )
    if by_chance > 1 - held.rows[0].predicted.level + 1e-9:
        return [Diagnostic("holdout_outside", "note", f"{text}; chance alone leaves as many.")]
    return [Diagnostic("holdout_outside", "limits", f"{text}: the law does not extrapolate.")]


def data_compute(fit: Fit, cost: Cost = SIX_ND) -> tuple[float, float]:
    """The smallest and the largest compute among the rows of a fit in N and D or in C, in FLOPs."""
    axes = AXES[fit.form]
    powers_k = np.array([cost.size_power, 1.0] if len(axes) == 2 else [1.0])
    log_n = powers_k @ (fit.law.x_Kxn + fit.law.centre_k[:, None])[: len(axes)]
    per = cost.per if len(axes) == 2 else 1.0
    return per * float(np.exp(log_n.min())), per * float(np.exp(log_n.max()))


def _extrapolation(fit: Fit, point: Mapping[str, float]) -> list[Diagnostic]:
    """Where a point lies far outside the data, up or down, in any of its variables or in N·D."""
    logs_Kxn = fit.law.x_Kxn + fit.law.centre_k[:, None]
    places = {axis: (log_n, log(point[axis])) for axis, log_n in zip(AXES[fit.form], logs_Kxn, strict=False)}
    if len(places) == 2:
        places["compute"] = logs_Kxn[:2].sum(axis=0), log(point["N"]) + log(point["D"])
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
