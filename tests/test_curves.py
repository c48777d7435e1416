"""Short-term noise of curves and spikes of step time, against known noise and textbook distributions."""

from __future__ import annotations

import math

import numpy as np
import pytest
from scipy import stats
from statsmodels.stats.proportion import proportion_confint

from isoloss.analysis.curves import pooled, proportion, short_term_noise, spike_report
from isoloss.errors import ConfigError
from isoloss.store.outcome import loss_roughness


def test_roughness_is_the_noise_and_not_the_trend() -> None:
    step_n = np.arange(20_000)
    noise_n = np.random.default_rng(1).normal(0, 0.03, 20_000)
    assert loss_roughness((4 - 2 * step_n / 20_000 + noise_n).tolist()) == pytest.approx(0.03, rel=0.02)


def test_roughness_of_a_short_curve_by_hand() -> None:
    # The second half is 1, 3, 2: differences 2 and -1, sd 2.1213, over √2.
    assert loss_roughness([9.0, 9.0, 9.0, 1.0, 3.0, 2.0]) == pytest.approx(1.5)
    assert loss_roughness([9.0, 9.0, 1.0, 3.0]) is None
    assert loss_roughness([1.0] * 9 + [math.nan]) is None


def test_short_term_noise_is_unbiased_with_the_stated_degrees_of_freedom() -> None:
    rng = np.random.default_rng(2)
    x_j = np.log2(np.arange(4, 14))
    noises = [short_term_noise(x_j, 3 - 0.5 * x_j + rng.normal(0, 0.1, 10)) for _ in range(4000)]
    variances = np.array([noise.variance for noise in noises if noise])
    assert variances.mean() == pytest.approx(0.01, rel=0.03)
    assert noises[0] is not None
    # A scaled chi-squared variable of df degrees has squared coefficient of variation 2/df.
    assert 2 / (variances.std() / variances.mean()) ** 2 == pytest.approx(noises[0].df, rel=0.1)


def test_short_term_noise_of_equal_spacing_is_the_second_difference() -> None:
    y_j = np.array([1.0, 4.0, 2.0, 8.0, 5.0])
    noise = short_term_noise(np.arange(5.0), y_j)
    assert noise is not None
    assert noise.variance == pytest.approx(np.mean(np.diff(y_j, 2) ** 2) / 6)
    three = short_term_noise(np.arange(3.0), y_j[:3])
    assert three is not None
    assert (three.variance, three.n, three.df) == pytest.approx(((1 - 2 * 4 + 2) ** 2 / 6, 1, 1.0))
    assert short_term_noise(np.arange(2.0), y_j[:2]) is None


def test_proportion_against_statsmodels() -> None:
    for count, n in ((0, 7), (3, 7), (7, 7), (40, 1000)):
        share = proportion(count, n)
        assert (share.low, share.high) == pytest.approx(proportion_confint(count, n, method="beta"))
        assert (share.value, share.n) == (count / n, n)


def test_spikes_after_evaluations_are_counted() -> None:
    times_n = np.full(101, 0.1)
    times_n[[0, 20, 40, 60, 77]] = 0.5
    spikes = spike_report(times_n, range(0, 101, 20), 2)
    assert (spikes.spikes, spikes.after_evaluation) == (4, 3)  # step 0 pays for the start
    assert spikes.share is not None and spikes.share.value == 0.75
    assert spikes.by_chance == pytest.approx(5 / 100)
    assert spikes.p == pytest.approx(stats.hypergeom.sf(2, 100, 5, 4))


def test_pooled_spikes_keep_their_runs_apart() -> None:
    rng = np.random.default_rng(3)
    times = [np.where(rng.random(51) < 0.1, 1.0, 0.1) for _ in range(2)]
    reports = [spike_report(times[0], range(0, 51, 10), 2), spike_report(times[1], range(0, 51, 5), 2)]
    both = pooled(reports)
    assert both.spikes == sum(report.spikes for report in reports)
    first, second = both.runs
    draws = rng.hypergeometric(first.after, first.steps - first.after, first.spikes, 200_000)
    draws += rng.hypergeometric(second.after, second.steps - second.after, second.spikes, 200_000)
    assert both.p == pytest.approx(np.mean(draws >= both.after_evaluation), abs=0.005)
    assert both.by_chance == pytest.approx(draws.mean() / both.spikes, abs=0.005)


def test_no_spike_has_no_share() -> None:
    spikes = spike_report(np.full(10, 0.1), [5], 2)
    assert (spikes.spikes, spikes.share, spikes.by_chance, spikes.p) == (0, None, None, None)
    assert pooled([spikes, spikes]).share is None


def test_spikes_that_cannot_be_counted() -> None:
    with pytest.raises(ConfigError, match="no step after step 0"):
        spike_report(np.array([1.0, math.nan]), [1], 2)
    with pytest.raises(ConfigError, match="above 1"):
        spike_report(np.ones(5), [1], 1.0)
    with pytest.raises(ConfigError, match="pooled"):
        pooled([])
    with pytest.raises(ConfigError, match="2 thresholds"):
        pooled([spike_report(np.ones(5), [1], times) for times in (2, 3)])
