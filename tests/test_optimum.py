"""The best value of a swept factor on responses whose truth is known: quadratic, lopsided, at the edge, moving."""

from __future__ import annotations

import itertools
import json
from collections.abc import Callable
from typing import Any

import numpy as np
import polars as pl
import pytest

from isoloss.analysis.effects import Effects, analyse_effects
from isoloss.analysis.level_difference import level_difference
from isoloss.analysis.optimum import Optimum, on_log_scale
from isoloss.analysis.valley import Means, Noise, valley
from isoloss.report.chapter import chapter_as_text
from isoloss.report.chapters.effects import effects_as_json, effects_chapter

RATES = (1e-4, 3e-4, 1e-3, 3e-3, 1e-2, 3e-2, 1e-1)


def swept(
    loss: Callable[[dict[str, Any]], float], levels: dict[str, tuple[Any, ...]], seeds: int = 3, sd: float = 0.004
) -> pl.DataFrame:
    cells = [dict(zip(levels, cell, strict=True)) for cell in itertools.product(*levels.values())]
    rows = [{**cell, "seed": seed, "loss": loss(cell)} for cell in cells for seed in range(seeds)]
    noise = np.random.default_rng(1).normal(0, sd, len(rows))
    return pl.DataFrame(rows).with_columns(pl.col("loss") + pl.Series(noise))


def bowl(best: float) -> Callable[[dict[str, Any]], float]:
    return lambda cell: 2 + 0.02 * float(np.log2(cell["lr"] / best)) ** 2


def only(effects: Effects, **at: Any) -> Optimum:
    (found,) = (each for each in effects.optima if each.factor == "lr" and each.at == at)
    return found


def test_a_parabola_gives_its_minimum_back() -> None:
    found = only(analyse_effects(swept(bowl(2.2e-3), {"lr": RATES}), "loss", ["lr"], "seed"))
    assert found.value == pytest.approx(2.2e-3, rel=0.1)
    assert found.low is not None and found.high is not None and found.low < 2.2e-3 < found.high
    assert found.high / found.low < 1.5
    assert (found.best_level, found.edge, found.n, found.response) == (3e-3, False, 21, "loss")
    assert "seed × lr on 12 df" in found.method and "log lr" in found.method


def test_without_noise_the_minimum_is_exact() -> None:
    x_l = np.log(np.array(RATES))
    found = valley(Means(x_l, 0.3 * (x_l + 6.1) ** 2 + 0.01 * (x_l + 6.1) ** 3, np.eye(7)), Noise(1e-12, 10))
    assert found.place == pytest.approx(-6.1, abs=1e-5)


def test_levels_that_chance_explains_are_named() -> None:
    effects = analyse_effects(swept(bowl(1.7e-3), {"lr": RATES}, sd=0.02), "loss", ["lr"], "seed")
    found = only(effects)
    assert {found.best_level, *found.indistinguishable} >= {1e-3, 3e-3}
    assert not {1e-4, 3e-2, 1e-1} & {*found.indistinguishable}


@pytest.mark.parametrize(("best", "level", "open_end"), [(2e-5, 1e-4, "low"), (0.5, 1e-1, "high")])
def test_a_best_level_at_the_edge_leaves_the_interval_open_and_is_said(
    best: float, level: float, open_end: str
) -> None:
    table = swept(bowl(best), {"lr": RATES})
    effects = analyse_effects(table, "loss", ["lr"], "seed")
    found = only(effects)
    assert found.edge and found.best_level == level and getattr(found, open_end) is None
    assert "at the edge" in " ".join(effects_chapter(effects, table).answer)
    codes = [each.code for each in level_difference(table, "loss", "lr", 1e-4, 1e-1, ["lr"], "seed").cautions]
    assert "best_at_edge" in codes


