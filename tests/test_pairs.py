"""Paired comparisons and detectable effects against scipy, statsmodels and counting by hand."""

from __future__ import annotations

import math

import numpy as np
import polars as pl
import pytest
from scipy import stats

from isoloss.analysis.pairs import paired_difference, paired_effects
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
    assert paired.estimate.method == "mean of 8 paired differences; paired t on 7 df"


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


def test_a_factor_is_compared_over_pairs_that_share_all_else() -> None:
    rows = [
        {"lr": lr, "width": width, "seed": seed, "loss": 2.0 - 0.5 * (lr == 2) + 0.3 * width + 0.01 * lr * seed}
        for lr in (1, 2)
        for width in (1, 2)
        for seed in (0, 1, 2)
    ]
    table = pl.DataFrame(rows)
    lr, width = paired_effects(table, "loss", ["lr", "width"], "seed")
    found = lr.difference
    assert (lr.factor, width.factor) == ("lr", "width") and found.n == 3 and lr.contrast == "2 − 1"
    words = table.with_columns(lr=pl.when(pl.col("lr") == 1).then(pl.lit("z")).otherwise(pl.lit("a")))
    first, _ = paired_effects(words.rename({"seed": "loss_second"}), "loss", ["lr", "width"], "loss_second")
    assert first.contrast == "z − a" and first.difference.estimate.value == -found.estimate.value
    assert found.estimate.value == pytest.approx(-0.5 + 0.01 * 1.0)
    flags = table.with_columns(lr=pl.col("lr") == 1)  # True comes first in the table
    assert paired_effects(flags, "loss", ["lr"], "seed")[0].contrast == "True − False"
    assert found.p_sign_flip == found.smallest_p == 2 / 2**3  # of three seeds, each the mean of its pairs
    alone = paired_effects(table, "loss", ["lr", "width", "seed"])[0].difference
    assert alone.n == 6 and alone.p_sign_flip == 2 / 2**6
    assert paired_effects(table.filter(pl.col("seed") == 0).head(1), "loss", ["lr"], "seed") == []
