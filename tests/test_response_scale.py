"""Effects of logarithms and of ranks: the values, and that every word, axis and key says the scale."""

from __future__ import annotations

import itertools
import json
import math
from pathlib import Path

import numpy as np
import polars as pl
import pytest
from scipy import stats

from isoloss.analysis.effects import analyse_effects
from isoloss.analysis.response_scale import on_scale
from isoloss.cli import run_command_line
from isoloss.errors import ConfigError
from isoloss.report.chapters.effects import effects_chapter
from isoloss.report.chart import WIDE
from isoloss.report.response import response_of

RUNS = pl.DataFrame(
    [
        {"width": width, "lr": lr, "seed": seed, "loss": 3.0 * (0.8 if width == 128 else 1) * math.exp(noise)}
        for (width, lr, seed), noise in zip(
            itertools.product((64, 128), (0.001, 0.01), range(4)),
            np.random.default_rng(0).normal(0, 0.01, 16),
            strict=True,
        )
    ]
)


def shown(tmp_path: Path, capsys: pytest.CaptureFixture[str], *options: str) -> str:
    RUNS.write_csv(tmp_path / "runs.csv")
    command = ["effects", str(tmp_path / "runs.csv"), "--response", "loss", "--factors", "width,lr", "--block", "seed"]
    assert run_command_line([*command, *options]) == 0
    return capsys.readouterr().out


def test_logarithms_are_natural_and_effects_are_ratios(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    found = json.loads(shown(tmp_path, capsys, "--scale", "log", "--json"))
    logs = np.log(RUNS["loss"].to_numpy())
    wide = RUNS["width"].to_numpy() == 128
    estimate = found["effects"][0]["estimate"]
    assert estimate["value"] == pytest.approx(logs[wide].mean() - logs[~wide].mean())
    assert estimate["value"] == pytest.approx(math.log(0.8), abs=0.02)
    assert found["scale"] == "log" and found["response"] == "ln(loss)"
    text = shown(tmp_path, capsys, "--scale", "log")
    factor = math.exp(-estimate["value"])
    assert "lowers the logarithm of loss by 0.2" in text and "log units (95% interval" in text
    assert f"a factor of {factor:.4g} (" in " ".join(text.split())
    assert "Effects on the logarithm of loss" in text and "size (log units)" in text


def test_ranks_are_those_of_all_runs_with_ties_shared(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    tied = RUNS.with_columns(pl.col("loss").round(2))
    ranked, name = on_scale(tied, "loss", "rank")
    assert name == "rank(loss)" and "loss" not in ranked.columns
    np.testing.assert_allclose(ranked[name], stats.rankdata(tied["loss"].to_numpy()))
    found = json.loads(shown(tmp_path, capsys, "--scale", "rank", "--json"))
    assert found["scale"] == "rank" and found["effects"][0]["estimate"]["value"] == pytest.approx(-8)
    assert "effects_of_ranks" in [caution["code"] for caution in found["cautions"]]
    assert "lowers the rank of loss by 8.0 ranks" in shown(tmp_path, capsys, "--scale", "rank")


def test_a_diverged_run_moves_no_rank_but_its_own() -> None:
    wild = RUNS.with_columns(loss=pl.when(pl.int_range(pl.len()) == 3).then(59.0).otherwise("loss"))
    on_ranks = analyse_effects(*on_scale(wild, "loss", "rank"), ["width", "lr"], "seed").effects[0]
    raw = analyse_effects(wild, "loss", ["width", "lr"], "seed").effects[0]
    assert on_ranks.p is not None and on_ranks.p < 0.01 and raw.p is not None and raw.p > 0.2


def test_without_the_option_nothing_changes(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert shown(tmp_path, capsys) == shown(tmp_path, capsys, "--scale", "raw")
    assert json.loads(shown(tmp_path, capsys, "--json"))["scale"] == "raw"


@pytest.mark.parametrize("missing", [None, math.nan, math.inf])
def test_runs_without_a_response_stay_without(missing: float | None) -> None:
    runs = RUNS.with_columns(loss=pl.when(pl.int_range(pl.len()) == 3).then(pl.lit(missing)).otherwise("loss"))
    ranked, name = on_scale(runs, "loss", "rank")
    assert ranked[name].null_count() == 1 and ranked[name].max() == 15.0
    assert on_scale(runs, "loss", "log")[0]["ln(loss)"].null_count() == 1


def test_a_logarithm_needs_positive_numbers() -> None:
    with pytest.raises(ConfigError, match="must be above 0"):
        on_scale(RUNS.with_columns(loss=pl.col("loss") - 3), "loss", "log")
    with pytest.raises(ConfigError, match="no column 'los'"):
        on_scale(RUNS, "los", "log")


@pytest.mark.parametrize(
    ("scale", "words"), [("log", "logarithm of loss (log units)"), ("rank", "rank of loss (ranks)")]
)
def test_every_axis_of_a_figure_says_the_scale(scale: str, words: str) -> None:
    runs, name = on_scale(RUNS, "loss", scale)  # pyright: ignore[reportArgumentType]
    effects = analyse_effects(runs, name, ["width", "lr"], "seed")
    chapter = effects_chapter(effects, runs)
    for figure in chapter.figures:
        assert words in json.dumps(figure.spec(WIDE), ensure_ascii=False), figure.name
    titles = [table.title.lower() for table in chapter.tables if table.name in ("effects", "levels", "residuals")]
    heads = [column.head for table in chapter.tables for column in table.columns]
    assert all(words.split(" (")[0] in title for title in titles[:2]) and name in " ".join(heads)


def test_what_is_known_of_a_column_is_known_on_every_scale() -> None:
    of_log, of_rank = response_of("ln(tokens_per_s)"), response_of("rank(best_val_loss)")
    assert (of_log.better, of_log.name, of_log.unit) == ("higher", "the logarithm of the throughput", "log units")
    assert (of_rank.better, of_rank.title) == ("lower", "rank of the best validation loss (ranks)")
    assert response_of("best_val_loss").ratio(0.1) == "" and of_log.ratio(0.1) == ", a factor of 1.105"


def test_a_response_that_is_also_a_factor_is_named_as_it_was_given(
    capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    path = tmp_path / "runs.csv"
    path.write_text("loss,lr\n" + "".join(f"{2 + 0.01 * i},{1e-4 * (i + 1)}\n" for i in range(20)))
    for scale in ("log", "rank"):
        arguments = [str(path), "--response", "loss", "--factors", "loss,lr", "--scale", scale]
        assert run_command_line(["effects", *arguments]) == 2
        assert "'loss' is both the response and a factor" in capsys.readouterr().err


def test_a_surface_says_the_scale_of_its_response(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    path, rng = tmp_path / "search.csv", np.random.default_rng(0)
    lr_n = 10 ** rng.uniform(-4, -2, 60)
    pl.DataFrame({"lr": lr_n, "loss": 2 + (np.log10(lr_n) + 3) ** 2}).write_csv(path)
    assert (
        run_command_line(["effects", str(path), "--response", "loss", "--factors", "lr", "--scale", "rank", "--json"])
        == 0
    )
    found = json.loads(capsys.readouterr().out)
    assert found["scale"] == "rank" and "effects_of_ranks" in [caution["code"] for caution in found["cautions"]]
