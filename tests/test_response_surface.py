"""Response surfaces of random searches whose truth is known: importance, optima, lack of fit, many columns."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import polars as pl
import pytest

from isoloss.analysis.response_surface import Surface, analyse_surface, needs_surface
from isoloss.cli import run_command_line
from isoloss.errors import ConfigError
from isoloss.report.chapter import chapter_as_text
from isoloss.report.chapters.surface import surface_chapter

BEST = 2e-3


def searched(n: int = 60, others: int = 0, seed: int = 0, sd: float = 0.02) -> pl.DataFrame:
    """Learning rates over three decades, decay that hurts in proportion, an optimizer and others that do nothing."""
    generator = np.random.default_rng(seed)
    columns = {
        "lr": 10 ** generator.uniform(-4.5, -1.5, n),
        "wd": generator.uniform(0.001, 0.3, n),
        "opt": generator.choice(["adam", "lion"], n),
        **{f"x{i}": generator.normal(size=n) for i in range(others)},
    }
    u_n = np.log2(columns["lr"] / BEST)
    loss = 2 + 0.01 * u_n**2 + 0.3 * columns["wd"] + generator.normal(0, sd, n)
    return pl.DataFrame(columns).with_columns(loss=pl.Series(loss))


def fitted(table: pl.DataFrame) -> Surface:
    return analyse_surface(table, "loss", [name for name in table.columns if name != "loss"])


def test_shares_of_variance_and_the_optimum_are_those_of_the_truth() -> None:
    table = searched(400)
    surface = fitted(table)
    u_n = np.log2(table["lr"].to_numpy() / BEST)
    truth = {"lr": np.var(0.01 * u_n**2), "wd": np.var(0.3 * table["wd"].to_numpy())}
    total = float(np.var(table["loss"].to_numpy()))
    for each in surface.importance:
        assert each.alone.low is not None and each.alone.high is not None
        assert each.alone.low - 0.01 <= truth.get(each.factor, 0.0) / total <= each.alone.high + 0.01
    assert [each.factor for each in surface.importance[:2]] == ["lr", "wd"] and surface.importance[0].scale == "log"
    lr = next(each for each in surface.optima if each.factor == "lr")
    assert lr.low is not None and lr.high is not None and lr.low < BEST < lr.high < 1.3 * lr.low
    assert surface.noise_sd == pytest.approx(0.02, rel=0.1) and surface.predicted == pytest.approx(0.95, abs=0.04)
    assert not surface.cautions


def test_fifty_columns_are_no_error() -> None:
    surface = fitted(searched(100, others=47))
    assert [each.factor for each in surface.importance[:2]] == ["lr", "wd"] and len(surface.importance) == 50
    assert all(each.alone.value < 0.02 for each in surface.importance[2:])
    assert [each.code for each in surface.cautions] == ["pairs_left_out"]


def test_interactions_count_for_both_factors() -> None:
    generator = np.random.default_rng(1)
    a_n, b_n = generator.uniform(-1, 1, (2, 200))
    table = pl.DataFrame({"a": a_n, "b": b_n, "loss": a_n * b_n + generator.normal(0, 0.05, 200)})
    for each in fitted(table).importance:
        assert each.total.value > 0.9 and each.alone.value < 0.1


def test_noise_alone_has_no_importance() -> None:
    table = searched(80).with_columns(loss=pl.Series(np.random.default_rng(3).normal(size=80)))
    surface = fitted(table)
    assert surface.predicted < 0.2 and "No factor is shown to explain loss" in surface_chapter(surface).answer[0]


def test_what_the_surface_misses_is_said() -> None:
    table = searched(300).with_columns(loss=(pl.col("lr").log() * 6).sin())
    assert "lack_of_fit" in [each.code for each in fitted(table).cautions]


def test_intervals_of_the_optimum_cover() -> None:
    found = [next(each for each in fitted(searched(seed=seed)).optima if each.factor == "lr") for seed in range(60)]
    assert sum((each.low or 0) <= BEST <= (each.high or 1) for each in found) >= 51  # 57 expected


def test_values_that_repeat_are_levels() -> None:
    grid = pl.DataFrame({"lr": [1e-4, 1e-3, 1e-2] * 40, "width": list(range(120))})
    assert not needs_surface(grid, ["lr"]) and needs_surface(grid, ["lr", "width"])
    assert not needs_surface(pl.DataFrame({"lr": [float(i % 15) for i in range(60)]}), ["lr"])
    with pytest.raises(ConfigError, match="7 runs are too few"):
        fitted(searched(7))


def test_a_seed_has_no_place_on_a_surface_but_labels() -> None:
    table = searched(200).with_columns(init_seed=pl.Series(np.arange(200) % 3 + 1))
    surface = fitted(table)
    [seed] = [each for each in surface.importance if each.factor == "init_seed"]
    assert seed.alone.value < 0.02 and all(each.factor != "init_seed" for each in surface.optima)
    assert not needs_surface(pl.DataFrame({"init_seed": range(60)}), ["init_seed"])
    with pytest.raises(ConfigError, match="factor 'run_seed' has 200 labels, at most 50: leave it out"):
        fitted(table.with_columns(run_seed=pl.Series(np.arange(200))))


def test_the_verb_takes_a_random_search(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "search.csv"
    searched().write_csv(path)
    verb = ["effects", str(path), "--response", "loss", "--factors", "lr,wd,opt"]
    assert run_command_line([*verb, "--json"]) == 0
    document = json.loads(capsys.readouterr().out)
    assert document["optima"][0]["factor"] == "lr" and document["importance"][0]["factor"] == "lr"
    assert run_command_line(verb) == 0
    text = " ".join(capsys.readouterr().out.split())
    assert "Loss is lowest at a learning rate of 0.0019" in text and "with interactions" in text
    assert text.startswith("Of the variance of loss over 60 runs, lr 9")
    assert chapter_as_text(surface_chapter(fitted(searched())))
