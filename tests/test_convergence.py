"""Convergence: curves whose state is known, how often a state is claimed falsely, times to a target, bad tables."""

from __future__ import annotations

import json
import math
import time
from collections import Counter
from collections.abc import Callable
from typing import Any

import numpy as np
import polars as pl
import pytest
import statsmodels.api as sm
from numpy.typing import NDArray
from scipy import stats

from isoloss.analysis.convergence import (
    Convergence,
    Rates,
    analyse_convergence,
    convergence_as_json,
)
from isoloss.analysis.plateau import plateau_counts, plateaued_by
from isoloss.analysis.trend import RunNoise, condense, judge_noise, rise_at_end, windows_of
from isoloss.errors import ConfigError

Floats = NDArray[np.float64]
FEW = np.arange(200.0, 2001, 200)
SHORT = np.arange(200.0, 1001, 200)
MANY = np.arange(20.0, 2001, 20)
DENSE = np.arange(1.0, 2001)
EPSILON = 0.02


def simulate(step_n: Floats, truth_n: Floats, sd: float, runs: int, rho: float = 0.0, seed: int = 0) -> pl.DataFrame:
    """Noisy copies of a curve; noise is normal, with autocorrelation rho from one evaluation to the next."""
    noise_uxn = np.random.default_rng(seed).normal(0, sd, (runs, len(step_n)))
    for place in range(1, len(step_n) if rho else 0):
        noise_uxn[:, place] = rho * noise_uxn[:, place - 1] + math.sqrt(1 - rho**2) * noise_uxn[:, place]
    names = np.repeat([f"r{run}" for run in range(runs)], len(step_n))
    return pl.DataFrame({"run": names, "step": np.tile(step_n, runs), "loss": (truth_n + noise_uxn).ravel()})


def states(convergence: Convergence) -> Counter[str]:
    return Counter(run.state for run in convergence.runs)


def power_law(step_n: Floats) -> Floats:
    return 1.5 + 2 * (step_n / 100) ** -0.4


def flat(step_n: Floats) -> Floats:
    return np.full(len(step_n), 2.0)


def at_tolerance(step_n: Floats) -> Floats:
    return 3 - EPSILON * np.log2(step_n)


def u_turn(step_n: Floats) -> Floats:
    return 1.5 + 0.3 * (np.log2(step_n / step_n[-1]) + 1) ** 2


CLEAR = [
    (FEW, power_law, 0.005, "improving"),
    (MANY, power_law, 0.02, "improving"),
    (DENSE, power_law, 0.1, "improving"),
    (FEW, flat, 0.002, "plateaued"),
    (MANY, flat, 0.005, "plateaued"),
    (DENSE, flat, 0.02, "plateaued"),
    (SHORT, u_turn, 0.005, "U-turned"),
    (FEW, u_turn, 0.01, "U-turned"),
    (MANY, u_turn, 0.02, "U-turned"),
    (DENSE, u_turn, 0.1, "U-turned"),
    (FEW, flat, 0.5, "inconclusive"),
]


@pytest.mark.parametrize(("step_n", "truth", "sd", "state"), CLEAR)
def test_clear_cases_are_named(step_n: Floats, truth: Callable[[Floats], Floats], sd: float, state: str) -> None:
    named = states(analyse_convergence(simulate(step_n, truth(step_n), sd, 300)))
    assert named[state] >= 0.95 * 300, named


@pytest.mark.parametrize(
    ("step_n", "sd", "rho"),
    [
        (SHORT, 0.005, 0.0),
        (FEW, 0.002, 0.0),
        (FEW, 0.02, 0.0),
        (MANY, 0.005, 0.0),
        (MANY, 0.005, 0.3),
        (MANY, 0.02, 0.6),
        (DENSE, 0.02, 0.0),
        (DENSE, 0.02, 0.6),
    ],
)
def test_false_claims_are_rare(step_n: Floats, sd: float, rho: float) -> None:
    """At most 5% (2.5% nominal, 600 runs) claim a plateau at the tolerance itself, or a U-turn where nothing rises."""
    borderline = states(analyse_convergence(simulate(step_n, at_tolerance(step_n), sd, 600, rho, seed=1)))
    level = states(analyse_convergence(simulate(step_n, flat(step_n), sd, 600, rho, seed=2)))
    assert borderline["plateaued"] <= 0.05 * 600, borderline
    assert borderline["U-turned"] <= 0.05 * 600, borderline
    assert level["U-turned"] <= 0.05 * 600, level
    assert level["improving"] <= 0.05 * 600, level


