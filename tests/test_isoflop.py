"""Minima of several IsoFLOP profiles, with one asymmetry or each with its own, and the power law through them."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import numpy as np
import polars as pl
import pytest
from scipy import optimize, stats

from isoloss.analysis.compute_column import cost_of
from isoloss.analysis.cost import SIX_ND
from isoloss.analysis.estimate import Estimate
from isoloss.analysis.isoflop import Profile, isoflop_profiles
from isoloss.analysis.isoflop_law import isoflop_law
from isoloss.analysis.isoflop_minima import Minimum, alike, each_alone, minimum_of
from isoloss.analysis.scaling_results import analyse_scaling
from isoloss.report.chapters.scaling import scaling_chapter

COMPUTES = (1e18, 1e19, 1e20)


def cubics(asymmetry: Mapping[float, float], noise: float, seed: int = 0, shift: float = 0.0) -> pl.DataFrame:
    """Six sizes at each compute whose losses are cubics around N* = 0.1·C^½, with these third over second derivatives.

    Log sizes of the first compute are moved by `shift`.
    """
    generator, rows = np.random.default_rng(seed), list[pl.DataFrame]()
    for i, (compute, skew) in enumerate(asymmetry.items()):
        u = np.linspace(-1.5, 1.3, 6) + (0.1 * i if i else shift)
        loss = (3 - 0.3 * i) * (1 + (0.06 + 0.01 * i) * (u**2 / 2 + skew * u**3 / 6) + noise * generator.normal(size=6))
        rows.append(pl.DataFrame({"N": 0.1 * math.sqrt(compute) * np.exp(u), "C": compute, "loss": loss}))
    return pl.concat(rows)


def test_minima_with_one_asymmetry_are_those_of_a_joint_regression() -> None:
    """Against scipy's least squares of all profiles, scaled to noise of one size, with derivatives by differences."""
    table = cubics(dict.fromkeys(COMPUTES, -0.2), 0.002)
    profiles = isoflop_profiles(table, "N", "C", "loss")
    x, which = np.log(table["N"].to_numpy()), np.repeat(np.arange(3), 6)
    heights = np.array([
        minimum.height for i in range(3)
        for minimum in [minimum_of(x[which == i], np.zeros(6), table["loss"].to_numpy()[which == i], 3)] if minimum
    ])  # fmt: skip

    def cubic(_: Any, *p: float) -> Any:
        u = x - np.array(p[:3])[which]
        return np.array(p[3:6])[which] + np.array(p[6:9])[which] * (u**2 / 2 + p[9] * u**3 / 6)

    start = [*np.log(0.1 * np.sqrt(COMPUTES)), 1, 1, 1, 0.06, 0.06, 0.06, 0.0]
    found, covariance = optimize.curve_fit(cubic, x, table["loss"].to_numpy() / heights[which], start)
    t = stats.t.ppf(0.975, 18 - 10)
    for i, profile in enumerate(profiles):
        size, lowest = profile.optimal_params, profile.lowest_loss
        assert size and lowest and size.low and size.high and lowest.low
        half = t * math.sqrt(covariance[i, i])
        assert np.log([size.value, size.low, size.high]) == pytest.approx(
            found[i] + half * np.array([0, -1, 1]), rel=1e-5
        )
        assert lowest.value == pytest.approx(found[3 + i] * heights[i], rel=1e-6)
        height_half = t * math.sqrt(covariance[3 + i, 3 + i]) * lowest.value
        assert lowest.value - lowest.low == pytest.approx(height_half, rel=1e-3)
        common = t * covariance[i, 9] / math.sqrt(covariance[9, 9])
        assert profile.common_half == pytest.approx(common, rel=1e-3)
        assert size.method == (
            "cubic in log N of one asymmetry for 3 profiles, delta method, t with 8 df shared by 3 profiles"
        )


