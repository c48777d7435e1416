"""Effects of factorials against statsmodels, known truths and designs that cannot tell."""

from __future__ import annotations

import itertools
import json
import math
import time
from typing import Any

import numpy as np
import pandas as pd
import polars as pl
import pytest
import statsmodels.formula.api as smf
from scipy import stats
from statsmodels.stats.anova import anova_lm
from statsmodels.stats.oneway import anova_oneway

from isoloss.analysis.effects import Effect, Effects, analyse_effects
from isoloss.analysis.level_difference import level_difference
from isoloss.errors import ConfigError
from isoloss.report.chapter import chapter_as_text
from isoloss.report.chapters.effects import effects_as_json, effects_chapter


def grid(levels: dict[str, tuple[Any, ...]], seeds: int = 1) -> list[dict[str, Any]]:
    cells = itertools.product(*levels.values())
    return [{**dict(zip(levels, cell, strict=True)), "seed": seed} for cell in cells for seed in range(seeds)]


def noisy(rows: list[dict[str, Any]], generator: np.random.Generator, sd: float = 1.0) -> pl.DataFrame:
    return pl.DataFrame(rows).with_columns(y=pl.Series(generator.normal(0, sd, len(rows))))


def named(effects: Effects) -> dict[str, Effect]:
    return {effect.term: effect for effect in effects.effects}


def codes(effects: Effects) -> list[str]:
    return [caution.code for caution in effects.cautions]


@pytest.fixture
def unbalanced() -> pl.DataFrame:
    """A two-way table of 2 × 3 cells with 1 to 5 runs each."""
    generator = np.random.default_rng(3)
    cells = [("low", 0, 3), ("low", 1, 1), ("low", 2, 5), ("high", 0, 2), ("high", 1, 4), ("high", 2, 2)]
    rows = [
        {"a": a, "b": "pqr"[b], "y": 2.0 + 0.5 * (a == "high") + 0.3 * b + generator.normal(0, 0.4)}
        for a, b, runs in cells
        for _ in range(runs)
    ]
    return pl.DataFrame(rows)


def oracle(table: pl.DataFrame, formula: str) -> Any:
    return smf.ols(formula, pd.DataFrame(table.to_dict(as_series=False))).fit()


def uneven_test(table: pl.DataFrame, cells: list[str], larger: str, smaller: str) -> tuple[float, float]:
    """F of what one model adds to another, and its first df, each run having the variance of its cell's runs."""
    hats = [exog @ np.linalg.pinv(exog) for exog in (oracle(table, each).model.exog for each in (larger, smaller))]
    added, y = hats[0] - hats[1], table["y"].to_numpy()
    deviation = pl.col("y") - pl.col("y").mean().over(cells)
    within = table.select(*cells, squares=deviation**2)
    pooled = float(within["squares"].sum()) / (len(table) - len(table.unique(cells)))
    variances = within.select(pl.col("squares").sum().over(cells) / (pl.len().over(cells) - 1)).to_series()
    weighted = added * np.nan_to_num(variances.to_numpy(), nan=pooled)
    return y @ added @ y / np.trace(weighted), np.trace(weighted) ** 2 / np.trace(weighted @ weighted)


def test_an_unbalanced_two_way_table_agrees_with_statsmodels(unbalanced: pl.DataFrame) -> None:
    effects = analyse_effects(unbalanced, "y", ["a", "b"])
    expected = anova_lm(oracle(unbalanced, "y ~ C(a) * C(b)"), typ=2)
    for term, row, other in (("a", "C(a)", "C(b)"), ("b", "C(b)", "C(a)"), ("a × b", "C(a):C(b)", "C(a) + C(b)")):
        effect = named(effects)[term]
        assert effect.df == expected.df[row]
        f, df = uneven_test(unbalanced, ["a", "b"], f"y ~ {row} + {other}", f"y ~ {other}")
        assert effect.F_df is not None and (effect.F, effect.F_df[0]) == pytest.approx((f, df))
        share = expected.sum_sq[row] / (expected.sum_sq[row] + expected.sum_sq["Residual"])
        assert effect.partial_eta_squared == pytest.approx(share, rel=1e-9)
    assert effects.error is not None and effects.error.df == 11
    assert effects.error.sd**2 == pytest.approx(expected.sum_sq["Residual"] / 11)
    assert "unbalanced" in codes(effects)


def test_sizes_are_equally_weighted_means_with_the_models_intervals(unbalanced: pl.DataFrame) -> None:
    effect = named(analyse_effects(unbalanced, "y", ["a", "b"]))["a"]
    cells = unbalanced.group_by("a", "b").agg(pl.col("y").mean()).group_by("a").agg(pl.col("y").mean())
    means = dict(cells.iter_rows())
    coded = unbalanced.with_columns(  # columns that sum to zero, a level apart: the coefficient is the difference
        up=pl.when(pl.col("a") == "low").then(0.5).otherwise(-0.5),
        q=(pl.col("b") == "q").cast(pl.Int8) - (pl.col("b") == "p").cast(pl.Int8),
        r=(pl.col("b") == "r").cast(pl.Int8) - (pl.col("b") == "p").cast(pl.Int8),
    )
    assert effect.estimate is not None and effect.contrast == "low − high"
    assert effect.estimate.value == pytest.approx(means["low"] - means["high"])
    assert effect.estimate.value == pytest.approx(oracle(coded, "y ~ up * (q + r)").params["up"])
    assert effect.estimate.n == 17


