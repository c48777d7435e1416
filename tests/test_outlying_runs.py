"""Runs that lie outside the noise of all others are named, those that a noisy level explains are not."""

from __future__ import annotations

import itertools
import json
from pathlib import Path
from typing import Any

import numpy as np
import pandas
import polars as pl
import pytest
import statsmodels.formula.api as smf
from statsmodels.stats.outliers_influence import OLSInfluence

from isoloss.analysis.effects import Effects, analyse_effects
from isoloss.cli import run_command_line
from isoloss.report.chapters.effects import effects_as_json, effects_chapter

FACTORS = {"lr": (0.001, 0.01, 0.1), "width": (64, 128)}


def grid(seeds: int = 3, changed: dict[int, float] | None = None, noisy: float = 1.0, seed: int = 0) -> pl.DataFrame:
    """Losses near 3 with noise 0.01, `noisy` times as much at the highest rate, but for the rows that are changed."""
    rng = np.random.default_rng(seed)
    rows = [
        {"lr": lr, "width": width, "seed": number,
         "loss": 3 - 0.1 * (width == 128) + rng.normal(0, 0.01) * (noisy if lr == 0.1 else 1)}
        for lr, width, number in itertools.product(*FACTORS.values(), range(seeds))
    ]  # fmt: skip
    for row, loss in (changed or {}).items():
        rows[row]["loss"] = loss
    return pl.DataFrame(rows)


def analysed(table: pl.DataFrame, block: str | None = "seed") -> Effects:
    return analyse_effects(table, "loss", list(FACTORS), block)


def named(table: pl.DataFrame, block: str | None = "seed") -> list[str]:
    return [run.name for run in analysed(table, block).outlying_runs]


def test_residuals_are_those_of_least_squares() -> None:
    table = grid(changed={4: 3.2}).filter(pl.int_range(pl.len()) != 7)  # unbalanced: blocks and cells lack a run
    left = analysed(table).residuals
    assert left is not None
    fit: Any = smf.ols("loss ~ C(lr) * C(width) + C(seed)", pandas.DataFrame(table.to_dict(as_series=False))).fit()
    influence: Any = OLSInfluence(fit)
    assert left.df == fit.df_resid
    np.testing.assert_allclose(left.fitted_n, fit.fittedvalues, rtol=1e-9)
    np.testing.assert_allclose(1 - left.free_n, influence.hat_matrix_diag, atol=1e-9)
    np.testing.assert_allclose(left.studentized_n, influence.resid_studentized_external, rtol=1e-7)


def test_without_replicates_they_are_those_of_main_effects() -> None:
    table = grid(seeds=1)
    left = analysed(table).residuals
    assert left is not None and left.model == "main effects"
    fit: Any = smf.ols("loss ~ C(lr) + C(width)", pandas.DataFrame(table.to_dict(as_series=False))).fit()
    influence: Any = OLSInfluence(fit)
    np.testing.assert_allclose(left.studentized_n, influence.resid_studentized_external, rtol=1e-7)


def test_a_diverged_run_is_named_with_its_cell_and_how_far_it_is() -> None:
    effects = analysed(grid(changed={13: 59.0}))
    [run] = effects.outlying_runs
    assert run.name == "row 14" and run.levels == {"lr": 0.1, "width": 64, "seed": 1}
    assert run.response == 59.0 and run.expected == pytest.approx(3.0, abs=0.03) and run.p < 1e-6
    [said] = [caution for caution in effects.cautions if caution.code == "outlying_runs"]
    assert said.severity == "limits" and "row 14 (lr 0.1, width 64, seed 1) has 59 where" in said.text
    assert said.remedy is not None and "--where" in said.remedy and "--scale" in said.remedy


def test_several_diverged_runs_do_not_hide_each_other() -> None:
    wild = {2: 40.0, 7: 45.0, 13: 59.0}
    left = analysed(grid(changed=wild)).residuals
    assert left is not None
    beyond = np.abs(left.studentized_n) > 4.5  # 5% over 18 runs: each alone is hidden by the others
    assert not beyond.any()
    assert sorted(named(grid(changed=wild))) == ["row 14", "row 3", "row 8"]
    assert sorted(named(grid(changed={12: 12.0, 14: 59.0}))) == ["row 13", "row 15"]  # two of three of a cell


