"""Convergence where curves have what real ones have: spikes, jumps, NaN, cooldowns, learning rates."""

from __future__ import annotations

import json
import math

import numpy as np
import polars as pl
import pytest
from numpy.typing import NDArray

from isoloss.analysis.convergence import analyse_convergence, convergence_as_json
from isoloss.analysis.curves import short_term_noise
from isoloss.analysis.plateau import plateau_counts
from isoloss.analysis.pooling import robust_variance, typical
from isoloss.errors import ConfigError
from isoloss.report.chapter import chapter_as_text
from isoloss.report.chapters.convergence import convergence_chapter
from tests.test_convergence import FEW, MANY, SHORT, Floats, flat, power_law, simulate, states, u_turn


def added(table: pl.DataFrame, runs: int, size: float, since: float, until: float = math.inf) -> pl.DataFrame:
    """The first runs of a table, with `size` added to their losses from one step to another."""
    there = pl.col("run").is_in([f"r{run}" for run in range(runs)]) & pl.col("step").is_between(since, until)
    return table.with_columns(loss=pl.when(there).then(pl.col("loss") + size).otherwise("loss"))


def cooldown(step_n: Floats, share: float, drop: float) -> Floats:
    """Nearly flat, then a fall by `drop` over the last share of the steps."""
    place_n = step_n / step_n[-1]
    return 2 - 0.003 * np.log2(place_n) - drop * np.clip((place_n - 1 + share) / share, 0, 1)


@pytest.mark.parametrize(("runs", "spiky"), [(16, 1), (16, 2), (16, 5), (4, 1), (3, 1), (2, 1)])
@pytest.mark.parametrize("at", [1600.0, 2000.0])
def test_spikes_of_some_runs_do_not_make_the_others_noisy(runs: int, spiky: int, at: float) -> None:
    told = said = 0
    for seed in range(10):
        clean = simulate(FEW, flat(FEW), 0.003, runs, seed=seed)
        convergence = analyse_convergence(added(clean, spiky, 0.5, at, at))
        others = convergence.runs[spiky:]
        told += sum(run.state == "plateaued" for run in others)
        said += sum(run.state in ("plateaued", "improving", "diverged") for run in convergence.runs[:spiky])
        assert "noise_differs" in {caution.code for caution in convergence.cautions}
    assert told >= 0.9 * 10 * (runs - spiky)
    assert said == 0


def test_runs_of_equal_noise_are_pooled_as_ever() -> None:
    noise = np.random.default_rng(3).normal(0, 0.01, (400, 8, 10))
    x_j = np.log2(FEW)
    tables = [[short_term_noise(x_j, y_j) for y_j in of_one] for of_one in noise]
    known = [[each for each in of_one if each] for of_one in tables]
    assert sum(not all(typical(of_one)) for of_one in known) <= 0.03 * 400
    scales = np.array([robust_variance(of_one) for of_one in known]) / 0.01**2
    assert 0.75 < float(np.median(scales)) < 1.05  # of eight variances the fourth, a little below the median


@pytest.mark.parametrize("step_n", [FEW, MANY])
def test_a_rise_below_the_tolerance_is_no_u_turn(step_n: Floats) -> None:
    rising = 2 + 0.003 * np.clip((step_n - 1000) / 1000, 0, 1)
    assert states(analyse_convergence(simulate(step_n, rising, 0.0001, 8))) == {"plateaued": 8}
    more = 2 + 0.05 * np.clip((step_n - 1000) / 1000, 0, 1)
    assert states(analyse_convergence(simulate(step_n, more, 0.002, 8))) == {"U-turned": 8}


@pytest.mark.parametrize("step_n", [FEW, MANY])
@pytest.mark.parametrize("since", [1000.0, 1700.0])
@pytest.mark.parametrize(("runs", "jumping"), [(1, 1), (8, 1), (4, 4)])
def test_a_jump_that_stays_has_diverged(step_n: Floats, since: float, runs: int, jumping: int) -> None:
    for truth, others in ((flat, "plateaued"), (power_law, "improving")):
        table = added(simulate(step_n, truth(step_n), 0.002, runs, seed=2), jumping, 1.0, since)
        named = [run.state for run in analyse_convergence(table).runs]
        assert named[:jumping] == ["diverged"] * jumping
        assert named[jumping:].count(others) >= 0.8 * (runs - jumping)


