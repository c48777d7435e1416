"""Runs that diverged, as an outcome: what is said of the levels that lose them."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pytest
from scipy import stats

from isoloss.analysis.claim import Evidence
from isoloss.analysis.claims import judge
from isoloss.analysis.effects import Effects, analyse_effects
from isoloss.analysis.level_difference import level_difference
from isoloss.analysis.lost_runs import lost_runs
from isoloss.cli import run_command_line
from isoloss.report.evidence import evidence
from isoloss.report.findings import find
from isoloss.report.snapshot import take_snapshot
from isoloss.store.run import State
from isoloss.study.config import RunConfig
from isoloss.study.stated_hypotheses import make_hypothesis
from isoloss.study.study import Study
from tests.fake_studies import fake_study, falling


def table(lost: dict[float, int], runs: int = 12) -> pl.DataFrame:
    """Runs at some rates and two widths, of which so many have no loss."""
    rng = np.random.default_rng(0)
    rows: list[dict[str, Any]] = []
    for rate, missing in lost.items():
        for i in range(runs):
            value = None if i < missing else 2 - 0.1 * math.log10(rate) + rng.normal(0, 0.01)
            rows.append({"rate": rate, "width": 32 * (1 + i % 2), "seed": i // 2, "loss": value})
    return pl.DataFrame(rows)


def test_levels_that_lose_runs_are_told_with_exact_intervals() -> None:
    rate, width = lost_runs(table({0.001: 0, 0.01: 6}), "loss", ["rate", "width"])
    assert [share.value for share in rate.shares] == [0.0, 0.5] and rate.levels == (0.001, 0.01)
    exact = stats.binomtest(6, 12).proportion_ci(method="exact")
    assert (rate.shares[1].low, rate.shares[1].high) == pytest.approx((exact.low, exact.high))
    assert rate.p == pytest.approx(stats.fisher_exact(np.array([[0, 12], [6, 6]])).pvalue) and rate.depends
    assert not width.depends and width.p == 1.0


def test_of_several_levels_the_smallest_p_is_adjusted() -> None:
    rate, _ = lost_runs(table({0.001: 1, 0.003: 1, 0.01: 7}), "loss", ["rate", "width"])
    assert rate.p == pytest.approx(3 * stats.fisher_exact(np.array([[7, 5], [2, 22]])).pvalue)


@pytest.mark.parametrize(("lost", "depends"), [({0.001: 1, 0.01: 9}, True), ({0.001: 1, 0.01: 2}, False)])
def test_where_both_levels_lose_runs_the_test_decides(lost: dict[float, int], depends: bool) -> None:
    rate, _ = lost_runs(table(lost), "loss", ["rate", "width"])
    assert (rate.p < 0.05) == depends == rate.depends


@pytest.mark.parametrize("missing", [None, math.nan, math.inf])
def test_what_is_no_number_is_lost(missing: float | None) -> None:
    rows = (
        table({0.001: 0, 0.01: 0})
        .with_row_index()
        .with_columns(loss=pl.when(pl.col("index") >= 20).then(pl.lit(missing, pl.Float64())).otherwise("loss"))
    )
    effects = analyse_effects(rows, "loss", ["rate", "width"])
    assert [share.value for share in effects.lost_runs[0].shares] == pytest.approx([0, 4 / 12])
    [said] = [caution.text for caution in effects.cautions if caution.code == "runs_lost"]
    assert "4 of 12 at 0.01" in said and "none at the other levels" in said and "rate" in said


def test_where_nothing_is_lost_nothing_is_said() -> None:
    effects = analyse_effects(table({0.001: 0, 0.01: 0}), "loss", ["rate", "width"])
    assert effects.lost_runs == () and "runs_lost" not in [caution.code for caution in effects.cautions]
    even = analyse_effects(table({0.001: 2, 0.01: 2}), "loss", ["rate", "width"])
    assert len(even.lost_runs) == 2 and "runs_lost" not in [caution.code for caution in even.cautions]


def cells(lost: dict[tuple[float, int], int], runs: int = 4) -> pl.DataFrame:
    """Four runs a cell of three rates and two widths, of which so many have no loss."""
    rng = np.random.default_rng(0)
    return pl.DataFrame(
        [
            {"rate": rate, "width": width, "seed": seed,
             "loss": None if seed < lost.get((rate, width), 0) else 3 + rng.normal(0, 0.01)}
            for rate in (0.001, 0.01, 0.1) for width in (32, 64) for seed in range(runs)
        ]
    )  # fmt: skip


def test_cells_that_lost_most_of_their_runs_are_named() -> None:
    effects = analyse_effects(cells({(0.1, 64): 3, (0.01, 64): 2, (0.1, 32): 1}), "loss", ["rate", "width"], "seed")
    assert [(cell.levels, cell.lost, cell.n) for cell in effects.lost_cells] == [
        ({"rate": 0.1, "width": 64}, 3, 4),
        ({"rate": 0.01, "width": 64}, 2, 4),
    ]
    [said] = [caution.text for caution in effects.cautions if caution.code == "cells_lost"]
    assert "at rate 0.1, width 64 (3 of 4); rate 0.01, width 64 (2 of 4)." in said


def test_of_many_cells_three_are_named_and_the_rest_counted() -> None:
    wild = {(rate, width): 2 + (width == 64) for rate in (0.01, 0.1) for width in (32, 64)} | {(0.001, 32): 4}
    effects = analyse_effects(cells(wild), "loss", ["rate", "width"], "seed")
    [said] = [caution.text for caution in effects.cautions if caution.code == "cells_lost"]
    assert said.count(" of 4)") == 3 and "rate 0.001, width 32 (4 of 4)" in said and "2 further combinations" in said


def test_cells_are_not_named_where_all_lose_runs_or_few() -> None:
    alike = {(rate, width): 2 for rate in (0.001, 0.01, 0.1) for width in (32, 64)}
    assert analyse_effects(cells(alike), "loss", ["rate", "width"]).lost_cells == ()
    assert analyse_effects(cells({(0.1, 64): 1}), "loss", ["rate", "width"]).lost_cells == ()


@pytest.mark.parametrize(
    "stated",
    [
        {"kind": "effect", "factor": "n_embd", "direction": "down"},
        {"kind": "ratio", "factor": "n_embd", "response": "best_val_loss", "high": 1.0},
        {"kind": "optimum", "factor": "learning_rate", "low": 0.005},
    ],
)
def test_every_claim_of_factors_names_cells_that_lost_most_runs(stated: dict[str, Any]) -> None:
    names = {"rate": "learning_rate", "width": "n_embd", "loss": "best_val_loss"}
    rows = cells({(0.1, 64): 3}).rename(names).with_columns(run_id=pl.format("r{}", pl.int_range(pl.len())))
    done = rows.drop_nulls().with_columns(device=pl.lit("cpu"))
    lost = rows.filter(pl.col("best_val_loss").is_null()).drop("best_val_loss")
    factors = {"learning_rate": (0.001, 0.01, 0.1), "n_embd": (32, 64)}
    runs = Evidence(done, factors, NotImplemented, NotImplemented, lost)
    [claim] = judge([make_hypothesis({"says": "It is so", **stated}, 1)], runs)
    [said] = [caution.text for caution in claim.cautions if caution.code == "cells_lost"]
    assert "learning_rate 0.1, n_embd 64 (3 of 4)" in said


def test_a_difference_says_what_its_own_factor_lost() -> None:
    rows = table({0.001: 0, 0.01: 6})
    codes = [[c.code for c in level_difference(rows, "loss", factor, *levels, ["rate", "width"]).cautions]
             for factor, levels in (("rate", (0.001, 0.01)), ("width", (32, 64)))]  # fmt: skip
    assert "runs_lost" in codes[0] and "runs_lost" not in codes[1]


STATED = {"says": "High rates are better", "kind": "effect", "factor": "learning_rate", "direction": "down"}
DIVERGING = Study(
    "wild",
    "a.txt",
    base={"max_iters": 20, "eval_interval": 5, "warmup_iters": 2},
    factors={"learning_rate": (1e-3, 1e-2), "n_embd": (32, 64)},
    seeds=(1, 2, 3, 4),
    hypotheses=(make_hypothesis(STATED, 1),),
)


def test_a_claim_and_the_command_name_levels_at_which_runs_diverged(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    states: dict[int, tuple[State, str]] = dict.fromkeys((8, 9, 12), ("diverged", "loss is not finite at step 5"))
    lost_cell = "learning_rate 0.01, n_embd 32 (2 of 4)"
    noise = np.random.default_rng(0).normal(0, 0.1, 16)

    def curve(config: RunConfig, number: int, step: int) -> float:
        return falling(config, number, step) + float(noise[number])

    results = fake_study(tmp_path / "out", DIVERGING, states, curve)
    snapshot = take_snapshot(results)
    assert evidence(snapshot).lost["learning_rate"].to_list() == [1e-2] * 3
    found = find(snapshot)
    assert "runs_lost" in [caution.code for caution in found.claims[0].cautions]
    claimed = [caution.text for caution in found.claims[0].cautions if caution.code == "cells_lost"]
    assert len(claimed) == 1 and lost_cell in claimed[0]
    assert isinstance(found.effects, Effects) and "runs_lost" in [c.code for c in found.effects.cautions]
    command = ["effects", str(tmp_path / "out"), "--response", "best_val_loss", "--factors", "learning_rate,n_embd"]
    assert run_command_line([*command, "--json"]) == 0
    rate, _ = json.loads(capsys.readouterr().out)["lost_runs"]
    assert rate["factor"] == "learning_rate" and [share["value"] for share in rate["shares"]] == [0.0, 3 / 8]
