"""Schedules of the learning rate: their rates, what they read, and how long two of them agree."""

from __future__ import annotations

from collections.abc import Callable
from math import sqrt
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from isoloss.errors import ConfigError
from isoloss.study.config import ANY_TEXT, RunConfig, make_config
from isoloss.study.identity import run_id
from isoloss.study.schedules import agreed_steps, learning_rate

Make = Callable[..., RunConfig]
BASE: dict[str, Any] = {"learning_rate": 1.0, "min_lr": 0.1, "warmup_iters": 9, "max_iters": 100}


def rates(**settings: Any) -> list[float]:
    config = make_config({**ANY_TEXT, **BASE, **settings})
    return [learning_rate(config, step) for step in range(config.max_iters)]


def test_every_schedule_warms_up_alike() -> None:
    rise = [pytest.approx((step + 1) / 10) for step in range(9)]
    for schedule in ("cosine", "linear", "constant", "wsd", "inverse_sqrt"):
        assert rates(schedule=schedule)[:10] == [*rise, 1.0]


def test_rates_after_the_warm_up_by_hand() -> None:
    assert rates(schedule="linear", lr_decay_iters=59)[34] == pytest.approx(0.55)
    assert rates(schedule="cosine", lr_decay_iters=59)[34] == pytest.approx(0.55)
    assert set(rates(schedule="constant")[9:]) == {1.0}
    assert rates(schedule="inverse_sqrt")[39] == pytest.approx(0.5)
    stable = rates(schedule="wsd")
    assert (
        set(stable[9:81]) == {1.0} and stable[81] == pytest.approx(1 - 0.9 / 20) and stable[99] == pytest.approx(0.145)
    )
    assert rates(schedule="wsd", decay_shape="1-sqrt")[85] == pytest.approx(0.1 + 0.9 * (1 - sqrt(0.25)))
    assert rates(schedule="wsd", decay_shape="cosine", decay_share=0.5)[75] == pytest.approx(0.55)
    assert rates(schedule="wsd", lr_decay_iters=50)[50:] == [0.1] * 50


def test_a_constant_schedule_warms_up_and_decay_lr_false_does_not(make: Make) -> None:
    old, new = make(decay_lr=False), make(schedule="constant")
    assert learning_rate(old, 0) == old.learning_rate > learning_rate(new, 0)
    assert run_id(old) != run_id(new) != run_id(make())


def test_what_a_schedule_does_not_read_is_no_part_of_a_runs_name(make: Make) -> None:
    assert run_id(make()) == run_id(make(decay_share=0.5, decay_shape="cosine"))
    constant = [make(schedule="constant", min_lr=low, lr_decay_iters=n) for low, n in ((0.0, None), (1e-4, 7))]
    assert len(set(map(run_id, constant))) == 1
    assert run_id(make(schedule="constant", warmup_iters=4)) != run_id(constant[0])
    assert (
        len({run_id(make(schedule="wsd", decay_share=share, min_lr=low)) for share in (0.2, 0.4) for low in (0, 1e-4)})
        == 4
    )


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        ({"schedule": "wsd", "decay_share": 0.95}, "decay_share=0.95 are longer together than .*, max_iters=100 steps"),
        ({"schedule": "wsd", "lr_decay_iters": 10}, "longer together than the horizon of the rate, lr_decay_iters=10"),
        ({"schedule": "wsd", "decay_lr": False}, "decay_lr=False is a constant rate without warmup, and schedule=wsd"),
        ({"schedule": "step"}, "schedule='step': Input should be 'cosine'"),
        ({"decay_share": 0.0}, "decay_share=0.0"),
    ],
)
def test_schedules_that_cannot_be_are_refused(settings: dict[str, Any], said: str) -> None:
    with pytest.raises(ConfigError, match=said):
        rates(**settings)


schedules = st.fixed_dictionaries(
    {"schedule": st.sampled_from(["cosine", "linear", "constant", "wsd", "inverse_sqrt"])},
    optional={
        "max_iters": st.integers(20, 60),
        "warmup_iters": st.integers(0, 8),
        "min_lr": st.sampled_from([0.0, 0.1, 1.0]),
        "lr_decay_iters": st.integers(20, 70),
        "decay_share": st.sampled_from([0.2, 0.5]),
        "decay_shape": st.sampled_from(["linear", "1-sqrt", "cosine"]),
        "learning_rate": st.sampled_from([1.0, 2.0]),
    },
)


@given(schedules, schedules)
def test_two_schedules_agree_as_long_as_their_rates_do(first: dict[str, Any], second: dict[str, Any]) -> None:
    a, b = (make_config({**ANY_TEXT, **BASE, "max_iters": 40, **settings}) for settings in (first, second))
    pairs = [(learning_rate(a, step), learning_rate(b, step)) for step in range(min(a.max_iters, b.max_iters))]
    assert agreed_steps(a, b) == next((step for step, (x, y) in enumerate(pairs) if x != y), len(pairs))
