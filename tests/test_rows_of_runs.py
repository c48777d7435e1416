"""What a row of a table is: a run, an evaluation of one, a copy; and settings that vary and were not listed."""

from __future__ import annotations

import itertools
import json
from pathlib import Path

import numpy as np
import polars as pl
import pytest

from isoloss.analysis.effects import Effects, analyse_effects
from isoloss.analysis.evaluations import reduced
from isoloss.analysis.scaling_results import analyse_scaling
from isoloss.cli import run_command_line
from isoloss.errors import ConfigError

Captured = pytest.CaptureFixture[str]


def crossed(generator: np.random.Generator, noise: float = 0.007, **levels: tuple[object, ...]) -> pl.DataFrame:
    rows = [dict(zip(levels, row, strict=True)) for row in itertools.product(*levels.values())]
    return pl.DataFrame(rows).with_columns(loss=pl.Series(2.0 + generator.normal(0, noise, len(rows))))


def evaluations() -> pl.DataFrame:
    """Two widths that do not differ; each run has its luck, and twenty evaluations that share it."""
    generator = np.random.default_rng(3)
    runs = crossed(generator, 0.02, width=(64, 128), seed=(0, 1, 2)).rename({"loss": "luck"})
    table = runs.join(pl.DataFrame({"step": range(100, 2100, 100)}), how="cross")
    return table.with_columns(loss=pl.col("luck") + pl.Series(generator.normal(0, 0.002, len(table)))).drop("luck")


def codes(effects: Effects) -> list[str]:
    return [caution.code for caution in effects.cautions]


@pytest.mark.parametrize("block", [None, "seed"])
def test_evaluations_are_no_runs(block: str | None) -> None:
    with pytest.raises(ConfigError, match=r"20 values of step at equal width, seed.*--run width,seed --reduce last"):
        analyse_effects(evaluations(), "loss", ["width"], block)
    named = evaluations().with_columns(run_id=pl.format("w{}s{}", "width", "seed")).drop("seed", "step")
    with pytest.raises(ConfigError, match=r"run_id 'w.*' has several rows.*--run run_id"):
        analyse_effects(named, "loss", ["width"])
    unnamed = evaluations().drop("seed")  # which rows are of one run cannot be told; that they are not runs can
    with pytest.raises(ConfigError, match="rows are evaluations"):
        analyse_effects(unnamed, "loss", ["width"])


def test_evaluations_are_reduced_when_told_how(tmp_path: Path, capsys: Captured) -> None:
    table, path = evaluations(), tmp_path / "evals.csv"
    table.write_csv(path)
    arguments = ["effects", str(path), "--response", "loss", "--factors", "width", "--block", "seed"]
    assert run_command_line(arguments) == 2
    capsys.readouterr()
    assert run_command_line([*arguments, "--run", "width,seed", "--reduce", "last", "--json"]) == 0
    captured = capsys.readouterr()
    found = json.loads(captured.out)
    assert found["n"] == 6 and "120 rows are reduced to 6 runs" in captured.err
    last = table.filter(pl.col("step") == 2000)
    means = last.group_by("width", maintain_order=True).agg(pl.col("loss").mean())["loss"]
    assert found["effects"][0]["estimate"]["value"] == pytest.approx(means[1] - means[0])
    assert found["effects"][0]["p"] > 0.05
    assert run_command_line([*arguments, "--run", "width,seed"]) == 2
    assert "--reduce" in capsys.readouterr().err


def test_the_evaluation_that_stands_for_a_run() -> None:
    table = pl.DataFrame(
        {"run": ["a", "a", "a", "b", "b"], "step": [30, 10, 40, 1, 2], "loss": [1.0, 3.0, None, 5.0, float("nan")]}
    )
    assert reduced(table, "loss", ["run"], "last")["loss"][0] == 1.0
    assert np.isnan(reduced(table, "loss", ["run"], "last")["loss"][1])  # it ended so
    assert reduced(table, "loss", ["run"], "min")["loss"].to_list() == [1.0, 5.0]
    assert reduced(table, "loss", ["run"], "max")["loss"].to_list() == [3.0, 5.0]


def test_runs_that_ended_at_different_steps_are_runs() -> None:
    generator = np.random.default_rng(0)
    table = crossed(generator, width=(64, 128), rep=(0, 1, 2, 3)).drop("rep")
    stopped = table.with_columns(_step=pl.Series([1000, 1000, 1000, 400, 1000, 1000, 1000, 1000]))
    early = table.with_columns(_step=pl.Series([910, 870, 990, 1000, 640, 730, 815, 1000]))
    horizon = crossed(generator, width=(64, 128), step=(500, 1000), seed=(0, 1))
    numbered = table.with_columns(run=pl.Series([0, 1, 2, 3] * 2))
    for runs, factors in (
        (stopped, ["width"]),
        (early, ["width"]),
        (horizon, ["width", "step"]),
        (numbered, ["width"]),
    ):
        assert analyse_effects(runs, "loss", factors).n == 8