def test_of_two_runs_of_a_cell_the_one_far_from_all_others_is_named() -> None:
    assert named(grid(seeds=2, changed={3: 9.0}), None) == ["row 4"]


def test_a_level_that_is_noisier_has_no_outlying_runs_but_one_that_is_one_even_there() -> None:
    assert sum(bool(named(grid(noisy=10, seed=seed))) for seed in range(40)) <= 3
    assert named(grid(noisy=10, changed={13: 59.0})) == ["row 14"]


def test_a_level_of_which_most_runs_are_high_is_no_outlier() -> None:
    assert named(grid(changed={place: 9.0 + place for place in (12, 13, 15, 16)})) == []


def test_normal_tables_seldom_have_any() -> None:
    designs = [(3, "seed"), (3, None), (1, None)]
    found = [bool(named(grid(seeds, seed=seed), block)) for seeds, block in designs for seed in range(30)]
    assert sum(found) <= 4  # 5% of 90


@pytest.mark.parametrize("loss", [0.0, 3.0])
def test_equal_responses_have_none(loss: float) -> None:
    effects = analysed(grid(noisy=0).with_columns(loss=pl.lit(loss)))
    assert effects.outlying_runs == () and effects_as_json(effects)


def test_runs_with_names_are_called_by_them() -> None:
    runs = grid(changed={13: 59.0}).with_columns(run_id=pl.format("r{}", pl.int_range(pl.len())))
    assert named(runs) == ["run r13"]


def test_very_many_are_all_counted_and_three_are_named() -> None:
    wild = dict.fromkeys(range(0, 300, 7), 9.0)
    effects = analysed(grid(seeds=50, changed=wild))
    [said] = [caution.text for caution in effects.cautions if caution.code == "outlying_runs"]
    assert {run.place for run in effects.outlying_runs} == {*wild}
    assert said.startswith("43 runs lie") and said.count("lead to expect") == 3 and "so do 40 more" in said


def test_rows_left_out_keep_the_others_numbers() -> None:
    runs = grid(changed={13: 59.0}).with_columns(loss=pl.when(pl.int_range(pl.len()) != 2).then("loss"))
    assert named(runs) == ["row 14"]


def test_the_chapter_has_a_table_of_residuals_that_fit_worst_first() -> None:
    runs = grid(changed={13: 59.0})
    chapter = effects_chapter(analysed(runs), runs)
    frame = next(table for table in chapter.tables if table.name == "residuals").frame
    assert frame.columns == ["row", "lr", "width", "seed", "response", "fitted", "residual", "studentized", "outlying"]
    assert frame["row"][0] == 14 and frame["outlying"].to_list() == [True] + [False] * 17
    assert frame.row(0)[1:5] == (0.1, 64, 1, 59.0)
    sizes = frame["studentized"].abs().to_list()
    assert sizes == sorted(sizes, reverse=True)
    assert any("One run lies far outside" in sentence and "row 14" in sentence for sentence in chapter.answer)


def test_the_json_has_residuals_of_up_to_a_thousand_runs() -> None:
    document = json.loads(effects_as_json(analysed(grid(changed={13: 59.0}))))
    assert len(document["residuals"]) == 18 and document["residuals"][0]["row"] == 14
    assert document["outlying_runs"][0]["levels"] == {"lr": 0.1, "width": 64, "seed": 1}
    assert json.loads(effects_as_json(analysed(grid(seeds=167), None)))["residuals"] is None


def test_a_factor_may_be_called_as_a_column_of_the_table() -> None:
    runs = grid().rename({"lr": "fitted"})
    effects = analyse_effects(runs, "loss", ["fitted", "width"], "seed")
    frame = next(table for table in effects_chapter(effects, runs).tables if table.name == "residuals").frame
    assert frame["fitted (level)"].n_unique() == 3 and frame["fitted"].n_unique() == 18


def test_the_command_leaves_rows_out(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    grid(changed={13: 59.0}).write_csv(tmp_path / "runs.csv")
    command = ["effects", str(tmp_path / "runs.csv"), "--response", "loss", "--factors", "lr,width", "--json"]
    assert run_command_line([*command, "--where", "loss < 10"]) == 0
    captured = capsys.readouterr()
    assert json.loads(captured.out)["n"] == 17 and "17 of 18 rows meet --where" in captured.err
    assert json.loads(captured.out)["outlying_runs"] == []
