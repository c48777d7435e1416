"""Which configurations may be the best, against scipy and against the truth."""

from __future__ import annotations

import numpy as np
import polars as pl
import pytest
from scipy import stats

from isoloss.analysis.may_be_best import may_be_best


def runs(mean_c: np.ndarray, sd_c: np.ndarray, seeds: int, generator: np.random.Generator) -> pl.DataFrame:
    """A run of every configuration with every seed; seeds differ by far more than configurations do."""
    loss_cxs = mean_c[:, None] + generator.normal(size=(len(mean_c), seeds)) * sd_c[:, None]
    loss_cxs += generator.normal(0, 5, seeds)
    rows = [{"key": f"c{c}", "seed": s, "loss": loss_cxs[c, s]} for c in range(len(mean_c)) for s in range(seeds)]
    return pl.DataFrame(rows)


def test_the_limit_is_the_two_sided_paired_t_at_five_percent_over_all_comparisons() -> None:
    generator = np.random.default_rng(0)
    for trial in range(60):
        table = runs(np.array([0.0, 0.5, 1.5]), np.array([0.3, 0.3, 0.8]), 4, generator)
        found = may_be_best(table, "key", "loss", "seed")
        by_key = {key: part["loss"].to_numpy() for (key,), part in table.group_by("key")}
        best = min(by_key, key=lambda key: by_key[key].mean())
        p = {key: stats.ttest_rel(losses, by_key[best]).pvalue for key, losses in by_key.items() if key != best}
        assert found is not None and found[0] == best, trial
        assert {*found} == {best, *(key for key, each in p.items() if each >= 0.05 / 2)}


@pytest.mark.parametrize("times", [1.0, 10.0])
def test_the_best_is_nearly_always_among_them(times: float) -> None:
    """With equal means, whatever the noise of the last one, an equal one is kept in 95% of studies or more."""
    generator, kept = np.random.default_rng(1), 0
    for _ in range(300):
        found = may_be_best(runs(np.zeros(6), np.array([1.0] * 5 + [times]), 3, generator), "key", "loss", "seed")
        kept += found is not None and "c0" in found
    assert kept >= 285


def test_of_two_equal_configurations_neither_is_told_worse_in_more_than_5_percent() -> None:
    generator, told = np.random.default_rng(3), 0
    for _ in range(600):
        told += len(may_be_best(runs(np.zeros(2), np.ones(2), 4, generator), "key", "loss", "seed") or []) == 1
    assert stats.binomtest(told, 600, 0.05, alternative="greater").pvalue > 0.01 and told > 0


def test_what_was_not_repeated_is_not_told_apart() -> None:
    once = runs(np.array([0.0, 9.0]), np.array([0.1, 0.1]), 1, np.random.default_rng(2))
    assert may_be_best(once, "key", "loss", "seed") is None
    some = pl.concat([runs(np.array([0.0, 9.0]), np.array([0.1, 0.1]), 3, np.random.default_rng(2))])
    lost = some.filter((pl.col("key") == "c0") | (pl.col("seed") == 0))
    assert may_be_best(lost, "key", "loss", "seed") is None  # one pair has no spread
    assert may_be_best(some, "key", "loss", "seed") == ["c0"]