def test_a_higher_response_is_sought_where_high_is_good() -> None:
    table = swept(bowl(2e-3), {"lr": RATES}).select("lr", "seed", val_accuracy=3 - pl.col("loss"))
    found = only(analyse_effects(table, "val_accuracy", ["lr"], "seed"))
    assert found.sought == "highest" and found.value == pytest.approx(2e-3, rel=0.15)


def test_each_level_of_a_factor_it_interacts_with_has_an_optimum_of_its_own() -> None:
    best = {64: 6e-3, 256: 1.5e-3}
    table = swept(lambda cell: bowl(best[cell["width"]])(cell), {"lr": RATES, "width": (64, 256)})
    effects = analyse_effects(table, "loss", ["lr", "width"], "seed")
    for width, rate in best.items():
        found = only(effects, width=width)
        assert found.low is not None and found.high is not None and found.low < rate < found.high
        assert found.value == pytest.approx(rate, rel=0.15) and found.n == 21
        assert "within levels of width" in found.method
    alike = analyse_effects(swept(bowl(2e-3), {"lr": RATES, "width": (64, 256)}), "loss", ["lr", "width"], "seed")
    assert [each.at for each in alike.optima] == [{}]


def test_one_seed_takes_noise_from_what_the_curve_misses() -> None:
    found = only(analyse_effects(swept(bowl(2.2e-3), {"lr": RATES}, seeds=1), "loss", ["lr"]))
    assert found.low is not None and found.high is not None and found.low < 2.2e-3 < found.high
    four = only(analyse_effects(swept(bowl(6e-4), {"lr": RATES[:4]}, seeds=1), "loss", ["lr"]))
    assert (four.low, four.high) == (None, None) and four.value == pytest.approx(6e-4, rel=0.3)


def test_levels_whose_cells_are_missing_are_left_out() -> None:
    table = swept(bowl(2.2e-3), {"lr": RATES, "width": (64, 256)})
    lost = table.filter(~((pl.col("lr") == 1e-1) & (pl.col("width") == 256)))
    found = only(analyse_effects(lost, "loss", ["lr", "width"], "seed"))
    assert found.value == pytest.approx(2.2e-3, rel=0.1) and found.best_level == 3e-3


def test_the_scale_follows_the_spacing() -> None:
    assert on_log_scale(np.array(RATES)) and on_log_scale(np.array([64.0, 128, 256]))
    assert not on_log_scale(np.array([0.0, 0.1, 0.2])) and not on_log_scale(np.array([1.0, 2, 3, 4, 5]))


@pytest.mark.parametrize("steep", [1.0, 3.0])
def test_intervals_cover_also_where_one_side_is_steeper(steep: float) -> None:
    """At least 92% less three standard errors of 150 sweeps, for a minimum between levels."""
    generator, x_l = np.random.default_rng(4), np.linspace(0, 9.6, 7)
    truth, covered, widths = 5.3, 0, []
    mean_l = 0.01 * (x_l - truth) ** 2 * np.where(x_l > truth, steep, 1)
    for _ in range(150):
        noise = 0.005**2 * generator.chisquare(12) / 12
        found = valley(Means(x_l, mean_l + generator.normal(0, 0.005 / 3**0.5, 7), np.eye(7) / 3), Noise(noise, 12))
        assert found.low is not None and found.high is not None
        covered += found.low <= truth <= found.high
        widths.append(found.high - found.low)
    assert covered >= 129 and np.median(widths) < 1.6


def test_json_and_chapter_hold_optima_and_the_test_of_a_term_has_its_own_row() -> None:
    table = swept(bowl(2.2e-3), {"lr": RATES, "data": ("a", "b", "c")})
    effects = analyse_effects(table, "loss", ["lr", "data"], "seed")
    document = json.loads(effects_as_json(effects))
    (found,) = document["optima"]
    keys = {
        "factor",
        "at",
        "value",
        "low",
        "high",
        "best_level",
        "indistinguishable",
        "edge",
        "response",
        "method",
        "n",
    }
    assert keys <= found.keys() and found["at"] == {}
    assert all(each["estimate"] is not None for each in document["effects"] if len(each["factors"]) == 1)
    chapter = effects_chapter(effects, table)
    assert "Loss is lowest at a learning rate of 0.00" in chapter.answer[0]
    rows = chapter.tables[0].frame.filter(pl.col("term") == "lr").to_dicts()
    assert rows[0]["contrast"] == "any (F test)" and rows[0]["value"] is None and rows[0]["F"] > 100
    assert all(row["F"] is None and row["value"] is not None for row in rows[1:])
    assert "best level" in chapter_as_text(chapter)


