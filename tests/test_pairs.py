"""Paired comparisons and detectable effects against scipy, statsmodels and counting by hand."""

from __future__ import annotations

import math

import numpy as np
import pytest
from scipy import stats
from statsmodels.stats.power import TTestIndPower, TTestPower

from isoloss.analysis.pairs import (
    error_df,
    minimum_detectable_effect,
    minimum_detectable_pair,
    paired_difference,
    seeds_needed,
)
from isoloss.errors import ConfigError


@pytest.fixture
def generator() -> np.random.Generator:
    return np.random.default_rng(0)


def test_the_paired_t_agrees_with_scipy(generator: np.random.Generator) -> None:
    first = generator.normal(size=8)
    second = first + generator.normal(0.5, 0.4, size=8)
    paired = paired_difference(first, second, generator)
    expected = stats.ttest_rel(second, first)
    interval = expected.confidence_interval()
    assert paired.p == pytest.approx(expected.pvalue)
    assert (paired.estimate.low, paired.estimate.high) == pytest.approx((interval.low, interval.high))
    assert paired.estimate.value == pytest.approx((second - first).mean()) and paired.estimate.n == paired.n == 8


def test_sign_flips_are_counted_by_hand(generator: np.random.Generator) -> None:
    """Differences 1, 2, 3: of eight sums only +6 and -6 are as far as 6; of 3, 2, -1 four are as far as 4."""
    all_up = paired_difference(np.zeros(3), np.array([1.0, 2.0, 3.0]), generator)
    assert (all_up.p_sign_flip, all_up.smallest_p, all_up.exact) == (0.25, 0.25, True)
    assert paired_difference(np.zeros(3), np.array([3.0, 2.0, -1.0]), generator).p_sign_flip == 0.5


def test_drawn_signs_agree_with_all_signs() -> None:
    """17 pairs are drawn; here all 2^17 assignments are counted."""
    difference = np.random.default_rng(2).normal(0.35, 1, size=17)
    drawn = paired_difference(np.zeros(17), difference, np.random.default_rng(0))
    signs = (np.arange(2**17)[:, None] >> np.arange(17) & 1) * 2 - 1
    share = (np.abs(signs @ difference) >= abs(difference.sum()) - 1e-9).mean()
    assert not drawn.exact and drawn.p_sign_flip == pytest.approx(share, abs=0.01)
    assert drawn == paired_difference(np.zeros(17), difference, np.random.default_rng(0))
    certain = paired_difference(np.zeros(40), 1 + difference[0] * np.arange(40) / 100, np.random.default_rng(1))
    assert certain.p_sign_flip == certain.smallest_p == 1 / 20_000


def test_differences_without_spread_have_no_interval(generator: np.random.Generator) -> None:
    first = np.array([0.1, 0.2, 0.7, 1.3])
    same = paired_difference(first, first + 0.3, generator)
    assert same.p is None and same.estimate.low is None and same.estimate.value == pytest.approx(0.3)
    assert same.p_sign_flip == same.smallest_p == 0.125
    none = paired_difference(first, first, generator)
    assert none.p is None and none.p_sign_flip == 1.0


@pytest.mark.parametrize(("first", "second"), [([1.0], [2.0]), ([1.0, 2.0], [1.0]), ([1.0, math.nan], [1.0, 2.0])])
def test_what_is_no_pairs_is_refused(first: list[float], second: list[float], generator: np.random.Generator) -> None:
    with pytest.raises(ConfigError, match="pair"):
        paired_difference(np.array(first), np.array(second), generator)


@pytest.mark.parametrize(("n", "power", "level"), [(3, 0.8, 0.95), (5, 0.8, 0.95), (16, 0.9, 0.99), (200, 0.8, 0.95)])
def test_detectable_effects_agree_with_statsmodels(n: int, power: float, level: float) -> None:
    found = minimum_detectable_effect(0.005, n, 2 * n - 2, power, level)
    assert TTestIndPower().power(found / 0.005, n, 1 - level) == pytest.approx(power, abs=1e-6)
    paired = minimum_detectable_pair(0.005, n, power, level)
    assert TTestPower().power(paired / 0.005, n, 1 - level) == pytest.approx(power, abs=1e-6)


def test_a_simulated_power_is_the_one_promised(generator: np.random.Generator) -> None:
    effect = minimum_detectable_effect(1.0, 6, 10)
    first, second = generator.normal(size=(4000, 6)), generator.normal(effect, 1, size=(4000, 6))
    found = stats.ttest_ind(first, second, axis=1).pvalue < 0.05
    assert found.mean() == pytest.approx(0.8, abs=0.025)


def test_seeds_needed_is_the_smallest_number_that_is_enough() -> None:
    seeds = seeds_needed(0.004, 0.005, runs_per_level_per_seed=4, cells=8)
    enough = minimum_detectable_effect(0.005, 4 * seeds, error_df(8, seeds))
    lacking = minimum_detectable_effect(0.005, 4 * (seeds - 1), error_df(8, seeds - 1))
    assert enough <= 0.004 < lacking
    assert seeds_needed(-0.004, 0.005, 4, 8) == seeds
    assert seeds_needed(1.0, 0.005, 4, 8) == 2
    assert seeds_needed(1e-5, 0.005, 1, 2) > 1_000_000


def test_what_cannot_be_detected_is_refused() -> None:
    for call in (
        lambda: minimum_detectable_effect(0.005, 4, 0),
        lambda: minimum_detectable_effect(0.005, 0, 4),
        lambda: minimum_detectable_effect(math.nan, 4, 4),
        lambda: minimum_detectable_effect(0.005, 4, 4, power=1.0),
        lambda: minimum_detectable_pair(0.005, 1),
        lambda: seeds_needed(0.0, 0.005, 4, 8),
        lambda: seeds_needed(0.1, 0.005, 4, 1),
    ):
        with pytest.raises(ConfigError):
            call()
