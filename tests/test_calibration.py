"""The calibration's own arithmetic: a wrong interval there would vouch for wrong intervals elsewhere."""

from __future__ import annotations

from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
from calibration.measure import Experiment, Tally, held, measure, monte_carlo_interval
from calibration.table import rates_as_markdown
from scipy import stats


def test_single_outcomes_have_the_exact_interval() -> None:
    hits_d = np.repeat([1.0, 0.0], [93, 7])
    oracle = stats.binomtest(93, 100).proportion_ci()
    found = monte_carlo_interval(hits_d, np.ones(100))
    assert found == pytest.approx((oracle.low, oracle.high), abs=1e-3)  # n - 1 in the variance
    assert monte_carlo_interval(np.ones(50), np.ones(50))[0] == pytest.approx(
        stats.binomtest(50, 50).proportion_ci().low
    )


def test_outcomes_that_hang_together_count_as_one() -> None:
    """Ten copies of each outcome are no more than the outcomes; a repetition without any counts for nothing."""
    hits_d = np.repeat([1.0, 0.0], [93, 7])
    once = monte_carlo_interval(hits_d, np.ones(100))
    assert monte_carlo_interval(10 * hits_d, np.full(100, 10.0)) == pytest.approx(once)
    with_lost = monte_carlo_interval(np.append(hits_d, [0.0] * 20), np.append(np.ones(100), [0.0] * 20))
    assert with_lost == pytest.approx(once, abs=1e-3)


def test_outcomes_of_equal_share_are_independent() -> None:
    """Nine of ten in each repetition: no sign that they hang together, and no division by their spread of zero."""
    oracle = stats.binomtest(90, 100).proportion_ci()
    assert monte_carlo_interval(np.full(10, 9.0), np.full(10, 10.0)) == pytest.approx((oracle.low, oracle.high))


def covers(generator: np.random.Generator) -> Mapping[str, Tally]:
    mean = generator.normal(0, 0.1)
    return {"known": held(mean - 0.196, mean + 0.196, 0.0), "narrow": held(mean - 0.1, mean + 0.1, 0.0), "none": (0, 0)}


def test_rates_are_measured_the_same_with_any_number_of_workers() -> None:
    experiment = Experiment("a mean", "cover", 1000, covers)
    with ThreadPoolExecutor(1) as one, ThreadPoolExecutor(3) as three:
        rates = measure(experiment, 0, one)
        assert [rate.as_dict() for rate in rates[:2]] == [rate.as_dict() for rate in measure(experiment, 0, three)[:2]]
    known, narrow, none = rates
    assert known.inside and known.low < 0.95 < known.high
    assert not narrow.inside and narrow.low < 0.683 < narrow.high
    assert (none.n, none.low, none.high) == (0, 0.0, 1.0)
    table = rates_as_markdown("Means", rates)
    assert f"| a mean | 1,000 | {100 * known.value:.1f} (" in table and f"**{100 * narrow.value:.1f}** (" in table
    assert table.endswith("| none |")