def test_two_levels_are_welchs_t_and_more_are_the_test_of_brown_and_forsythe() -> None:
    """Without blocks: scipy and statsmodels, for levels of unequal noise and unequal numbers of runs."""
    generator = np.random.default_rng(5)
    rows = [{"a": a, "y": generator.normal(0.4 * a, 10.0**a)} for a, n in ((0, 7), (1, 4), (2, 3)) for _ in range(n)]
    table = pl.DataFrame(rows)
    two = table.filter(pl.col("a") < 2)
    welch = stats.ttest_ind(*(two.filter(pl.col("a") == a)["y"] for a in (1, 0)), equal_var=False)
    found = level_difference(two, "y", "a", 0, 1, ["a"])
    assert found.estimate is not None and found.p == pytest.approx(welch.pvalue)
    assert (found.estimate.low, found.estimate.high) == pytest.approx(tuple(welch.confidence_interval()))
    assert two.height == 11 and analyse_effects(two, "y", ["a"]).effects[0].p == pytest.approx(welch.pvalue)
    whole = analyse_effects(table, "y", ["a"]).effects[0]
    expected = anova_oneway(table["y"].to_numpy(), table["a"].to_numpy(), use_var="bf")
    assert whole.F_df is not None and pytest.approx(expected.statistic) == whole.F
    assert whole.F_df == pytest.approx((expected.df_num, expected.df_denom), rel=1e-6)
    assert whole.p == pytest.approx(expected.pvalue)


def test_the_standard_error_is_that_of_a_mixed_model_with_seeds_at_random() -> None:
    """statsmodels' REML with random seeds and seed × a; balanced, and both variances above zero."""
    generator = np.random.default_rng(8)
    rows = pl.DataFrame(grid({"a": (1, 2), "b": (1, 2, 3, 4)}, seeds=8))
    of_seed = generator.normal(0, 4, 8)
    lucky = {key: of_seed[key[1]] + generator.normal(0, 1.5) for key in itertools.product((1, 2), range(8))}
    luck = pl.Series([lucky[a, seed] for a, seed in rows.select("a", "seed").iter_rows()])
    table = rows.with_columns(y=pl.Series(generator.normal(0, 1, len(rows))) + luck, up=pl.col("a") - 1.5)
    frame = pd.DataFrame(table.to_dict(as_series=False))
    model = smf.mixedlm("y ~ up * C(b, Sum)", frame, groups="seed", re_formula="1", vc_formula={"a": "0 + C(a)"})
    expected = model.fit(reml=True, method="powell")
    effect = named(analyse_effects(table, "y", ["a", "b"], "seed"))["a"]
    assert effect.estimate is not None and effect.estimate.high is not None
    assert effect.estimate.value == pytest.approx(expected.params["up"])
    standard_error = (effect.estimate.high - effect.estimate.value) / stats.t.ppf(0.975, 7)
    assert standard_error == pytest.approx(expected.bse["up"], rel=0.02)  # its search ends within a percent


def test_unequal_noise_is_said_and_tested_as_by_brown_and_forsythe() -> None:
    generator = np.random.default_rng(5)
    rows = [{"a": a, "y": generator.normal(0.1 * a, 5.0**a)} for a in (0, 1, 2) for _ in range(8)]
    found = analyse_effects(pl.DataFrame(rows), "y", ["a"])
    groups = [[row["y"] for row in rows if row["a"] == a] for a in (0, 1, 2)]
    expected = stats.levene(*groups, center="median")
    [test] = found.noise_tests
    assert (test.F, test.p, test.df) == (pytest.approx(expected.statistic), pytest.approx(expected.pvalue), (2, 21))
    assert "sd goes from" in said(found, "unequal_noise") and "at 0 to" in said(found, "unequal_noise")
    even = noisy(grid({"a": (1, 2, 3)}, 8), generator)
    assert "unequal_noise" not in codes(analyse_effects(even, "y", ["a"]))


def test_with_seeds_a_contrast_is_the_t_test_of_its_values_in_the_seeds() -> None:
    """Whatever the noise of each level; the whole term is tested as by Greenhouse and Geisser."""
    generator = np.random.default_rng(4)
    levels = (1.0, 2.0, 4.0, 8.0)
    table = pl.DataFrame(grid({"a": levels, "b": ("x", "y")}, seeds=5)).with_columns(
        y=pl.Series(generator.normal(0, 1, 40)) * pl.col("a") + 7.0 * pl.col("seed")
    )
    effect = named(analyse_effects(table, "y", ["a", "b"], "seed"))["a"]
    means_sxl = table.pivot("a", index="seed", values="y", aggregate_function="mean").drop("seed").to_numpy()
    slopes = means_sxl @ np.array([-1.5, -0.5, 0.5, 1.5]) / 5
    expected = stats.ttest_1samp(slopes, 0.0)
    assert effect.estimate is not None and effect.contrast == "linear, per doubling"
    assert effect.estimate.value == pytest.approx(slopes.mean())
    assert (effect.estimate.low, effect.estimate.high) == pytest.approx(tuple(expected.confidence_interval()))
    last = level_difference(table, "y", "a", 1.0, 8.0, ["a", "b"], "seed")
    assert last.p == pytest.approx(stats.ttest_rel(means_sxl[:, 3], means_sxl[:, 0]).pvalue)
    centred_lxl = np.cov(means_sxl.T) - np.cov(means_sxl.T).mean(axis=0)
    centred_lxl -= centred_lxl.mean(axis=1, keepdims=True)
    epsilon = np.trace(centred_lxl) ** 2 / 3 / (centred_lxl**2).sum()
    f = 5 * means_sxl.mean(axis=0).var(ddof=1) / (np.trace(centred_lxl) / 3)
    assert effect.F_df is not None and pytest.approx(f) == effect.F
    assert effect.F_df == pytest.approx((3 * epsilon, 12 * epsilon))
    assert effect.p == pytest.approx(stats.f.sf(f, 3 * epsilon, 12 * epsilon))


