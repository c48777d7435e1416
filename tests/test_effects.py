from __future__ import annotations

import math

import polars as pl
import pytest

from isoloss.analysis.levels import LevelMean, largest_difference, level_means


def test_level_means_describe_each_level_in_table_order() -> None:
    table = pl.DataFrame({"width": [64, 64, 32, 32], "loss": [1.0, 2.0, 3.0, 5.0]})
    small, large = level_means(table, "width", "loss")[::-1]
    assert (large.level, large.n, large.mean, large.minimum, large.maximum) == (64, 2, 1.5, 1.0, 2.0)
    assert (small.level, small.n, small.mean) == (32, 2, 4.0)
    assert small.sd == pytest.approx(math.sqrt(2))


def test_only_finite_responses_count() -> None:
    table = pl.DataFrame({"width": [32, 32, 32, 64], "loss": [2.0, None, math.nan, None]})
    assert level_means(table, "width", "loss") == [
        LevelMean("width", 32, 1, 2.0, None, 2.0, 2.0),
        LevelMean("width", 64, 0, None, None, None, None),
    ]


def test_a_missing_level_and_a_column_without_values_are_kept() -> None:
    table = pl.DataFrame({"lr_decay_iters": [None, 100], "loss": [None, None]})
    assert [(m.level, m.n, m.mean) for m in level_means(table, "lr_decay_iters", "loss")] == [
        (None, 0, None),
        (100, 0, None),
    ]


def test_balanced_means_recover_an_additive_effect() -> None:
    rows = [{"a": a, "b": b, "loss": 2.0 + 0.3 * a - 0.1 * b} for a in (0, 1) for b in (0, 1, 2)]
    table = pl.DataFrame(rows)
    assert largest_difference(level_means(table, "a", "loss")) == pytest.approx(0.3)
    assert largest_difference(level_means(table, "b", "loss")) == pytest.approx(0.2)


def test_one_level_has_no_difference() -> None:
    table = pl.DataFrame({"a": [1, 1], "loss": [2.0, 3.0]})
    assert largest_difference(level_means(table, "a", "loss")) is None
