"""When the mean of replicates reaches a target: against scipy, at unequal steps, never, by one run, by group."""

from __future__ import annotations

import json
import math

import numpy as np
import polars as pl
import pytest
from scipy import stats

from isoloss.analysis.convergence import analyse_convergence, convergence_as_json
from isoloss.analysis.crossing import Crossing, crossings
from isoloss.analysis.curves import Curve
from isoloss.errors import ConfigError
from isoloss.report.chapter import chapter_as_text
from isoloss.report.chapters.convergence import convergence_chapter
from tests.test_convergence import FEW, Floats, power_law, simulate

TARGET = 2.35


def one(table: pl.DataFrame, target: float = TARGET, p: float = 0.01) -> Crossing:
    [found] = analyse_convergence(table, target=target, p=p).crossing
    return found


def test_the_step_is_the_first_whose_t_test_passes() -> None:
    table = simulate(FEW, power_law(FEW), 0.02, 5, seed=1)
    loss_uxj = table["loss"].to_numpy().reshape(5, -1)
    p_j = np.asarray(stats.ttest_1samp(loss_uxj, TARGET, alternative="less").pvalue)
    for limit in (0.01, 1e-4):
        found = one(table, p=limit)
        place = int(np.argmax(p_j <= limit))
        assert (found.group, found.step, found.n) == (None, FEW[place], 5)
        assert found.p == pytest.approx(p_j[place])
        assert f"{limit:g}" in found.method


def test_the_interval_is_where_the_band_of_the_mean_crosses() -> None:
    table = simulate(FEW, power_law(FEW), 0.02, 5, seed=1)
    loss_uxj = table["loss"].to_numpy().reshape(5, -1)
    interval = stats.ttest_1samp(loss_uxj, TARGET).confidence_interval(0.95)
    found = one(table)
    curves = (np.asarray(interval.low), loss_uxj.mean(0), np.asarray(interval.high))
    for crossed, value_j in zip((found.low, found.mean_step, found.high), curves, strict=True):
        assert crossed is not None
        assert np.interp(crossed, FEW, value_j) == pytest.approx(TARGET)
        assert (value_j[crossed > FEW] > TARGET).all()
    assert found.low is not None and found.mean_step is not None and found.high is not None
    assert found.low < found.mean_step < found.high


def test_the_interval_covers_where_the_expected_loss_crosses() -> None:
    generator = np.random.default_rng(4)
    early = late = 0
    for _ in range(500):
        losses = power_law(FEW) + generator.normal(0, 0.01, (5, 1)) + generator.normal(0, 0.01, (5, len(FEW)))
        # Straight lines between evaluations, as the truth is taken here.
        expected = float(np.interp(1001, FEW, power_law(FEW)))
        [found] = crossings([Curve(f"r{run}", FEW, loss_n) for run, loss_n in enumerate(losses)], expected)
        early += found.high is not None and found.high < 1001
        late += found.low is not None and found.low > 1001
    assert early <= 0.05 * 500 and late <= 0.05 * 500


def test_a_target_that_is_never_reached_has_no_step() -> None:
    table = simulate(FEW, power_law(FEW), 0.02, 5)
    found = one(table, target=1.0)
    assert (found.step, found.p, found.mean_step, found.low, found.high, found.n) == (None, None, None, None, None, 5)
    assert "no step passes" in found.method
    text = chapter_as_text(convergence_chapter(analyse_convergence(table, target=1.0)))
    assert "was at no step below 1 nats by more than" in text


def test_one_run_has_no_t_test() -> None:
    found = one(simulate(FEW, power_law(FEW), 0.0, 1))
    assert (found.step, found.p, found.low, found.high, found.n) == (None, None, None, None, 1)
    assert found.mean_step == pytest.approx(np.interp(-TARGET, -power_law(FEW), FEW))
    assert "no t test" in found.method
    chapter_as_text(convergence_chapter(analyse_convergence(simulate(FEW, power_law(FEW), 0.0, 1), target=TARGET)))