def test_three_unbalanced_factors_with_higher_orders_in_the_error() -> None:
    """One lone replicate is too few for pure error: the residual of the two-factor model is statsmodels' own."""
    table = noisy(grid({"a": (1, 2), "b": ("x", "y", "z"), "c": (1, 2)}), np.random.default_rng(0))
    table = pl.concat([table, table[:1].with_columns(pl.col("y") + 1)])
    effects = analyse_effects(table, "y", ["a", "b", "c"])
    expected = anova_lm(oracle(table, "y ~ (C(a) + C(b) + C(c))**2"), typ=2)
    assert {term: effect.F for term, effect in named(effects).items()} == pytest.approx(
        {
            term: expected.F[":".join(f"C({name})" for name in term.split(" × "))]
            for term in ("a", "b", "c", "a × b", "a × c", "b × c")
        },
        rel=1e-9,
    )
    assert "few_replicates" in codes(effects)


def test_crossed_seeds_are_blocks() -> None:
    """Seeds that differ a lot leave the effects as sharp as if they did not; statsmodels with a seed term agrees."""
    generator = np.random.default_rng(1)
    table = noisy(grid({"a": (1, 2), "b": (3, 4)}, seeds=5), generator, 0.1).with_columns(
        y=pl.col("y") + 10.0 * pl.col("seed") + 0.5 * pl.col("a")
    )
    blocked = analyse_effects(table, "y", ["a", "b"], block="seed")
    coded = table.with_columns(a=pl.col("a") - 1.5, b=pl.col("b") - 3.5)
    expected = oracle(coded, "y ~ a * b + C(seed)")
    assert blocked.block == "seed" and blocked.error is not None
    assert blocked.error.df == expected.df_resid
    assert blocked.error.sd**2 == pytest.approx(expected.mse_resid, rel=1e-6)
    effect = named(blocked)["a"]
    between = anova_lm(oracle(coded, "y ~ a * b + C(seed)"), oracle(coded, "y ~ a * b + C(seed) + a:C(seed)"))
    mean_square = between["ss_diff"][1] / between["df_diff"][1]
    own = anova_lm(expected, typ=2).sum_sq["a"]
    assert effect.error is not None and effect.error.df == between["df_diff"][1] == 4
    assert effect.error.sd**2 == pytest.approx(mean_square, rel=1e-6)
    assert pytest.approx(own / mean_square, rel=1e-6) == effect.F
    assert effect.estimate is not None
    assert effect.estimate.value == pytest.approx(expected.params["a"])
    assert "t on 4 df of seed × a" in effect.estimate.method
    assert "seed × two-factor interactions" in (named(blocked)["a × b"].error or effect.error).source
    unblocked = analyse_effects(table, "y", ["a", "b"])
    assert unblocked.error is not None and unblocked.error.sd > 50 * blocked.error.sd


def test_seeds_that_are_not_crossed_are_ignored_and_said() -> None:
    rows = grid({"a": (1, 2)}, seeds=4)
    table = noisy(rows, np.random.default_rng(0)).with_columns(seed=pl.Series(range(len(rows))))
    effects = analyse_effects(table, "y", ["a"], block="seed")
    assert effects.block is None and "block_not_crossed" in codes(effects)
    assert effects.error is not None and effects.error.df == 6


def test_a_known_balanced_design_without_noise_gives_its_effects_back() -> None:
    """Noise that is a contrast of replicates alone: effects are exact, and so is the error."""
    rows = grid({"width": (32, 64, 128), "drop": (0.0, 0.1)}, seeds=2)
    table = pl.DataFrame(rows).with_columns(
        y=2.0
        - 0.25 * (pl.col("width") / 32).log(2)
        + 0.02 * (pl.col("width") / 32).log(2) ** 2
        + 3.0 * pl.col("drop")
        + pl.when(pl.col("seed") == 1).then(0.01).otherwise(-0.01)
    )
    effects = analyse_effects(table, "y", ["width", "drop"])
    width, drop, both = effects.effects
    assert width.contrast == "linear, per doubling" and width.df == 2
    assert width.estimate is not None and width.estimate.value == pytest.approx(-0.21)  # -0.25 + 2 · 0.02
    (quadratic,) = width.others
    assert quadratic.estimate is not None and quadratic.estimate.value == pytest.approx(0.02)
    assert drop.estimate is not None and drop.estimate.value == pytest.approx(0.3)
    assert both.estimate is not None and both.estimate.value == pytest.approx(0, abs=1e-12)
    assert effects.error is not None and effects.error.df == 6
    assert effects.error.sd == pytest.approx(math.sqrt(12 * 0.01**2 / 6))
    blocked = analyse_effects(table, "y", ["width", "drop"], block="seed")
    assert blocked.error is None and "no_noise" in codes(blocked)
    assert all(effect.F is None and effect.p is None for effect in blocked.effects)
    assert [effect.estimate.low for effect in blocked.effects if effect.estimate] == [None] * 3


