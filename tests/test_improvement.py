"""The probability that a run at one level has a lower response than one at another, against exact results."""

from __future__ import annotations

import itertools
from typing import Any

import numpy as np
import polars as pl
import pytest
from scipy import stats

from isoloss.analysis.estimate import Estimate
from isoloss.analysis.level_difference import level_difference
from isoloss.report.chapters.claims import claims_chapter
from tests.test_claims import claim, evidence, narrower_is_worse


def grid(cells: int, seeds: int, difference: float, seed: int, by_seed: float = 0.0) -> pl.DataFrame:
    rng = np.random.default_rng(seed)
    slopes = rng.normal(difference, by_seed, seeds)
    rows: list[dict[str, Any]] = [
        {
            "width": width,
            "drop": cell,
            "seed": number,
            "loss": 3 + cell + (width == 128) * slopes[number] + rng.normal(),
        }
        for width, cell, number in itertools.product((64, 128), range(cells), range(seeds))
    ]
    return pl.DataFrame(rows)


def lower(table: pl.DataFrame, block: str | None = "seed") -> Estimate | None:
    factors = [name for name in ("width", "drop") if table[name].n_unique() > 1]
    return level_difference(table, "loss", "width", 64, 128, factors, block).probability


@pytest.mark.parametrize("seeds", [3, 5])
def test_one_pair_a_seed_has_the_exact_interval_of_the_noncentral_t(seeds: int) -> None:
    table = grid(1, seeds, -1.0, 3)
    narrow, wide = (table.filter(width=width)["loss"].to_numpy() for width in (64, 128))
    difference = wide - narrow
    root, t = np.sqrt(seeds), float(stats.ttest_1samp(difference, 0).statistic)
    found = lower(table)
    assert found is not None and found.n == seeds and found.level == 0.95
    assert found.value == pytest.approx(stats.norm.cdf(-t / root))
    shifts = [-root * stats.norm.ppf(end) for end in (found.low or 0.0, found.high or 1.0)]
    assert [stats.nct.cdf(t, seeds - 1, shift) for shift in shifts] == pytest.approx([0.025, 0.975], abs=0.005)


def test_the_truth_of_many_runs_is_found() -> None:
    found = lower(grid(12, 60, -1.5, 1, by_seed=1.0))
    assert found is not None and found.value == pytest.approx(stats.norm.cdf(1.5 / np.sqrt(3)), abs=0.03)
    unblocked = lower(grid(12, 60, -1.5, 1), None)
    assert unblocked is not None and unblocked.value == pytest.approx(stats.norm.cdf(1.5 / np.sqrt(2)), abs=0.03)


@pytest.mark.parametrize(("block", "cells"), [("seed", 4), (None, 4), (None, 1)])
def test_its_interval_holds_the_truth(block: str | None, cells: int) -> None:
    by_seed = 0.6 if block else 0.0
    truth = stats.norm.cdf(2 / np.sqrt(2 + by_seed**2))
    found = [lower(grid(cells, 3, -2.0, seed, by_seed), block) for seed in range(150)]
    held = sum(each is not None and (each.low or 0) <= truth <= (each.high or 0) for each in found)
    assert 133 <= held <= 149  # of 150 at 95%: 142.5, standard deviation 2.7


def test_two_levels_exchanged_have_the_complement() -> None:
    table = grid(4, 3, -1.0, 0)
    there = lower(table)
    back = level_difference(table, "loss", "width", 128, 64, ["width", "drop"], "seed").probability
    assert there is not None and back is not None
    assert back.value == pytest.approx(1 - there.value) and back.low == pytest.approx(1 - (there.high or 0), abs=0.01)


def test_only_cells_or_blocks_that_have_all_pairs_count() -> None:
    """Of 4 cells and 3 seeds a lost run costs its cell, of 2 cells and 4 seeds its seed."""
    table, few = grid(4, 3, -1.0, 0), grid(2, 4, -1.0, 0)
    whole, lost = lower(table.filter(pl.col("drop") > 0)), lower(table[1:])
    assert whole is not None and lost is not None and lost.n == whole.n == 9
    assert lost.value == pytest.approx(whole.value) and "3 cells of the other factors × 3 blocks" in lost.method
    whole, lost = lower(few.filter(pl.col("seed") > 0)), lower(few[1:])
    assert whole is not None and lost is not None and lost.n == whole.n == 6
    assert lost.value == pytest.approx(whole.value)


def test_without_replicates_or_noise_there_is_none() -> None:
    assert lower(grid(4, 1, -1.0, 0), None) is None
    assert lower(grid(4, 3, -1.0, 0).with_columns(loss=pl.col("width") / 64.0)) is None


def test_a_claim_has_it_in_its_details_alone() -> None:
    judged = claim(evidence(narrower_is_worse), kind="effect", factor="n_embd", direction="down")
    assert judged.probability is not None and judged.probability.value > 0.99 and judged.probability.n == 12
    ratio = claim(evidence(narrower_is_worse), kind="ratio", factor="n_embd", response="best_val_loss", high=1.0)
    assert ratio.probability is not None and ratio.probability.value == pytest.approx(
        judged.probability.value, abs=0.01
    )
    chapter = claims_chapter([judged], [], 0, one_seed=False)
    [item] = chapter.items
    assert "has the lower value with probability 1 (" in item.details and "probability" not in item.text
    assert chapter.tables[0].frame["probability_value"].to_list() == [judged.probability.value]


def test_levels_that_are_not_compared_do_not_blur_it() -> None:
    generator = np.random.default_rng(0)
    spread = {"p": (2.0, 0.01), "q": (1.95, 0.01), "r": (2.0, 1.0)}
    rows = [{"a": a, "b": b, "y": generator.normal(*spread[a])} for a in spread for b in (1, 2) for _ in range(4)]
    table = pl.DataFrame(rows)
    whole, two = (
        level_difference(each, "y", "a", "p", "q", ["a", "b"]).probability
        for each in (table, table.filter(pl.col("a") != "r"))
    )
    assert whole is not None and two is not None and two.value > 0.95
    assert (whole.value, whole.low, whole.high) == pytest.approx((two.value, two.low, two.high))
