"""How often runs read their text: counted in summary, report and audit, and taken by the data-constrained law."""

from __future__ import annotations

import json
from pathlib import Path

import polars as pl
import pytest

from isoloss.analysis.scaling_results import ScalingResults, analyse_scaling, study_law
from isoloss.cli import run_command_line
from isoloss.cli.fit import choose_columns
from isoloss.report.chapters.design import _design  # pyright: ignore[reportPrivateUsage]
from isoloss.report.chapters.runs import runs_table
from isoloss.report.snapshot import take_snapshot
from isoloss.store.tables import StudyResults, write_summary
from isoloss.study.config import RunConfig
from isoloss.study.study import Study
from tests.fake_studies import fake_study

UNIQUE = 900_000


def constrained(config: RunConfig, number: int, step: int) -> float:
    """Repeats count less: as LND would say of D' = U·(1 + 4·(1 − exp(−(D/U − 1)/4)))."""
    from math import exp

    tokens = max(1, step) * config.batch_size * config.block_size
    if tokens > UNIQUE:
        tokens = UNIQUE * (1 + 4 * (1 - exp(-(tokens / UNIQUE - 1) / 4)))
    return (1.5 + 300 / (12 * config.n_layer * config.n_embd**2) ** 0.6 + 100 / tokens**0.4) * (1 + number % 7 / 3000)


@pytest.fixture
def repeating(tmp_path: Path) -> StudyResults:
    """Three sizes by four horizons, from a seventh of the text to five times it."""
    base = {"n_layer": 1, "n_head": 1, "block_size": 64, "batch_size": 16, "eval_interval": 8000}
    factors = {"n_embd": (16, 32, 64), "max_iters": (125, 500, 2000, 5000)}
    return fake_study(tmp_path / "s", Study("s", "tinyshakespeare", base=base, factors=factors), {}, constrained)


def test_a_summary_counts_epochs_and_unique_tokens(repeating: StudyResults) -> None:
    write_summary(repeating, repeating.summary())
    table = pl.read_csv(repeating.paths.summary("csv"))
    assert table["unique_tokens"].to_list() == [UNIQUE] * 12
    assert table["epochs"].to_list() == pytest.approx((table["train_tokens"] / UNIQUE).to_list())
    assert table["epochs"].max() == pytest.approx(5000 * 1024 / UNIQUE)


def test_a_report_says_how_often_the_text_is_read(repeating: StudyResults) -> None:
    snapshot = take_snapshot(repeating)
    said = " ".join(_design(snapshot))
    assert "6 of 12 runs read their training text more than once, up to 5.69 times" in said
    assert "5.12 M tokens of which 900 k are unique" in said
    assert "epochs" in [column.title for column in runs_table(snapshot).columns]


def test_a_plain_law_of_a_study_that_repeats_says_which_other_form_to_fit(repeating: StudyResults) -> None:
    table = repeating.summary()
    found = study_law(table, table, ["n_embd", "max_iters"])
    assert isinstance(found, ScalingResults)
    [said] = [caution for caution in found.cautions if caution.code == "repeated_data"]
    assert "In 6 of 12 rows train_tokens exceeds unique_tokens, by up to 5.69 epochs" in said.text
    assert "isoloss fit TABLE --form LNDUN" in (said.remedy or "")
    once = study_law(*[table.filter(pl.col("epochs") < 1)] * 2, ["n_embd", "max_iters"])
    assert not isinstance(once, ScalingResults) or "repeated_data" not in {each.code for each in once.cautions}


def test_a_data_constrained_law_takes_the_unique_tokens_of_a_study_by_itself(
    repeating: StudyResults, capsys: pytest.CaptureFixture[str]
) -> None:
    names = dict.fromkeys(("N", "D", "C", "U", "weight", "cluster", "loss"))
    table = repeating.summary()
    columns = choose_columns(names, table, study=True)
    assert columns["U"] == "unique_tokens" and "weight" not in columns
    assert "U" not in choose_columns(names, table, study=False)
    assert choose_columns({**names, "U": "epochs"}, table, study=True)["U"] == "epochs"
    fit = analyse_scaling(table, "LNDU", columns, holdout=False).fit
    plain = analyse_scaling(table, "LND", columns, holdout=False).fit
    assert fit.solution is not None and plain.solution is not None and fit.solution.value < plain.solution.value / 2
    assert run_command_line(["fit", str(repeating.paths.folder), "--form", "LNDUN", "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["columns"]["U"] == "unique_tokens"