def test_an_interaction_of_two_levels_each_is_half_the_difference_of_differences() -> None:
    table = pl.DataFrame({"a": [1, 1, 2, 2], "b": ["p", "q", "p", "q"], "y": [0.0, 1.0, 2.0, 7.0]})
    effect = named(analyse_effects(table, "y", ["a", "b"]))["a × b"]
    assert effect.contrast == "½ (2 − 1) × (q − p)"
    assert effect.estimate is not None and effect.estimate.value == pytest.approx(2.0)  # ((7 - 2) - (1 - 0)) / 2


def test_levels_of_words_and_of_numbers_with_zero_are_compared_with_the_first() -> None:
    table = noisy(grid({"data": ("wiki", "books", "code"), "drop": (0.2, 0.0, 0.1)}, 2), np.random.default_rng(0))
    effects = named(analyse_effects(table, "y", ["data", "drop"]))
    assert [effects["data"].contrast, *(other.contrast for other in effects["data"].others)] == [
        "code − books",
        "wiki − books",
    ]
    assert effects["drop"].contrast == "0.1 − 0.0"
    assert len(effects["data × drop"].others) == 3


def test_seeds_are_labels_without_order() -> None:
    """Their levels have no slope and no best value, and their order is no distance; the width beside them is one."""
    levels = {"init_seed": (1, 2, 10), "data_seed": (1, 2, 4), "width": (32, 64, 128)}
    table = noisy(grid(levels, 1), np.random.default_rng(0))
    table = table.with_columns(y=pl.col("y") + 3.0 * (pl.col("init_seed") - 2) ** 2 + pl.col("width").log(2) ** 2)
    found = analyse_effects(table, "y", list(levels))
    effects = named(found)
    assert [effects["init_seed"].contrast, *(other.contrast for other in effects["init_seed"].others)] == [
        "2 − 1",
        "10 − 1",
    ]
    assert effects["data_seed"].contrast == "2 − 1" and effects["width"].contrast == "linear, per doubling"
    assert {each.factor for each in found.optima} == {"width"} and found.shifts == ()
    blocked = analyse_effects(table, "y", ["init_seed", "width"], block="data_seed")
    assert blocked.block == "data_seed" and named(blocked)["init_seed"].df == 2


def test_a_difference_names_the_degrees_of_freedom_of_its_own_factor() -> None:
    table = noisy(grid({"a": (1, 2), "b": (1, 2, 4)}, 3), np.random.default_rng(0))
    for factor, levels in (("a", (1, 2)), ("b", (1, 4))):
        found = level_difference(table, "y", factor, *levels, ["a", "b"], "seed")
        [few] = [caution.text for caution in found.cautions if caution.code == "few_blocks"]
        assert (
            found.estimate
            and "on 2 degrees of freedom" in few
            and f"t on 2 df of seed × {factor}" in found.estimate.method
        )


def test_no_contrast_of_words_depends_on_the_order_of_rows() -> None:
    table = noisy(grid({"data": ("wiki", "books", "code"), "tied": (True, False)}, 2), np.random.default_rng(0))
    forward, backward = (analyse_effects(each, "y", ["data", "tied"]) for each in (table, table.reverse()))
    for one, other in zip(forward.effects, backward.effects, strict=True):
        assert one.contrast == other.contrast and one.estimate and other.estimate
        assert one.estimate.value == pytest.approx(other.estimate.value)


def test_a_sweep_that_turns_is_compared_over_its_own_runs_with_a_warning() -> None:
    losses = {1e-4: 3.0, 3e-4: 2.5, 1e-3: 2.2, 3e-3: 2.6}
    table = noisy(grid({"rate": tuple(losses), "width": (32, 64)}, 3), np.random.default_rng(0))
    table = table.with_columns(y=pl.col("y") * 0.02 + pl.col("rate").replace_strict(losses))
    ends = level_difference(table, "y", "rate", 1e-4, 3e-3, ["rate", "width"])
    assert ends.estimate is not None and ends.estimate.n == 12
    (caution,) = (one for one in ends.cautions if one.code == "not_monotone")
    assert "0.0001" in caution.text and "0.003" in caution.text and "the lowest is at 0.001" in caution.text
    falling = level_difference(table, "y", "rate", 1e-3, 1e-4, ["rate", "width"])
    assert "not_monotone" not in [one.code for one in falling.cautions]


@pytest.mark.parametrize("times", [1.0, 10.0])
def test_intervals_of_main_effects_cover_their_truth(times: float) -> None:
    """400 unbalanced blocked designs of 8 cells, also where one level is noisier: 95% intervals, as stated."""
    generator = np.random.default_rng(11)
    rows = grid({"a": (1, 2), "b": (1, 2), "c": (1, 2)}, seeds=2)
    rows += rows[:5]
    base = pl.DataFrame(rows)
    truth = {"a": 0.7, "b": 0.0, "c": -0.2}
    mean = sum(size * (base[name].to_numpy() - 1) for name, size in truth.items()) + 3.0 * base["seed"].to_numpy()
    covered = 0
    for _ in range(400):
        noise = generator.normal(size=len(base)) * np.where(base["a"] == 2, times, 1.0)
        table = base.with_columns(y=pl.Series(mean + noise))
        effects = named(analyse_effects(table, "y", ["a", "b", "c"], block="seed"))
        for name, size in truth.items():
            estimate = effects[name].estimate
            assert estimate is not None and estimate.low is not None and estimate.high is not None
            covered += estimate.low <= size <= estimate.high
    assert 0.93 <= covered / 1200 <= 0.98