def test_what_rises_slowly_or_comes_back_has_not_diverged() -> None:
    for step_n in (SHORT, FEW, MANY):
        assert states(analyse_convergence(simulate(step_n, u_turn(step_n), 0.01, 50)))["diverged"] == 0
        assert states(analyse_convergence(simulate(step_n, flat(step_n), 0.5, 50)))["diverged"] == 0
        back = added(simulate(step_n, flat(step_n), 0.002, 20), 20, 1.0, 600, 800)
        assert states(analyse_convergence(back))["diverged"] == 0
        dip = added(simulate(step_n, flat(step_n), 0.002, 20), 20, -0.3, 600, 600)
        assert states(analyse_convergence(dip))["diverged"] == 0


def test_nan_after_a_jump_is_diverged_and_no_plateau() -> None:
    jumped = added(simulate(FEW, flat(FEW), 0.002, 4), 1, 3.0, 1400)
    lost = jumped.with_columns(
        loss=pl.when((pl.col("run") == "r0") & (pl.col("step") > 1600)).then(math.nan).otherwise("loss")
    )
    convergence = analyse_convergence(lost)
    assert [run.state for run in convergence.runs] == ["diverged", "plateaued", "plateaued", "plateaued"]
    counts = plateau_counts(convergence, 1000)
    assert (counts.plateaued, counts.not_plateaued, counts.unresolved) == (3, 1, 0)
    assert convergence_chapter(convergence).answer[0] == (
        "3 of 4 runs had plateaued by step 200; 1 diverged: its loss jumped and stayed or is not finite."
    )


@pytest.mark.parametrize("n", [10, 20, 40, 100, 400])
@pytest.mark.parametrize(("share", "drop"), [(0.1, 0.05), (0.2, 0.05), (0.2, 0.2), (0.4, 0.1)])
def test_the_fall_of_a_cooldown_is_improving(n: int, share: float, drop: float) -> None:
    step_n = np.round(np.linspace(2000 / n, 2000, n))
    named = states(analyse_convergence(simulate(step_n, cooldown(step_n, share, drop), 0.001, 20)))
    assert named["improving"] >= 19, named
    alone = analyse_convergence(simulate(step_n, cooldown(step_n, share, drop), 0.001, 1))
    assert alone.runs[0].state == "improving"


def with_rate(table: pl.DataFrame, rate_n: NDArray[np.float64], run: str, name: str = "lr") -> pl.DataFrame:
    return table.filter(pl.col("run") == run).with_columns(pl.Series(name, rate_n))


def test_a_column_of_rates_says_whether_they_were_still_falling() -> None:
    clean = simulate(MANY, flat(MANY), 0.002, 4)
    place_n = MANY / 2000
    schedules = {
        "r0": 1e-3 * 0.5 * (1 + np.cos(math.pi * place_n)) + 1e-4,
        "r1": np.full(len(MANY), 1e-3),
        "r2": np.where(place_n > 0.8, 1e-4, 1e-3),
        "r3": 1e-3 * np.clip((1 - place_n) / 0.2, 0, 1),
    }
    parts = [with_rate(clean, rate_n, run) for run, rate_n in schedules.items()]
    convergence = analyse_convergence(pl.concat(parts))
    assert [run.rate_falling for run in convergence.runs] == [True, False, False, True]
    shown = json.loads(convergence_as_json(convergence))["runs"]
    assert [run["rate_falling"] for run in shown] == [True, False, False, True]
    chapter = convergence_chapter(convergence)
    assert chapter.answer[-1].startswith("The learning rate was still falling at the end of 2 of 4 runs: ")
    assert chapter.tables[-1].frame["rate_falling"].to_list() == ["yes", "no", "no", "yes"]
    named = analyse_convergence(pl.concat(parts).rename({"lr": "eta"}), lr="eta")
    assert [run.rate_falling for run in named.runs] == [True, False, False, True]
    unnamed = analyse_convergence(pl.concat(parts).rename({"lr": "eta"}))
    assert [run.rate_falling for run in unnamed.runs] == [None] * 4
    with pytest.raises(ConfigError, match="no column 'eat'"):
        analyse_convergence(clean, lr="eat")


def test_a_rate_that_is_a_setting_of_the_run_says_nothing() -> None:
    clean = simulate(MANY, flat(MANY), 0.002, 2)
    parts = [with_rate(clean, np.full(len(MANY), rate), run) for run, rate in (("r0", 1e-3), ("r1", 3e-3))]
    convergence = analyse_convergence(pl.concat(parts))
    assert [run.rate_falling for run in convergence.runs] == [None, None]
    assert "learning rate was" not in chapter_as_text(convergence_chapter(convergence))
    same = analyse_convergence(with_rate(clean, np.full(len(MANY), 1e-3), "r0"))
    assert [run.rate_falling for run in same.runs] == [False]
    assert convergence_chapter(same).answer[-1] == "The learning rate was not falling any more at the end of the run."