@pytest.mark.parametrize(("slope", "seeds"), [(0.0, 3), (-0.5, 3), (-0.5, 1)])
def test_a_moving_optimum_is_told_in_doublings_per_doubling(slope: float, seeds: int) -> None:
    def loss(cell: dict[str, Any]) -> float:
        return bowl(3e-3 * (cell["width"] / 128) ** slope)(cell) - 0.1 * float(np.log2(cell["width"]))

    table = swept(loss, {"lr": RATES, "width": (64, 128, 256)}, seeds)
    effects = analyse_effects(table, "loss", ["lr", "width"], "seed" if seeds > 1 else None)
    lr, width = effects.shifts
    assert (lr.factor, lr.moved_by, lr.unit) == ("lr", "width", "doublings per doubling") and lr.p is not None
    assert lr.estimate is not None and lr.estimate.low is not None and lr.estimate.high is not None
    assert lr.estimate.low < slope < lr.estimate.high and lr.estimate.high - lr.estimate.low < 0.25
    assert (lr.p < 0.05) == (slope != 0)
    assert width.estimate is None and [each.code for each in width.cautions] == ["optimum_not_bracketed"]
    said = " ".join(effects_chapter(effects, table).answer)
    assert ("The best lr moves with width by −0." if slope else "The best lr was not shown to move with width") in said
    assert any(each.at for each in effects.optima) or not slope
    assert json.loads(effects_as_json(effects))["shifts"][0]["unit"] == "doublings per doubling"


def test_the_optimum_is_not_said_to_stay_where_the_factor_was_not_swept() -> None:
    table = swept(bowl(3e-3), {"lr": RATES, "width": (64, 128, 256)})
    swept_at_64 = table.filter((pl.col("width") == 64) | (pl.col("lr") == 3e-3))
    shift = analyse_effects(swept_at_64, "loss", ["lr", "width"], "seed").shifts[0]
    assert (shift.factor, shift.moved_by, shift.estimate, shift.p) == ("lr", "width", None, None)
    (caution,) = shift.cautions
    assert "three of its values or more were tried at 1 of 3 levels of width" in caution.text
    assert caution.remedy == "Cross lr with width."
    two = analyse_effects(
        table.filter((pl.col("width") < 256) | (pl.col("lr") == 3e-3)), "loss", ["lr", "width"], "seed"
    )
    assert two.shifts[0].estimate is not None and two.shifts[0].estimate.n == 42 and not two.shifts[0].cautions


def test_rounding_is_no_noise_that_a_shift_is_held_against() -> None:
    exact = {"lr": tuple(2.0**k for k in range(-12, 0)), "batch": tuple(2**k for k in range(5, 15))}
    table = swept(lambda cell: bowl(2**-6)(cell) + 0.01 * float(np.log2(cell["batch"] / 512)) ** 2, exact, 1, sd=0)
    for found in analyse_effects(table, "loss", ["lr", "batch"]).shifts:
        assert found.p is None and found.estimate is not None
        assert (found.estimate.value, found.estimate.low, found.estimate.high) == (0, None, None)


def test_a_response_that_is_the_same_in_all_runs_has_no_best_value() -> None:
    effects = analyse_effects(
        swept(lambda cell: 2.5, {"lr": RATES, "width": (64, 128, 256)}, sd=0), "loss", ["lr", "width"]
    )
    assert not effects.optima and not effects.shifts
    assert "constant_response" in [caution.code for caution in effects.cautions]