def test_a_level_with_a_single_run_is_as_uncertain_as_the_others_are() -> None:
    """Nothing shows how it differs from seed to seed: its intervals must hold nonetheless."""
    generator, covered = np.random.default_rng(2), 0
    rows = [row for row in grid({"a": (1, 2, 4, 8)}, seeds=4) if row["a"] < 8 or row["seed"] == 0]
    for _ in range(200):
        table = noisy(rows, generator).with_columns(pl.col("y") + 5.0 * pl.col("seed"))
        found = level_difference(table, "y", "a", 1, 8, ["a"], "seed").estimate
        assert found is not None and found.low is not None and found.high is not None
        covered += found.low <= 0 <= found.high
    assert covered >= 180


def test_what_two_of_five_seeds_tell_has_one_degree_of_freedom() -> None:
    """A level that lost its runs in three seeds: the interval is that of the paired t test of the two that are left."""
    table = noisy(grid({"a": ("p", "q")}, seeds=5), np.random.default_rng(3)).with_columns(pl.col("y") + pl.col("seed"))
    table = table.filter((pl.col("a") == "p") | (pl.col("seed") < 2))
    found = level_difference(table, "y", "a", "p", "q", ["a"], "seed").estimate
    p, q = (table.filter(pl.col("a") == each, pl.col("seed") < 2)["y"].to_numpy() for each in ("p", "q"))
    expected = stats.ttest_rel(q, p)
    assert found is not None and (found.low, found.high) == pytest.approx(tuple(expected.confidence_interval()))
    effect = analyse_effects(table, "y", ["a"], "seed").effects[0]
    assert effect.p == pytest.approx(expected.pvalue) and effect.F_df == pytest.approx((1, 1))


def test_cells_whose_rounded_runs_tie_are_held_against_the_noise_of_the_others() -> None:
    rows = [("u", "p", 3.1), ("u", "p", 3.3), ("u", "p", 3.2), ("v", "p", 3.5), ("v", "p", 3.5), ("v", "q", 3.5)]
    table = pl.DataFrame([*rows, ("v", "q", 3.5)], schema=["a", "b", "y"], orient="row")
    effect = named(analyse_effects(table, "y", ["a", "b"]))["b"]
    assert pytest.approx(0.0, abs=1e-9) == effect.F and effect.p == pytest.approx(1.0)
    assert effect.estimate is not None and effect.estimate.high is not None and effect.estimate.high > 0.05


def test_each_levels_mean_has_its_own_noise_without_blocks() -> None:
    generator = np.random.default_rng(6)
    table = pl.DataFrame([{"a": a, "y": generator.normal(0, 0.01 * 10.0**a)} for a in (0, 1, 2) for _ in range(5)])
    half_widths = analyse_effects(table, "y", ["a"]).effects[0].half_widths
    own = [table.filter(pl.col("a") == a)["y"].to_numpy() for a in (0, 1, 2)]
    assert half_widths == pytest.approx([stats.t.ppf(0.975, 4) * y.std(ddof=1) / math.sqrt(5) for y in own])
    crossed = pl.concat([table, table.with_columns(pl.col("y") * 3 + 1)]).with_columns(
        b=pl.Series([1, 2]).repeat_by(15).explode()
    )
    widths = named(analyse_effects(crossed, "y", ["a", "b"]))["a"].half_widths
    variances = [(y.var(ddof=1) / 5 / 4, 9 * y.var(ddof=1) / 5 / 4) for y in own]
    df = [4 * sum(both) ** 2 / sum(each**2 for each in both) for both in variances]
    expected = [stats.t.ppf(0.975, n) * math.sqrt(sum(both)) for n, both in zip(df, variances, strict=True)]
    assert widths == pytest.approx(expected)


def test_the_largest_difference_holds_the_truth_also_where_its_own_spread_is_small_by_chance() -> None:
    """Of five equal levels the two that lie furthest apart are compared: 95% of intervals or more hold zero."""
    generator, covered = np.random.default_rng(9), 0
    for _ in range(150):
        found = analyse_effects(noisy(grid({"a": (1, 2, 4, 8, 16)}, 3), generator), "y", ["a"], "seed").effects[0].range
        assert found is not None and found.estimate.low is not None
        covered += found.estimate.low <= 0
    assert covered >= 142


def test_a_level_without_seeds_is_left_out_of_figures_as_of_the_analysis() -> None:
    table = noisy(grid({"a": (1, 2), "b": (1, 2)}, seeds=3), np.random.default_rng(0))
    lost = pl.DataFrame({"a": [4], "b": [1], "seed": [None], "y": [0.5]}, schema=table.schema)
    whole = pl.concat([table, lost])
    effects = analyse_effects(whole, "y", ["a", "b"], "seed")
    text = chapter_as_text(effects_chapter(effects, whole))
    assert effects.n == 12 and "12 runs in 4 combinations" in text and "between seeds, on 2" in text
    alone = analyse_effects(table, "y", ["a", "b"])
    assert "from the spread within each combination, on" in chapter_as_text(effects_chapter(alone, table))


@pytest.mark.parametrize(("shape", "seeds"), [((4, 4), 2), ((2, 2, 2), 3)])
def test_equal_noise_is_seldom_called_unequal(shape: tuple[int, ...], seeds: int) -> None:
    generator, called = np.random.default_rng(4), 0
    rows = grid({"abc"[i]: tuple(range(levels)) for i, levels in enumerate(shape)}, seeds)
    for _ in range(100):
        called += "unequal_noise" in codes(
            analyse_effects(noisy(rows, generator), "y", ["a", "b", "c"][: len(shape)], "seed")
        )
    assert called <= 12  # 5 expected; 12 is beyond the 99.5th percentile