@pytest.mark.parametrize("runs", [1, 20])
def test_intervals_of_the_slope_cover_with_few_evaluations(runs: int) -> None:
    """Alone, a run of ten evaluations has few degrees of freedom; twenty runs share theirs."""
    covered = 0
    for seed in range(400 // runs):
        convergence = analyse_convergence(simulate(FEW, at_tolerance(FEW), 0.01, runs, seed=seed))
        for run in convergence.runs:
            assert run.improvement is not None and run.improvement.low is not None and run.improvement.high is not None
            covered += run.improvement.low <= EPSILON <= run.improvement.high
    assert 0.92 * 400 <= covered <= 0.985 * 400


def test_improvement_is_minus_the_slope_of_least_squares() -> None:
    table = simulate(FEW, power_law(FEW), 0.01, 3, seed=4)
    for run in analyse_convergence(table).runs:
        late = table.filter((pl.col("run") == run.run) & (pl.col("step") >= 1000))
        fit = sm.OLS(late["loss"].to_numpy(), sm.add_constant(np.log2(late["step"].to_numpy()))).fit()
        assert run.improvement is not None and run.noise_sd is not None and run.improvement.high is not None
        assert run.improvement.value == pytest.approx(-fit.params[1])
        assert run.improvement.n == 6
        # The standard error is that of the same fit, with the pooled noise in place of its residuals.
        half = run.improvement.high - run.improvement.value
        se = fit.bse[1] / math.sqrt(fit.scale) * run.noise_sd
        df = float(run.improvement.method.split("df ")[1].split(",")[0])
        assert half == pytest.approx(se * stats.t.ppf(0.975, df), rel=5e-3)


def test_a_plateau_begins_where_every_later_window_is_flat() -> None:
    truth = 2 + 0.3 * np.maximum(np.log2(500 / MANY), 0)
    for run in analyse_convergence(simulate(MANY, truth, 0.001, 20)).runs:
        assert run.state == "plateaued" and run.plateau_step is not None
        assert 380 <= run.plateau_step <= 520
        begun = [window for window in run.windows if window.first_step >= run.plateau_step]
        assert all(window.improvement.high is not None and window.improvement.high < EPSILON for window in begun)
    dropping_late = np.where(MANY <= 1500, 2.0, 1.9)
    assert states(analyse_convergence(simulate(MANY, dropping_late, 0.001, 20)))["plateaued"] == 0


@pytest.mark.parametrize("n", [40, 100, 400])
def test_a_run_that_clearly_rises_is_no_plateau(n: int) -> None:
    """A kink is what a cubic misses, so that its noise looks lasting; the end still rises far beyond the tolerance."""
    step_n = np.linspace(4000 / n, 4000, n)
    kinked = simulate(step_n, 1.5 + 2.5 * np.exp(-step_n / 300) + 0.3 * np.maximum(step_n - 2000, 0) / 2000, 0.004, 20)
    states = Counter(run.state for run in analyse_convergence(kinked).runs)
    assert states["plateaued"] == 0 and states["U-turned"] >= 18


def test_noise_free_curves_have_the_state_they_show() -> None:
    for step_n in (FEW, MANY, DENSE):
        parts = [simulate(step_n, f(step_n), 0.0, 1) for f in (power_law, flat, u_turn)]
        for part, state in zip(parts, ("improving", "plateaued", "U-turned"), strict=True):
            assert analyse_convergence(part).runs[0].state == state


def test_a_noisy_run_is_not_judged_by_its_quiet_neighbours() -> None:
    quiet, loud = simulate(FEW, flat(FEW), 0.001, 12), simulate(FEW, flat(FEW), 0.3, 1, seed=5)
    convergence = analyse_convergence(pl.concat([quiet, loud.with_columns(run=pl.lit("loud"))]))
    assert convergence.runs[-1].state == "inconclusive"
    assert "noise_differs" in {caution.code for caution in convergence.cautions}


def test_a_short_noisy_run_is_judged_by_its_own_noise() -> None:
    """Four evaluations have 1.4 degrees of freedom: a wide interval, but no reason to say that noise cannot be told."""
    step_n = np.array([1000.0, 2000, 3000, 4000])
    quiet = simulate(step_n, flat(step_n), 0.001, 20, seed=2)
    loud = pl.DataFrame({"run": "loud", "step": step_n, "loss": [2.0, 2.2, 1.9, 2.15]})
    three = pl.DataFrame({"run": "short", "step": step_n[:3], "loss": [2.0, 2.0, 2.0]})
    convergence = analyse_convergence(pl.concat([quiet, loud, three]))
    said = {caution.code: caution.text for caution in convergence.cautions}
    assert "noise_unknown" not in said and said["noise_differs"].startswith("1 of 22")
    by_name = {run.run: run for run in convergence.runs}
    assert by_name["loud"].improvement is not None and by_name["loud"].state == "inconclusive"


def test_lasting_noise_is_noticed() -> None:
    convergence = analyse_convergence(simulate(MANY, flat(MANY), 0.01, 20, rho=0.9))
    [caution] = [caution for caution in convergence.cautions if caution.code == "correlated_noise"]
    assert int(caution.text.split()[0]) >= 15


def test_time_to_target() -> None:
    table = pl.DataFrame(
        {"run": ["a"] * 4 + ["b"] * 2, "step": [0, 100, 200, 300, 100, 200], "loss": [4.0, 3.0, 2.0, 1.9, 3.0, 2.5]}
    )
    convergence = analyse_convergence(table, target=2.4, rates={"a": Rates(10, 1e6, 0.5), "b": Rates(10)})
    a, b = (run.to_target for run in convergence.runs)
    assert a is not None and b is not None
    assert (a.reached, a.step, a.after, a.tokens, a.flops, a.seconds) == (True, 200, 100, 2000, 2e8, 100)
    assert (b.reached, b.step, b.after, b.tokens, b.flops, b.seconds) == (False, 200, None, 2000, None, None)
    assert convergence.reached is not None and (convergence.reached.value, convergence.reached.n) == (0.5, 2)
    first = analyse_convergence(table, target=9.0).runs[0].to_target
    assert first is not None and (first.step, first.after) == (0, None)


def test_share_plateaued_by_a_step_allows_for_what_is_not_known() -> None:
    ends_early = simulate(MANY[:50], power_law(MANY[:50]), 0.005, 4)
    parts = {
        "flat": simulate(MANY, flat(MANY), 0.003, 3),
        "falling": simulate(MANY, power_law(MANY), 0.003, 2),
        "early": ends_early,
        "u": simulate(MANY, u_turn(MANY), 0.003, 1),
    }
    table = pl.concat([part.with_columns(run=pl.format("{}-{}", pl.lit(name), "run")) for name, part in parts.items()])
    convergence = analyse_convergence(table)
    counts = plateau_counts(convergence, 1500)
    assert (counts.plateaued, counts.not_plateaued, counts.unresolved, counts.censored) == (3, 3, 4, 4)
    share = plateaued_by(convergence, 1500)
    assert (share.value, share.n) == (0.3, 10)
    assert share.low == pytest.approx(stats.binomtest(3, 10).proportion_ci().low)
    assert share.high == pytest.approx(stats.binomtest(7, 10).proportion_ci().high)
    assert plateau_counts(convergence, 1000).censored == 0


KNOWN = RunNoise(0.1, 12.0, "known noise")


def test_a_window_is_a_regression_over_a_doubling_of_steps() -> None:
    step = np.arange(100.0, 1601, 100)
    loss = 3 - 0.4 * np.log2(step) + 0.05 * np.sin(step)
    windows = windows_of(condense(step, loss), KNOWN)
    assert (windows[0].first_step, windows[0].last_step) == (100, 400)  # four evaluations at least
    assert (windows[-1].first_step, windows[-1].last_step) == (800, 1600) and len(windows) == 8
    for window in windows:
        inside = (step >= window.first_step) & (step <= window.last_step)
        assert inside.sum() == window.improvement.n == max(4, round(window.first_step / 100) + 1)
        x, found = np.log2(step[inside]), window.improvement
        reach = stats.t.ppf(0.975, 12) * 0.1 / math.sqrt(((x - x.mean()) ** 2).sum())
        slope = stats.linregress(x, loss[inside]).slope
        assert (found.value, found.low, found.high) == pytest.approx((-slope, -slope - reach, -slope + reach))


@pytest.mark.parametrize(("points", "stretch"), [(20, 2), (64, 4)])
def test_the_rise_at_the_end_is_above_the_lowest_earlier_stretch(points: int, stretch: int) -> None:
    loss = 2 + 0.3 * np.cos(np.arange(points) / 3)
    rise = rise_at_end(condense(np.arange(1.0, points + 1), loss), KNOWN)
    means = [loss[i : i + stretch].mean() for i in range(points - stretch + 1)]
    earlier = means[: points - 2 * stretch + 1]  # those that share no point with the last one
    reach = stats.t.ppf(1 - 0.025 / len(earlier), 12) * 0.1 * math.sqrt(2 / stretch)
    assert rise is not None
    value = means[-1] - min(earlier)
    assert (rise.value, rise.low, rise.high) == pytest.approx((value, value - reach, value + reach))
    assert rise.n == points and f"the lowest of {len(earlier)} earlier ones" in rise.method
    assert rise_at_end(condense(np.arange(1.0, 4), loss[:3]), KNOWN) is None


def test_many_evaluations_become_points_of_equal_size() -> None:
    step = np.arange(0.0, 1001)
    loss = 5 - np.log2(step + 1)
    points = condense(step, loss)
    assert len(points.x_j) == 62 and points.count_j.tolist() == [24, *[16] * 61]  # step 0 has no place on a log axis
    assert (points.first_step_j[0], points.last_step_j[0], points.first_step_j[1]) == (1, 24, 25)
    assert points.last_step_j[-1] == 1000
    assert points.x_j[0] == pytest.approx(np.log2(step[1:25]).mean())
    assert points.y_j[-1] == pytest.approx(loss[-16:].mean())
    assert points.x_j[points.late] >= points.x_j[-1] - 2 > points.x_j[points.late - 1]


def test_the_noise_of_a_long_run_is_that_around_a_cubic_and_allows_for_autocorrelation() -> None:
    """Over many runs, the variance is that of a mean of many points: of an AR(1) the innovations' over (1 - rho)^2."""
    step = np.geomspace(500, 1990, 60)
    bent = 2 + 0.3 * np.log2(step / 1000) ** 3
    for rho, low, high in ((0.0, 0.95, 1.15), (0.5, 0.75, 1.25)):
        table = simulate(step, bent, 0.1, 600, rho, seed=3)
        noises = [judge_noise([condense(step, part["loss"].to_numpy())])[0] for part in table.partition_by("run")]
        found = [noise for noise in noises if noise is not None]
        assert len(found) == 600
        truth = 0.01 * (1 + rho) / (1 - rho)
        assert low * truth < np.mean([noise.sd**2 for noise in found]) < high * truth
        df = float(np.median([noise.df for noise in found]))
        assert df == pytest.approx(56 * (1 - rho**2) / (1 + rho**2), rel=0.12)


def test_gap_is_the_mean_over_runs() -> None:
    table = simulate(FEW, flat(FEW), 0.01, 5).with_columns(
        train=pl.col("loss") - 0.1 * pl.col("run").str.slice(1).cast(int)
    )
    last = pl.col("step") == 2000
    convergence = analyse_convergence(
        table.with_columns(train=pl.when(last & (pl.col("run") == "r4")).then(None).otherwise("train")),
        train_loss="train",
    )
    oracle = stats.ttest_1samp([0.0, 0.1, 0.2, 0.3], 0).confidence_interval()
    assert convergence.gap is not None and convergence.gap.n == 4
    assert (convergence.gap.low, convergence.gap.high) == pytest.approx((oracle.low, oracle.high))
    assert [run.final_gap for run in convergence.runs] == [pytest.approx(0.1 * run) for run in range(4)] + [None]
    one = analyse_convergence(table.filter(pl.col("run") == "r1"), train_loss="train").gap
    assert one is not None and (one.value, one.low, one.high, one.n) == (pytest.approx(0.1), None, None, 1)


def test_too_little_to_tell_is_inconclusive() -> None:
    one = analyse_convergence(pl.DataFrame({"run": ["a"], "step": [5], "loss": [2.0]}))
    assert (one.runs[0].state, one.runs[0].improvement, one.runs[0].rise) == ("inconclusive", None, None)
    assert [caution.code for caution in one.cautions] == ["few_evaluations"]
    five = analyse_convergence(simulate(SHORT, flat(SHORT), 0.01, 1))
    assert five.runs[0].state == "inconclusive"
    assert [caution.code for caution in five.cautions] == ["noise_unknown"]
    json.loads(convergence_as_json(one))


def test_states_add_up_and_order_of_rows_does_not_matter() -> None:
    table = pl.concat(
        [
            simulate(FEW, power_law(FEW), 0.01, 5),
            simulate(FEW, flat(FEW), 0.01, 5).with_columns(run="s" + pl.col("run")),
        ]
    )
    convergence = analyse_convergence(table)
    assert sum(share.value for share in convergence.shares.values()) == pytest.approx(1)
    shuffled = table.sample(fraction=1, shuffle=True, seed=1)
    by_name = {run.run: run for run in convergence.runs}
    for run in analyse_convergence(shuffled).runs:  # noise is pooled in another order, which rounds differently
        ordered = by_name.pop(run.run)
        assert (run.state, run.plateau_step, run.best_loss) == (ordered.state, ordered.plateau_step, ordered.best_loss)
        assert run.improvement is not None and ordered.improvement is not None
        assert (run.improvement.low, run.improvement.high) == pytest.approx(
            (ordered.improvement.low, ordered.improvement.high), rel=1e-9
        )
    assert not by_name


def test_a_run_that_ends_without_a_loss_is_not_called_plateaued() -> None:
    table = simulate(MANY, flat(MANY), 0.003, 2)
    diverged = table.with_columns(
        loss=pl.when((pl.col("run") == "r1") & (pl.col("step") == 2000)).then(math.nan).otherwise("loss")
    )
    lost = pl.DataFrame({"run": ["lost"], "step": [20.0], "loss": [math.nan]})
    convergence = analyse_convergence(pl.concat([diverged, lost]))
    assert [run.state for run in convergence.runs] == ["plateaued", "diverged"]
    assert [caution.code for caution in convergence.cautions] == [
        "incomplete_rows",
        "ends_without_loss",
        "no_finite_loss",
    ]
    absent = diverged.with_columns(pl.col("loss").fill_nan(None))
    assert [run.state for run in analyse_convergence(absent).runs] == ["plateaued", "plateaued"]


def test_evaluations_at_step_zero_count_for_the_best_alone() -> None:
    table = simulate(FEW, flat(FEW), 0.003, 3)
    with_zero = pl.concat([table, pl.DataFrame({"run": ["r0"], "step": [0.0], "loss": [0.5]})])
    convergence = analyse_convergence(with_zero)
    assert (convergence.runs[0].best_loss, convergence.runs[0].best_step, convergence.runs[0].first_step) == (0.5, 0, 0)
    assert convergence.runs[0].improvement == analyse_convergence(table).runs[0].improvement
    assert "step_zero" in {caution.code for caution in convergence.cautions}


@pytest.mark.parametrize(
    ("change", "options", "words"),
    [
        (lambda table: table.rename({"loss": "val_loss"}), {}, "no column 'loss'.*val_loss"),
        (lambda table: pl.concat([table, table[:1]]), {}, "more than one loss at step 200"),
        (lambda table: table.with_columns(pl.col("step") - 500), {}, "negative steps"),
        (lambda table: table.with_columns(loss=pl.lit("low")), {}, "not numeric.*'low'"),
        (lambda table: table, {"tolerance": 0.0}, "tolerance=0"),
        (lambda table: table, {"tolerance": math.nan}, "tolerance=nan"),
        (lambda table: table, {"target": math.inf}, "target=inf"),
        (lambda table: table, {"train_loss": "trian"}, "no column 'trian'"),
        (lambda table: table.clear(), {}, "no rows"),
    ],
)
def test_bad_input_is_one_clear_line(
    change: Callable[[pl.DataFrame], pl.DataFrame], options: dict[str, Any], words: str
) -> None:
    with pytest.raises(ConfigError, match=words) as raised:
        analyse_convergence(change(simulate(FEW, flat(FEW), 0.01, 2)), **options)
    assert "\n" not in str(raised.value)


def test_a_hundred_thousand_rows_take_seconds() -> None:
    table = simulate(DENSE, power_law(DENSE), 0.05, 50)
    started = time.perf_counter()
    assert len(analyse_convergence(table, target=2.0).runs) == 50
    assert time.perf_counter() - started < 3


def test_json_has_a_run_without_its_earlier_windows() -> None:
    table = simulate(FEW, power_law(FEW), 0.005, 30).with_columns(train=pl.col("loss") - 0.1)
    convergence = analyse_convergence(table, target=2.0, train_loss="train")
    shown = json.loads(convergence_as_json(convergence))
    assert [*shown] == ["tolerance", "target", "shares", "reached", "gap", "crossing", "cautions", "runs"]
    assert len(shown["runs"]) == 30 and "windows" not in shown["runs"][0]
    assert shown["runs"][0]["improvement"]["value"] == convergence.runs[0].windows[-1].improvement.value
    assert shown["runs"][0]["last_window"] == [1000, 2000]
    assert shown["shares"]["U-turned"]["n"] == 30
    assert [caution["code"] for caution in shown["cautions"]] == ["noise_pooled"]