def test_copies_are_whole_rows_or_runs() -> None:
    generator = np.random.default_rng(0)
    runs = crossed(generator, width=(64, 128), lr=(1e-4, 1e-3, 1e-2), seed=(0, 1, 2)).with_columns(
        loss=pl.col("loss").round(2)  # many ties
    )
    distinct = analyse_effects(runs, "loss", ["width"], "seed")
    assert distinct.n == 18 and "duplicate_rows" not in codes(distinct)
    named = runs.with_columns(run_id=pl.int_range(18).cast(pl.String()) + pl.lit("x"), saved=pl.lit("first"))
    again = pl.concat([named, named.head(4).with_columns(saved=pl.lit("second")), named.head(2)])
    copied = analyse_effects(again, "loss", ["width"], "seed")
    assert copied.n == 18 and "duplicate_rows" in codes(copied)


def test_ties_by_rounding_are_no_copies() -> None:
    losses = [2.0, 2.0, 2.0, 1.99, 2.0, 2.0, 2.0, 2.01, *[1.99] * 8]
    table = pl.DataFrame({"width": [64] * 8 + [128] * 8, "dropout": ([0.0] * 4 + [0.2] * 4) * 2, "loss": losses})
    found = analyse_effects(table, "loss", ["width", "dropout"])
    assert found.n == 16 and found.error is not None and found.error.df == 12
    said = next(caution for caution in found.cautions if caution.code == "duplicate_rows")
    assert "equal responses as rounded" in said.text


def unlisted(table: pl.DataFrame, factors: list[str], block: str | None = "seed") -> list[str]:
    found = analyse_effects(table, "loss", factors, block).cautions
    return [f"{caution.text} {caution.remedy}" for caution in found if caution.code == "unlisted_columns"]


def test_a_setting_that_varies_and_is_not_listed_is_named() -> None:
    generator = np.random.default_rng(0)
    table = crossed(generator, width=(64, 128), dropout=(0.0, 0.2), lr=(1e-4, 1e-3, 1e-2), seed=(0, 1, 2))
    table = table.with_columns(
        loss=pl.col("loss") + 0.3 * (pl.col("lr").log10() + 3).abs(),
        train_loss=pl.col("loss") - 0.1,
        tokens_per_s=pl.Series(generator.normal(1e4, 10, len(table))),
        epochs_seen=pl.Series(generator.normal(1, 0.1, len(table))),
        params=pl.col("width") ** 2,
        run_id=pl.int_range(len(table)),
    )
    for block in ("seed", None):
        (text,) = unlisted(table, ["width", "dropout"], block)
        assert "lr over 99%" in text and "--factors width,dropout,lr" in text
        assert not any(name in text for name in ("tokens_per_s", "train_loss", "seed", "params", "run_id", "epochs"))
    assert unlisted(table, ["width", "dropout", "lr"]) == []
    follow = table.with_columns(init_seed=pl.col("seed"), data_seed=pl.col("seed") + 1)
    assert unlisted(follow, ["width", "dropout", "lr"]) == unlisted(follow, ["width", "dropout", "lr"], None) == []
    words = table.with_columns(pl.col("lr").cast(pl.String()).alias("optimizer")).drop("lr")
    assert "optimizer" in unlisted(words, ["width", "dropout"])[0]
    searched = table.with_columns(lr=pl.col("lr") * pl.Series(generator.uniform(0.9, 1.1, len(table))))
    assert "lr" in unlisted(searched, ["width", "dropout"])[0]


def test_a_fit_names_what_varies_at_equal_size_and_tokens() -> None:
    table = crossed(np.random.default_rng(0), N=(1e6, 3e6, 1e7), D=(1e8, 3e8, 1e9), lr=(1e-3, 1e-2), seed=(0, 1))
    table = table.with_columns(loss=pl.col("loss") + 400 / pl.col("N") ** 0.4 + 400 / pl.col("D") ** 0.3)
    columns = {"N": "N", "D": "D", "C": "C", "loss": "loss"}
    said = [c for c in analyse_scaling(table, "LND", columns).cautions if c.code == "unlisted_columns"]
    assert len(said) == 1 and "equal N and D: lr." in said[0].text
    tuned = table.with_columns(lr=1 / pl.col("N"))
    assert "unlisted_columns" not in [c.code for c in analyse_scaling(tuned, "LND", columns).cautions]
