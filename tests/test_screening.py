"""Lenth's margins against the filtration rate experiment of Montgomery's textbook, and what screening refuses."""

from __future__ import annotations

import itertools
import json

import numpy as np
import polars as pl
import pytest

from isoloss.analysis.effects import analyse_effects
from isoloss.analysis.level_difference import level_difference
from isoloss.analysis.screening import lenth_pse, screen
from isoloss.report.chapter import chapter_as_text
from isoloss.report.chapters.effects import effects_as_json, effects_chapter

RATE = (45, 71, 48, 65, 68, 60, 80, 65, 43, 100, 45, 104, 75, 86, 70, 96)
"""Filtration rate in standard order: (1), a, b, ab, c, … (Montgomery, Design and Analysis of Experiments, 6-2)."""


@pytest.fixture
def filtration() -> pl.DataFrame:
    signs = [tuple(reversed(cell)) for cell in itertools.product((-1, 1), repeat=4)]
    return pl.DataFrame([dict(zip("ABCD", cell, strict=True)) for cell in signs]).with_columns(
        rate=pl.Series(RATE, dtype=pl.Float64)
    )


def test_the_textbook_effects_and_margins(filtration: pl.DataFrame) -> None:
    screening = analyse_effects(filtration, "rate", list("ABCD")).screening
    assert screening is not None and len(screening.effects) == 15
    values = {effect.term: effect.value for effect in screening.effects}
    published = {"A": 21.625, "C": 9.875, "D": 14.625, "A × C": -18.125, "A × D": 16.625, "A × B × C": 1.875}
    assert {term: values[term] for term in published} == published
    assert screening.pse == 2.625
    assert screening.margin == pytest.approx(6.748, abs=5e-4)
    assert screening.simultaneous_margin == pytest.approx(13.699, abs=5e-4)
    assert {effect.term for effect in screening.effects if effect.active} == {"A", "D", "A × C", "A × D"}


def test_half_normal_quantiles_rise_with_size(filtration: pl.DataFrame) -> None:
    screening = analyse_effects(filtration, "rate", list("ABCD")).screening
    assert screening is not None
    ordered = sorted(screening.effects, key=lambda effect: abs(effect.value))
    quantiles = [effect.quantile for effect in ordered]
    assert quantiles == sorted(quantiles) and ordered[-1].term == "A"
    assert quantiles[7] == pytest.approx(0.6745, abs=1e-4)  # the middle of 15 is the half-normal's median


def test_effects_and_differences_carry_the_margin(filtration: pl.DataFrame) -> None:
    effects = analyse_effects(filtration, "rate", list("ABCD"))
    c = next(effect for effect in effects.effects if effect.term == "C")
    assert c.estimate is not None and c.estimate.low is not None
    assert c.estimate.value - c.estimate.low == pytest.approx(6.748, abs=5e-4)
    assert c.F is None and c.partial_eta_squared is None and "screening" in c.estimate.method
    assert c.p is not None and c.p_holm is not None and c.p < 0.05 < c.p_holm
    assert any(caution.code == "unreplicated" for caution in effects.cautions)
    difference = level_difference(filtration, "rate", "C", 1, -1, list("ABCD"))
    assert difference.estimate is not None and difference.estimate.value == pytest.approx(-9.875)
    assert difference.estimate.high == pytest.approx(-c.estimate.low)
    assert difference.p == pytest.approx(c.p)


def test_the_order_of_rows_does_not_matter(filtration: pl.DataFrame) -> None:
    shuffled = filtration.sample(fraction=1.0, shuffle=True, seed=1)
    first = analyse_effects(filtration, "rate", list("ABCD")).screening
    second = analyse_effects(shuffled, "rate", list("ABCD")).screening
    assert first == second


def test_text_and_json_show_the_screening(filtration: pl.DataFrame) -> None:
    effects = analyse_effects(filtration, "rate", list("ABCD"))
    text = " ".join(chapter_as_text(effects_chapter(effects, filtration)).split())
    assert "simultaneous margin 13.7; beyond it, of 15 effects: A (21.6), D (14.6), A × C (−18.1) and A × D" in text
    assert json.loads(effects_as_json(effects))["screening"]["pse"] == 2.625


def test_the_pseudo_standard_error_leaves_large_effects_out() -> None:
    noise = np.array([-1.2, 0.4, 0.9, -0.3, 1.5, -0.8, 0.6])
    assert lenth_pse(np.append(noise, 100.0)) == lenth_pse(np.append(noise, 1e6))
    assert lenth_pse(np.zeros(7)) == 0.0


def test_false_alarms_stay_below_the_simultaneous_level() -> None:
    generator = np.random.default_rng(0)
    tables = [screen(generator.normal(size=(2, 2, 2, 2)), list("abcd")) for _ in range(400)]
    alarms = sum(any(effect.active for effect in table.effects) for table in tables if table is not None)
    assert alarms <= 30  # 20 expected at most


@pytest.mark.parametrize("factors", [1, 2])
def test_too_few_effects_are_not_judged(factors: int) -> None:
    response = np.random.default_rng(0).normal(size=(2,) * factors)
    assert screen(response, [str(number) for number in range(factors)]) is None


def test_effects_without_noise_are_not_judged() -> None:
    cells = list(itertools.product((0, 1), repeat=3))
    table = pl.DataFrame([{"a": a, "b": b, "c": c, "y": 0.1 + 0.7 * a} for a, b, c in cells])
    effects = analyse_effects(table, "y", ["a", "b", "c"])
    assert effects.screening is None and effects.error is None
    assert [caution.code for caution in effects.cautions] == ["no_noise"]
    assert effects.effects[0].estimate is not None and effects.effects[0].estimate.value == pytest.approx(0.7)
    assert effects.effects[0].p is None


def test_a_missing_run_leaves_lenths_method_for_the_residual(filtration: pl.DataFrame) -> None:
    effects = analyse_effects(filtration[:-1], "rate", list("ABCD"))
    assert effects.screening is None and effects.error is not None and effects.error.screening
    assert effects.error.df == 15 - 11