def test_profiles_that_differ_in_asymmetry_keep_their_own() -> None:
    table = cubics(dict(zip(COMPUTES, (-0.6, 0.6, -0.6), strict=True)), 0.0005)
    profiles = isoflop_profiles(table, "N", "C", "loss")
    for profile, (_, rows) in zip(profiles, table.group_by("C", maintain_order=True), strict=True):
        (single,) = isoflop_profiles(rows, "N", "C", "loss")
        assert profile.optimal_params and single.optimal_params and profile.common_half == 0
        assert profile.optimal_params.value == single.optimal_params.value
        assert profile.optimal_params.method == "cubic in log N, delta method, t with 6 df shared by 3 profiles"


def test_losses_that_fall_with_compute_within_budgets_do_so_with_one_asymmetry_too() -> None:
    table = cubics(dict.fromkeys(COMPUTES, -0.2), 1e-5)
    drift = pl.Series(np.tile([-0.03, 0.03, 0.0, 0.02, -0.02, 0.01], 3))
    moved = table.with_columns(C=pl.col("C") * drift.exp(), loss=pl.col("loss") - 0.2 * drift)
    for compute, profile in zip(COMPUTES, isoflop_profiles(moved, "N", "C", "loss"), strict=True):
        assert profile.optimal_params and "of one asymmetry" in profile.optimal_params.method
        assert profile.optimal_params.value == pytest.approx(0.1 * math.sqrt(compute), rel=0.003)


def test_a_minimum_that_one_asymmetry_moves_out_of_its_sizes_is_none() -> None:
    """The first profile's second smallest size is above the best one; noise alone says otherwise."""
    for seed in range(60):
        table = cubics(dict.fromkeys(COMPUTES, -0.2), 0.004, seed, shift=1.0)
        first = table.filter(pl.col("C") == COMPUTES[0])
        alone = minimum_of(np.log(first["N"].to_numpy()), np.zeros(6), first["loss"].to_numpy(), 3)
        profile, *_ = isoflop_profiles(table, "N", "C", "loss")
        if alone and profile.optimal_params is None:
            assert [caution.code for caution in profile.cautions] == ["not_bracketed"]
            return
    pytest.fail("no table moves it so far")


def test_without_noise_or_with_one_profile_minima_stay_as_they_are() -> None:
    x = np.linspace(-1.5, 1.3, 6)
    exact = minimum_of(x, np.zeros(6), 3 + x**2, 3)
    noisy = minimum_of(x, np.zeros(6), 3 + x**2 + 0.01 * np.array([1, -2, 0, 1, 2, -1]), 3)
    assert exact and noisy
    assert alike([noisy]) == each_alone([noisy]) and alike([]).df == 0
    exactly = Minimum(**{**vars(exact), "squares": 0.0})
    assert alike([exactly, exactly]).n_alike == 0


def test_what_moves_all_minima_is_no_weight_and_widens_the_interval_of_their_law() -> None:
    def law_of(common: float) -> Any:
        scatter = np.array([0.02, -0.03, 0.01, 0.02, -0.02])
        found = [
            Profile(c, (c, c), 9, (1.0, 2.0), "cubic", Estimate(n, n / math.exp(half), n * math.exp(half), 0.95, 9, ""),
                    None, (), common)
            for c, s in zip(np.geomspace(1e18, 1e20, 5).tolist(), scatter.tolist(), strict=True)
            for n, half in [(0.1 * c**0.5 * math.exp(s), math.hypot(0.1, common))]
        ]  # fmt: skip
        law = isoflop_law(found)
        assert law is not None
        return law

    def half(estimate: Any) -> float:
        return math.log(estimate.high / estimate.low) / 2

    alone, moved = law_of(0.0), law_of(-0.3)
    ends = [(law.N.exponent.value, law.N.exponent.low, law.N.exponent.high) for law in (moved, alone)]
    assert ends[0] == pytest.approx(ends[1])  # all move alike
    assert moved.at_middle.value == pytest.approx(alone.at_middle.value)
    assert half(moved.at_middle) == pytest.approx(math.hypot(half(alone.at_middle), 0.3))