def test_equal_runs_pass_where_they_are_below() -> None:
    apart = pl.when(pl.col("step") == FEW[0]).then(pl.col("loss") + pl.col("run").rank("dense")).otherwise("loss")
    table = simulate(FEW, power_law(FEW), 0.0, 3).with_columns(loss=apart)
    found = one(table)
    assert found.step == FEW[power_law(FEW) < TARGET][0] and found.p == 0.0
    assert found.low == found.mean_step == found.high


def test_a_mean_below_the_target_from_the_first_step_on_has_no_lower_end() -> None:
    found = one(simulate(FEW, power_law(FEW), 0.02, 5), target=9.0)
    assert (found.step, found.mean_step, found.low, found.high) == (200, 200, None, 200)
    assert "at the first step" in found.method


def curve(run: str, step_n: Floats, shift: float) -> pl.DataFrame:
    return pl.DataFrame({"run": run, "step": step_n, "loss": 3 - step_n / 1000 + shift})


def test_runs_that_are_evaluated_at_different_steps() -> None:
    apart = pl.concat([curve("a", np.arange(100.0, 1001, 100), 0.01), curve("b", np.arange(150.0, 1051, 100), -0.01),
                       curve("c", np.arange(130.0, 1031, 100), 0.0)])  # fmt: skip
    found = one(apart, target=2.5)
    assert found.mean_step == pytest.approx(500) and "straight lines between their own" in found.method
    assert found.step is not None and 500 < found.step < 560
    partly = pl.concat([curve("a", np.arange(100.0, 1001, 100), 0.01), curve("b", np.arange(200.0, 1001, 200), -0.01),
                        curve("c", np.arange(100.0, 801, 100), 0.0)])  # fmt: skip
    found = one(partly, target=2.5)
    assert found.step == 600 and "the steps that all have, up to step 800" in found.method
    never = pl.concat([curve("a", np.arange(100.0, 301, 100), 0.0), curve("b", np.arange(500.0, 901, 100), 0.0)])
    found = one(never, target=2.5)
    assert (found.step, found.p, found.mean_step) == (None, None, None) and "no steps in common" in found.method


def test_groups_are_tested_apart() -> None:
    fast = simulate(FEW, power_law(FEW) - 0.3, 0.01, 4).with_columns(optimizer=pl.lit("new"), run="n" + pl.col("run"))
    slow = simulate(FEW, power_law(FEW), 0.01, 3).with_columns(optimizer=pl.lit("old"))
    single = simulate(FEW, power_law(FEW), 0.01, 1).with_columns(optimizer=pl.lit("once"), run=pl.lit("o"))
    table = pl.concat([fast, slow, single])
    convergence = analyse_convergence(table, target=TARGET, group="optimizer")
    shown = json.loads(convergence_as_json(convergence))["crossing"]
    assert [*shown[0]] == ["group", "step", "p", "mean_step", "low", "high", "n", "method"]
    assert [(entry["group"], entry["n"]) for entry in shown] == [("new", 4), ("old", 3), ("once", 1)]
    assert shown[0]["step"] < shown[1]["step"] and shown[2]["p"] is None
    alone = one(fast.drop("optimizer"))
    assert (shown[0]["step"], shown[0]["low"]) == (alone.step, alone.low)
    chapter = convergence_chapter(convergence)
    assert any(f"by step {shown[0]['step']:g} for new" in sentence for sentence in chapter.answer)
    [crossing] = [each for each in chapter.tables if each.name == "crossing"]
    assert crossing.frame["group"].to_list() == ["new", "old", "once"]
    numbers = analyse_convergence(table.with_columns(g=pl.col("run").str.len_chars()), target=TARGET, group="g")
    assert {type(each.group) for each in numbers.crossing} == {int}


def test_bad_requests_are_one_clear_line() -> None:
    table = simulate(FEW, power_law(FEW), 0.01, 2)
    with pytest.raises(ConfigError, match="no column 'optimiser'"):
        analyse_convergence(table, target=2.0, group="optimiser")
    with pytest.raises(ConfigError, match="more than one value in column 'step'"):
        analyse_convergence(table, target=2.0, group="step")
    with pytest.raises(ConfigError, match="needs a target"):
        analyse_convergence(table, group="run")
    for p in (0.0, 1.0, math.nan):
        with pytest.raises(ConfigError, match="between 0 and 1"):
            analyse_convergence(table, target=2.0, p=p)
