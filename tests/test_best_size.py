"""The compute-optimal size of a law with a term in both size and tokens, whose optimum is no power of compute."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import polars as pl
import pytest
from scipy import optimize, stats

from isoloss.analysis.cost import Cost
from isoloss.analysis.frontier import FRONTIER_FORMS, data_compute, frontier, predict
from isoloss.analysis.laws import AXES, Restrictions
from isoloss.analysis.scaling import Fit, fit_law

COLUMNS = {"N": "N", "D": "D", "loss": "loss"}


def with_interaction(alpha: float = 0.3, beta: float = 0.5) -> tuple[pl.DataFrame, Any]:
    def law(n: Any, d: Any) -> Any:
        return 1.4 + 20 / n**alpha + 500 / d**beta + 5e3 / (n**alpha * d**beta)

    n, d = (axis.ravel() for axis in np.meshgrid(np.geomspace(1e5, 3e6, 5), np.geomspace(5e5, 1.5e7, 5)))
    return pl.DataFrame({"N": n, "D": d, "loss": law(n, d)}), law


def noisy_fit() -> Fit:
    table, _ = with_interaction()
    noise = 0.0003 * np.random.default_rng(0).standard_normal(25)
    fixed = Restrictions({"alpha": 0.3, "beta": 0.5}, {})
    return fit_law(table.with_columns(pl.col("loss") * np.exp(noise)), "LNDX", COLUMNS, restrictions=fixed)


@pytest.mark.parametrize(("alpha", "beta"), [(0.3, 0.5), (0.5, 0.3), (0.4, 0.4)])
def test_the_optimum_with_an_interaction_is_the_lowest_loss(alpha: float, beta: float) -> None:
    table, law = with_interaction(alpha, beta)
    fixed = Restrictions({"alpha": alpha, "beta": beta, "E": 1.4, "A": 20.0, "B": 500.0}, {})
    fit = fit_law(table, "LNDX", COLUMNS, restrictions=fixed)
    computes = [1e10, 1e13, 1e19]
    for compute, best in zip(computes, frontier(fit, computes).optima, strict=True):
        u = optimize.minimize_scalar(
            lambda u, c=compute: law(math.exp(u), c / 6 / math.exp(u)), bounds=(0, 40), method="bounded",
            options={"xatol": 1e-12},
        ).x  # fmt: skip
        assert best.loss.value == pytest.approx(law(math.exp(u), compute / 6 / math.exp(u)), rel=1e-9)
        assert best.n_params.value == pytest.approx(math.exp(u), rel=1e-4)
        assert best.n_params.value * best.tokens.value == pytest.approx(compute / 6)


@pytest.mark.parametrize("form", ["LND", "LNDX"])
def test_where_small_models_are_dearer_the_optimum_is_the_lowest_loss_at_that_cost(form: Any) -> None:
    table, _ = with_interaction()
    known = {"alpha": 0.3, "beta": 0.5, "E": 1.4, "A": 20.0, "B": 500.0}
    known |= {"G": 5e3} if form == "LNDX" else {}
    noise = 1e-4 * np.random.default_rng(0).standard_normal(25)
    table = table.with_columns(loss=pl.Series([
        1.4 + 20 / n**0.3 + 500 / d**0.5 + known.get("G", 0) / (n**0.3 * d**0.5) for n, d in table["N", "D"].rows()
    ]) * np.exp(noise))  # fmt: skip
    fit = fit_law(table, form, COLUMNS, restrictions=Restrictions({k: v for k, v in known.items() if k != "B"}, {}))
    cost = Cost(11.0, 0.9)

    def loss_at(u: float, compute: float) -> float:
        return predict(fit, {"N": math.exp(u), "D": compute / 11 / math.exp(0.9 * u)}).law.value

    middle = math.sqrt(math.prod(data_compute(fit, cost)))
    for compute in (middle / 5, middle * 5):
        (best,) = frontier(fit, [compute], cost).optima
        u = optimize.minimize_scalar(
            loss_at, bounds=(5, 25), args=(compute,), method="bounded", options={"xatol": 1e-9}
        ).x  # fmt: skip
        assert best.n_params.value == pytest.approx(math.exp(u), rel=1e-3)
        assert best.loss.value == pytest.approx(loss_at(u, compute), rel=1e-9)
        assert 11 * best.n_params.value**0.9 * best.tokens.value == pytest.approx(compute)
    found = frontier(fit, [middle / 1.01, middle * 1.01], cost)
    low, high = found.optima
    for share, one, other in (
        (found.a, low.n_params, high.n_params), (found.b, low.tokens, high.tokens)
    ):  # fmt: skip
        assert share.value == pytest.approx(math.log(other.value / one.value) / math.log(1.01**2), abs=1e-5)


def test_where_small_models_are_dearer_kaplans_law_has_its_optimum_at_that_cost() -> None:
    n, d = (axis.ravel() for axis in np.meshgrid(np.geomspace(1e5, 3e6, 5), np.geomspace(5e6, 1.5e8, 5)))
    loss = ((8.8e13 / n) ** (0.076 / 0.095) + 5.4e13 / d) ** 0.095
    noise = np.exp(1e-4 * np.random.default_rng(0).standard_normal(25))
    fit = fit_law(pl.DataFrame({"N": n, "D": d, "loss": loss * noise}), "LNDK", COLUMNS)
    cost = Cost(30.0, 0.85)
    compute = math.sqrt(math.prod(data_compute(fit, cost)))
    (best,) = frontier(fit, [compute], cost).optima
    u = optimize.minimize_scalar(
        lambda u: predict(fit, {"N": math.exp(u), "D": cost.tokens(compute, math.exp(u))}).law.value,
        bounds=(5, 25), method="bounded", options={"xatol": 1e-9},
    ).x  # fmt: skip
    assert best.n_params.value == pytest.approx(math.exp(u), rel=1e-3)


def test_exponents_with_an_interaction_are_those_at_the_middle_of_the_data() -> None:
    fit = noisy_fit()
    found = frontier(fit, [])
    assert found.near == pytest.approx(math.sqrt(math.prod(data_compute(fit))))
    assert found.near
    low, high = frontier(fit, [found.near / 1.01, found.near * 1.01]).optima
    slope = math.log(high.n_params.value / low.n_params.value) / math.log(1.01**2)
    assert found.a.value == pytest.approx(slope, abs=1e-6) and found.b.value == pytest.approx(1 - slope, abs=1e-6)
    assert found.a.value != pytest.approx(0.5 / 0.8, abs=1e-3)  # without the third term
    assert found.a.low and found.a.high and found.a.low < found.a.value < found.a.high


def test_the_interval_of_an_optimum_with_an_interaction_is_that_of_refits() -> None:
    fit = noisy_fit()
    (best,) = frontier(fit, [1e13]).optima
    assert fit.uncertainty and best.n_params.low and best.n_params.high
    draws = np.random.default_rng(1).multivariate_normal(fit.uncertainty.theta_p, fit.uncertainty.covariance_pxp, 400)
    sizes = []
    for theta in draws:
        known = dict(zip(fit.law.names, fit.law.published(theta), strict=True))
        n = np.linspace(math.log(best.n_params.value) - 1, math.log(best.n_params.value) + 1, 20_001)
        d = math.log(1e13 / 6) - n
        terms = [known["A"] - 0.3 * n, known["B"] - 0.5 * d, known["G"] - 0.3 * n - 0.5 * d]
        sizes.append(n[np.exp(terms).sum(axis=0).argmin()])
    half = stats.t.ppf(0.975, fit.uncertainty.df) * np.std(sizes)
    assert math.log(best.n_params.high / best.n_params.value) == pytest.approx(half, rel=0.15)


def test_every_law_in_size_and_tokens_predicts_at_a_compute() -> None:
    assert {form for form, axes in AXES.items() if axes == ("N", "D")} == set(FRONTIER_FORMS)
    fit = noisy_fit()
    found = predict(fit, {"C": 1e13})
    assert found.optimum and found.new_run.low and found.law.low and found.new_run.low < found.law.low
    there = predict(fit, {"N": found.optimum.n_params.value, "D": found.optimum.tokens.value})
    assert found.law.value == pytest.approx(there.law.value)