def test_the_best_tokens_are_those_that_compute_pays_for_not_a_sixth_of_it() -> None:
    """C = 20·N^0.9·D, as where embeddings and attention count: D* is what was trained, and the law agrees."""
    rows: list[dict[str, float]] = []
    for compute in np.geomspace(1e12, 1.6e13, 5).tolist():
        for n in np.geomspace(0.2, 5, 7) * 0.05 * compute**0.5:
            d = compute / 20 / n**0.9
            rows.append({"N": n, "D": d, "C": compute, "loss": 1.0 + 5 / n**0.25 + 60 / d**0.35})
    table = pl.DataFrame(rows).with_columns(
        pl.col("loss") * np.exp(1e-4 * np.random.default_rng(0).standard_normal(len(rows)))
    )
    columns = {"N": "N", "D": "D", "C": "C", "loss": "loss"}
    found = analyse_scaling(table, "LND", columns, holdout=False)
    law = found.isoflop_law
    assert law is not None and len(found.profiles) == 5
    assert (law.cost.per, law.cost.size_power) == pytest.approx((20, 0.9))
    a = 0.35 / (0.25 + 0.9 * 0.35)
    assert law.N.exponent.value == pytest.approx(a, abs=0.02)
    assert law.D.exponent.value == pytest.approx(1 - 0.9 * law.N.exponent.value)
    middle = law.middle
    tokens = law.D.coefficient.value * middle**law.D.exponent.value
    assert 20 * law.at_middle.value**0.9 * tokens == pytest.approx(middle, rel=1e-6)
    assert "isoflop_disagrees" not in {caution.code for caution in found.cautions}


def test_a_table_that_lacks_tokens_or_sizes_costs_six_flops_a_parameter_and_token() -> None:
    columns = {"N": "N", "D": "D", "C": "C"}
    full = pl.DataFrame({"N": [1e5, 2e5, None], "D": [1e6, 3e6, 1e6], "C": [6e11, 36e11, 1e12]})
    assert cost_of(full, columns).per == pytest.approx(6) and cost_of(full, columns).size_power == pytest.approx(1)
    assert cost_of(full.drop("D"), columns) == SIX_ND
    assert cost_of(full.head(1), columns) == SIX_ND


def test_what_a_run_costs_need_be_no_power_of_size_for_minima_and_law_to_agree() -> None:
    """C = (6N + 400·N^½)·D, of which a power of N misses some by 6%; neither that nor the cubics' bias is a quarrel."""
    rows: list[dict[str, float]] = []
    for compute in np.geomspace(1e11, 1.6e12, 5).tolist():
        for n in np.geomspace(0.1, 8, 7) * 7e3 * (compute / 1e11) ** 0.75:
            d = compute / (6 * n + 400 * math.sqrt(n))
            rows.append({"N": n, "D": d, "C": compute, "loss": 0.845 + 4.27 / n**0.164 + 176 / d**0.418})
    columns = {"N": "N", "D": "D", "C": "C", "loss": "loss"}
    for seed in range(3):
        noise = np.exp(2e-3 * np.random.default_rng(seed).standard_normal(len(rows)))
        table = pl.DataFrame(rows).with_columns(pl.col("loss") * noise)
        found = analyse_scaling(table, "LND", columns, holdout=False)
        assert found.isoflop_law is not None
        assert "isoflop_disagrees" not in {caution.code for caution in found.cautions}


@pytest.mark.parametrize("power", [0.0, -0.3])
def test_compute_that_does_not_grow_with_size_is_no_cost(power: float) -> None:
    n, d = (axis.ravel() for axis in np.meshgrid(np.geomspace(1e5, 3e6, 5), np.geomspace(5e5, 1.5e7, 5)))
    noise = np.exp(1e-3 * np.random.default_rng(0).standard_normal(25))
    table = pl.DataFrame({"N": n, "D": d, "C": 1e6 * n**power * d, "loss": (1 + 20 / n**0.3 + 500 / d**0.5) * noise})
    assert cost_of(table, {}) == SIX_ND
    found = analyse_scaling(table, "LND", {"N": "N", "D": "D", "C": "C", "loss": "loss"}, holdout=False)
    assert any(figure.name == "isoflop_curves" for figure in scaling_chapter(found).figures)