def test_null_designs_make_few_false_claims() -> None:
    """Replicated, and screened without replicates: after Holm, at most 5% of 150 tables claim anything."""
    generator = np.random.default_rng(5)
    replicated = grid({"a": (1, 2, 3), "b": (1, 2), "c": (1, 2)}, seeds=2)
    screened = grid({"a": (1, 2), "b": (1, 2), "c": (1, 2), "d": (1, 2)})
    for rows, factors in ((replicated, ["a", "b", "c"]), (screened, ["a", "b", "c", "d"])):
        false = 0
        for _ in range(150):
            effects = analyse_effects(noisy(rows, generator), "y", factors, block="seed").effects
            false += any(effect.p_holm is not None and effect.p_holm < 0.05 for effect in effects)
        assert false <= 14  # 7.5 expected at most; 14 is the 99th percentile


def test_a_level_difference_is_the_effects_own_estimate(unbalanced: pl.DataFrame) -> None:
    effect = named(analyse_effects(unbalanced, "y", ["a", "b"]))["b"]
    (r_minus_p,) = (other.estimate for other in effect.others if other.contrast == "r − p")
    difference = level_difference(unbalanced, "y", "b", "p", "r", ["a", "b"])
    assert difference.estimate is not None and r_minus_p is not None
    assert (difference.estimate.value, difference.estimate.low) == pytest.approx((r_minus_p.value, r_minus_p.low))
    assert (
        difference.estimate.method == "difference of least-squares means; t on 2.741 df of the spread within each cell"
    )
    back = level_difference(unbalanced, "y", "b", "r", "p", ["a", "b"])
    assert back.estimate is not None and back.estimate.value == pytest.approx(-difference.estimate.value)
    assert back.p == pytest.approx(difference.p)
    fit = oracle(unbalanced, "y ~ C(a, Sum) * C(b, Treatment('p'))")
    assert difference.estimate.value == pytest.approx(fit.params["C(b, Treatment('p'))[T.r]"])


@pytest.mark.parametrize("levels", [("p", "z"), ("p", "p"), (1, 2)])
def test_a_level_difference_needs_two_levels_of_the_table(unbalanced: pl.DataFrame, levels: tuple[Any, Any]) -> None:
    with pytest.raises(ConfigError, match="'b'"):
        level_difference(unbalanced, "y", "b", *levels, ["a"])


def test_unreplicated_tables_have_values_and_only_higher_orders_as_noise() -> None:
    table = noisy(grid({"a": (1, 2), "b": (1, 2, 4)}), np.random.default_rng(0))
    saturated = analyse_effects(table, "y", ["a", "b"])
    assert saturated.error is None and "no_error" in codes(saturated) and not saturated.replicated
    difference = level_difference(table, "y", "a", 1, 2, ["a", "b"])
    assert difference.estimate is not None and difference.p is None
    assert (difference.estimate.low, difference.estimate.high) == (None, None)
    larger = noisy(grid({"a": (1, 2), "b": (1, 2, 4), "c": (1, 2)}), np.random.default_rng(0))
    pooled = analyse_effects(larger, "y", ["a", "b", "c"])
    expected = oracle(larger, "y ~ (C(a) + C(b) + C(c))**2")
    assert pooled.error is not None and pooled.error.screening and pooled.error.df == expected.df_resid == 2
    assert pooled.error.sd**2 == pytest.approx(expected.mse_resid)
    assert "unreplicated" in codes(pooled)
    assert all("screening" in effect.estimate.method for effect in pooled.effects if effect.estimate)


def test_words_with_an_empty_cell_are_taken_to_add_up() -> None:
    """Sizes are those of statsmodels' additive model, and it is said."""
    table = noisy(grid({"a": (1, 2), "b": ("x", "y")}, seeds=4), np.random.default_rng(2))
    table = table.filter((pl.col("a") == 1) | (pl.col("b") == "x"))
    effects = analyse_effects(table, "y", ["a", "b"])
    assert {"empty_cells", "incomplete_grid"} <= set(codes(effects)) and "add up" in said(effects, "incomplete_grid")
    interaction = named(effects)["a × b"]
    assert (interaction.df, interaction.F, interaction.p, interaction.estimate) == (0, None, None, None)
    main = named(effects)["a"]
    additive = oracle(table, "y ~ C(a) + C(b)")
    f, df = uneven_test(table, ["a", "b"], "y ~ C(a) + C(b)", "y ~ C(b)")
    assert main.F_df is not None and (main.F, main.F_df[0]) == pytest.approx((f, df))
    difference = level_difference(table, "y", "a", 1, 2, ["a", "b"]).estimate
    assert main.estimate and difference
    assert difference.value == pytest.approx(main.estimate.value) == pytest.approx(additive.params["C(a)[T.2]"])


@pytest.mark.parametrize("across", [0.0, 0.3])
def test_a_missing_corner_of_a_sweep_removes_no_size(across: float) -> None:
    """The means that a whole grid has come back, also where the factors interact, as parabolas say how they do."""
    rates, widths = (1e-4, 3e-4, 1e-3, 3e-3), (32, 64, 128, 256)

    def loss(row: dict[str, Any]) -> float:
        x, z = math.log2(row["rate"] / 1e-3), math.log2(row["width"] / 64)
        return 2 + 0.05 * x**2 - 0.2 * z + across * x * z

    whole = pl.DataFrame([{**row, "y": loss(row)} for row in grid({"rate": rates, "width": widths})])
    corner = whole.filter((pl.col("rate") < 3e-3) | (pl.col("width") < 256))
    with_all, without = (analyse_effects(table, "y", ["rate", "width"]) for table in (whole, corner))
    assert len(corner) == 15 and "parabolas" in said(without, "incomplete_grid")
    for complete, partial in zip(with_all.effects[:2], without.effects[:2], strict=True):
        assert complete.estimate and partial.estimate and complete.range and partial.range
        assert partial.estimate.value == pytest.approx(complete.estimate.value, abs=1e-9)
        assert partial.range.estimate.value == pytest.approx(complete.range.estimate.value, abs=1e-9)
    assert without.effects[2].estimate and without.effects[2].estimate.value == pytest.approx(across, abs=1e-9)


