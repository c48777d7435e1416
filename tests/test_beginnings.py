"""Runs that share a beginning are one observation: in crossings, in shares that reached a target, in shared noise."""

from __future__ import annotations

import numpy as np
import polars as pl

from isoloss.analysis.beginnings import families_of, first_of_equals, means_of_families, mostly_own
from isoloss.analysis.convergence import analyse_convergence
from isoloss.analysis.curves import Curve

STEPS = np.arange(0.0, 2001, 200)


def curve(run: str, loss: list[float]) -> Curve:
    return Curve(run, np.arange(float(len(loss))) * 200, np.array(loss))


def test_a_beginning_is_the_first_evaluation_after_step_0_to_its_last_digit() -> None:
    alone = curve("a", [4.17438712, 3.1234567, 2.9])
    twin = curve("b", [4.2, 3.1234567, 2.8])
    near = curve("c", [4.17438712, 3.1234568, 2.9])
    assert families_of([alone, near, twin]).tolist() == [0, 1, 0]


def test_rounded_losses_have_to_agree_twice() -> None:
    chance = [curve("a", [4.2, 3.12, 2.9]), curve("b", [4.2, 3.12, 2.8]), curve("c", [4.2, 3.12, 2.9, 2.7])]
    assert families_of(chance).tolist() == [0, 1, 0]
    single = [curve("a", [4.2, 3.12]), curve("b", [4.2, 3.12])]
    assert families_of(single).tolist() == [0, 1]
    assert families_of([curve("a", [4.2]), curve("b", [4.2])]).tolist() == [0, 1]  # evaluated at step 0 alone


def test_means_of_families() -> None:
    loss_uxj = np.array([[1.0, 2.0], [5.0, 6.0], [3.0, 4.0]])
    assert means_of_families(loss_uxj, np.array([0, 1, 0])).tolist() == [[2.0, 3.0], [5.0, 6.0]]


def test_what_a_shared_beginning_shows_counts_once() -> None:
    runs = [
        curve("a", [4.0, 3.1234567, 2.5, 2.4]),
        curve("b", [4.0, 3.1234567, 2.5]),
        curve("c", [4.0, 3.2345678, 2.5]),
    ]
    assert first_of_equals(runs, [2, 2, 2]) == [True, False, True]
    assert first_of_equals(runs, [3, 3, 2]) == [True, True, True]


def test_a_run_whose_end_a_longer_run_has_too_is_not_its_own() -> None:
    longer = curve("longer", [4.0, 3.1234567, 2.9, 2.8, 2.7])
    prefix = curve("prefix", [4.0, 3.1234567, 2.9])
    left_early = curve("left early", [4.0, 3.1234567, 2.5, 2.4, 2.3])
    assert mostly_own([prefix, longer, left_early]) == [False, True, True]


def ladder(seeds: int, horizons: tuple[int, ...] = (1000, 2000)) -> pl.DataFrame:
    """Runs of each seed that share all evaluations up to four fifths of their horizon, where the rate falls."""
    rows: list[dict[str, object]] = []
    for seed in range(seeds):
        noise_n = np.random.default_rng(seed).normal(0, 0.05, len(STEPS))
        for horizon in horizons:
            for step, noise in zip(STEPS[horizon >= STEPS], noise_n, strict=False):
                lower = 0.1 * max(step - 0.8 * horizon, 0) / horizon
                loss = 3 - 0.2 * np.log2(1 + step / 200) + noise - lower
                rows.append({"run": f"{seed}-{horizon}", "step": float(step), "loss": float(loss)})
    return pl.DataFrame(rows)


def test_a_crossing_counts_seeds_not_horizons() -> None:
    found = analyse_convergence(ladder(3), target=2.6)
    [crossing] = found.crossing
    assert crossing.n == 3 and "6 runs" in crossing.method
    alone = analyse_convergence(ladder(3, (2000,)), target=2.6).crossing[0]
    assert crossing.step is None or alone.step is not None  # no step is found that the seeds alone do not show
    assert next(d.text for d in found.cautions if d.code == "shared_beginning").startswith("3 of 6 runs")
    assert not [d for d in analyse_convergence(ladder(3, (2000,))).cautions if d.code == "shared_beginning"]


def test_a_target_reached_in_a_shared_beginning_is_reached_once() -> None:
    early = analyse_convergence(ladder(4), target=2.75).reached
    assert early is not None and early.n == 4
    late = analyse_convergence(ladder(4), target=-1.0).reached
    assert late is not None and late.n == 8