def said(effects: Effects, code: str) -> str:
    return next(caution.text for caution in effects.cautions if caution.code == code)


def test_aliased_factors_are_named_and_have_no_number() -> None:
    table = noisy(grid({"width": (64, 128), "drop": (0, 1)}, seeds=3), np.random.default_rng(0))
    table = table.with_columns(heads=pl.col("width") // 16)
    effects = analyse_effects(table, "y", ["width", "heads", "drop"])
    (aliased,) = (caution for caution in effects.cautions if caution.code == "aliased")
    assert "width and heads" in aliased.text
    assert named(effects)["width"].df == named(effects)["heads"].df == 0
    assert named(effects)["width"].estimate is None
    assert pytest.approx(anova_lm(oracle(table, "y ~ C(width) * drop"), typ=2).F["drop"]) == named(effects)["drop"].F


def test_interactions_of_three_factors_that_stand_out_are_said() -> None:
    table = noisy(grid({"a": (-1, 1), "b": (-1, 1), "c": (-1, 1)}, seeds=3), np.random.default_rng(0), 0.1)
    table = table.with_columns(y=pl.col("y") + pl.col("a") * pl.col("b") * pl.col("c"))
    effects = analyse_effects(table, "y", ["a", "b", "c"])
    assert "higher_order" in codes(effects)
    assert effects.error is not None and effects.error.df == 16 and effects.error.sd < 0.2


def test_combinations_without_a_run_are_counted() -> None:
    rows = [
        {"a": a, "b": b, "y": a + b + 0.1 * r} for a in (1, 2, 3) for b in (1, 2, 3, 4) for r in (0, 1) if a * b < 9
    ]
    found = analyse_effects(pl.DataFrame(rows), "y", ["a", "b"])
    said = {caution.code: caution.text for caution in found.cautions}
    assert said["empty_cells"] == "2 of 12 combinations of levels have no run."


def test_what_differs_by_rounding_alone_is_the_same() -> None:
    table = pl.DataFrame({"a": [1, 1, 2, 2], "y": [0.3, 0.1 + 0.2, 0.3, 0.1 + 0.2]})
    assert [caution.code for caution in analyse_effects(table, "y", ["a"]).cautions] == ["constant_response"]


def test_tables_with_nothing_to_find() -> None:
    rows = pl.DataFrame(grid({"a": (1, 2), "b": (1, 2)}, seeds=2))
    constant = analyse_effects(rows.with_columns(y=pl.lit(0.1)), "y", ["a", "b"])
    assert "constant_response" in codes(constant)
    assert all(e.F is None and e.p is None and e.p_holm is None for e in constant.effects)
    assert [e.estimate.value for e in constant.effects if e.estimate] == pytest.approx([0, 0, 0], abs=1e-15)
    one = analyse_effects(pl.DataFrame({"a": [1], "y": [2.0]}), "y", ["a"])
    assert (one.n, one.effects, codes(one)) == (1, (), ["one_level", "no_factor"])
    dropped = analyse_effects(noisy(rows.with_columns(b=1).to_dicts(), np.random.default_rng(0)), "y", ["a", "b"])
    assert [e.term for e in dropped.effects] == ["a"] and "one_level" in codes(dropped)


def test_rows_without_a_value_are_left_out_and_counted() -> None:
    table = noisy(grid({"a": (1.0, 2.0)}, seeds=4), np.random.default_rng(0))
    damaged = pl.concat(
        [table, pl.DataFrame({"a": [1.0, math.nan, None, 2.0], "seed": [8, 8, 8, 8], "y": [math.nan, 1.0, 1.0, None]})]
    )
    effects = analyse_effects(damaged, "y", ["a"])
    assert effects.n == 8 and effects.effects == analyse_effects(table, "y", ["a"]).effects
    assert effects.cautions[0].code == "incomplete_rows" and "4 of 12" in effects.cautions[0].text


@pytest.mark.parametrize(
    ("response", "factors", "block", "says"),
    [
        ("y", ["y"], None, "both the response and a factor"),
        ("y", ["a"], "y", "both the response and the block"),
        ("y", ["a"], "a", "both a factor and the block"),
        ("y", [], None, "no factor"),
        ("y", ["aa"], None, "no column 'aa'"),
        ("word", ["a"], None, "not numeric"),
        ("y", ["x"], None, "5,000 levels"),
        ("huge", ["a"], None, "rescale it"),
        ("y", ["lists"], None, "neither factor nor block"),
        ("y", ["m1", "m2"], None, "2,352 columns"),
        ("y", [f"f{number}" for number in range(13)], None, "13 factors"),
    ],
)
def test_bad_input_is_one_clear_line(response: str, factors: list[str], block: str | None, says: str) -> None:
    n = 5000
    number = pl.Series(range(n))
    table = pl.DataFrame({"a": number % 2, "y": number / 7, "x": number / 3, "word": ["w"] * n}).with_columns(
        m1=number % 48, m2=number // 48 % 49, lists=pl.concat_list("a", "a"), huge=number * 1e200
    )
    with pytest.raises(ConfigError, match=says) as caught:
        analyse_effects(table, response, factors, block)
    assert "\n" not in str(caught.value)


def test_ten_thousand_rows_take_well_under_two_seconds() -> None:
    generator = np.random.default_rng(0)
    table = pl.DataFrame({f"f{i}": generator.integers(1, levels, 10_000) for i, levels in enumerate((3, 4, 5, 6))})
    table = table.with_columns(y=pl.Series(generator.normal(size=10_000)))
    start = time.perf_counter()
    effects = analyse_effects(table, "y", table.columns[:4])
    assert time.perf_counter() - start < 1.5
    assert effects.n == 10_000 and effects.error is not None and effects.error.df == 10_000 - 120


def test_text_and_json_say_the_same(unbalanced: pl.DataFrame) -> None:
    effects = analyse_effects(unbalanced, "y", ["a", "b"])
    text = chapter_as_text(effects_chapter(effects, unbalanced))
    assert "17 runs in 6 combinations of levels." in text
    assert all(len(line) <= 110 for line in text.splitlines())
    assert "The table is unbalanced (1 to 5 runs a cell" in text and "low − high" in text
    data = json.loads(effects_as_json(effects))
    first = effects.effects[0]
    assert first.estimate is not None
    assert data["effects"][0]["estimate"]["value"] == first.estimate.value
    assert data["effects"][0]["p"] == first.p
    assert data["error"]["df"] == 11 and data["screening"] is None


def test_copies_are_no_replicates() -> None:
    rows = pl.DataFrame(grid({"a": (1, 2), "b": (1, 2)}, seeds=3)).with_row_index("run")
    rows = rows.with_columns(y=pl.Series(np.random.default_rng(0).normal(size=len(rows))))
    once, twice = (analyse_effects(table, "y", ["a", "b"], "seed") for table in (rows, pl.concat([rows, rows])))
    assert "duplicate_rows" in codes(twice) and twice.n == once.n == 12
    assert twice.effects == once.effects
    assert "duplicate_rows" in codes(analyse_effects(pl.concat([rows, rows]), "y", ["a", "b"]))


def test_an_effect_that_differs_from_seed_to_seed_is_said() -> None:
    """Runs of one seed and width share their start: then widths are as well known as the seeds are many."""
    said = quiet = held = 0
    for trial in range(40):
        rng = np.random.default_rng(trial)
        rows = pl.DataFrame(grid({"width": (1, 2), "b": (1, 2, 3, 4)}, seeds=3))
        noise = pl.Series(rng.normal(size=len(rows)))
        lucky = dict(zip(itertools.product((1, 2), rows["seed"].unique()), rng.normal(0, 3, 6), strict=True))
        shared = pl.Series([lucky[w, s] for w, s in rows.select("width", "seed").iter_rows()])
        said += "differs_by_block" in codes(
            analyse_effects(rows.with_columns(y=noise + shared), "y", ["width", "b"], "seed")
        )
        another = level_difference(rows.with_columns(y=noise + shared), "y", "b", 1, 2, ["width", "b"], "seed")
        assert not any("width" in caution.text for caution in another.cautions)
        table = rows.with_columns(y=noise + shared)
        claimed = level_difference(table, "y", "width", 1, 2, ["width", "b"], "seed").estimate
        listed = analyse_effects(table, "y", ["width", "b"], "seed").effects[0].estimate
        assert claimed and claimed.low and claimed.high and listed and listed.low and listed.high
        held += claimed.low < 0 < claimed.high  # luck has no mean: the truth is no difference
        assert (listed.low, listed.high) == pytest.approx((claimed.low, claimed.high))
        quiet += "differs_by_block" not in codes(
            analyse_effects(rows.with_columns(y=noise), "y", ["width", "b"], "seed")
        )
    assert said >= 30 and quiet >= 35
    assert held >= 36


def test_a_block_that_leaves_no_run_over_is_none() -> None:
    """Two cells and two seeds less one run: cells and seeds explain every difference."""
    rows = noisy(grid({"a": (1, 2)}, seeds=2), np.random.default_rng(0), 0.1)[1:]
    found = analyse_effects(rows, "y", ["a"], "seed")
    assert found.block is None and "block_not_crossed" in codes(found)


def test_seeds_are_blocks_where_a_run_is_lost() -> None:
    """Without them, an effect that differs from seed to seed would be held against the noise of single runs."""
    rng = np.random.default_rng(3)
    rows = pl.DataFrame(grid({"a": (1, 2), "b": (1, 2, 3, 4)}, seeds=3))
    luck = dict(zip(itertools.product((1, 2), rows["seed"].unique()), rng.normal(0, 3, 6), strict=True))
    rows = rows.with_columns(
        y=pl.Series(
            [
                luck[a, s] + noise
                for (a, s), noise in zip(rows.select("a", "seed").iter_rows(), rng.normal(size=len(rows)), strict=True)
            ]
        )
    )
    whole, less = (named(analyse_effects(table, "y", ["a", "b"], "seed"))["a"] for table in (rows, rows[1:]))
    assert whole.error is not None and less.error is not None
    assert less.error.source == whole.error.source == "seed × a" and 1.9 < less.error.df < whole.error.df == 2
    assert less.error.sd == pytest.approx(whole.error.sd, rel=0.2)
