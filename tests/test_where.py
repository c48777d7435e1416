"""Conditions on rows as they are typed at --where."""

from __future__ import annotations

from pathlib import Path

import polars as pl
import pytest

from isoloss.analysis.where import rows_where
from isoloss.cli import run_command_line
from isoloss.errors import ConfigError

TABLE = pl.DataFrame({
    "i": [0, 1, 2, 3, 4, 5],
    "loss": [2.0, 3.0, 4.0, float("nan"), None, -1.0],
    "lr": ["1e-3", "3e-3", "0.001", "1e-3", "1e-3", "1e-2"],
    "optimizer": ["adamw", "sgd", "adamw", "adamw", "sgd", None],
    "batch size": [8, 8, 16, 16, 32, 32],
})  # fmt: skip


@pytest.mark.parametrize(
    ("condition", "rows"),
    [
        ("loss < 3", [0, 5]),
        ("loss<=3", [0, 1, 5]),
        ("3 > loss", [0, 5]),
        ("loss >= -1 and loss != 3.0", [0, 2, 5]),
        ("loss > 2.5", [1, 2]),
        ("lr == 0.001", [0, 2, 3, 4]),
        ("optimizer == 'adamw'", [0, 2, 3]),
        ("optimizer != 'adamw'", [1, 4]),
        ("optimizer = 'sgd' or loss < 3 and lr > 0.005", [1, 4, 5]),
        ("(optimizer = 'sgd' or loss < 3) and lr > 0.002", [1, 5]),
        ("`batch size` >= 16 and loss > -2", [2, 5]),
        ("'sgd' == optimizer", [1, 4]),
    ],
)
def test_a_condition_keeps_the_rows_that_meet_it(condition: str, rows: list[int]) -> None:
    assert rows_where(TABLE, condition)["i"].to_list() == rows


@pytest.mark.parametrize(
    ("condition", "complaint"),
    [
        ("los < 3", "no column 'los'"),
        ("loss", "does not compare a column"),
        ("loss <", "unable to parse"),
        ("(loss < 3", "unable to parse"),
        ("loss < 3 loss > 2", "loss < 3 and metric"),
        ("1 < 2", "does not compare a column"),
        ("optimizer < 3", "cannot compare string"),
        ('optimizer = "adamw"', "no column 'adamw'"),
        ("loss < 'x", "Unterminated string"),
        ("loss > 100", "none of 6 rows"),
        ("read_csv('x') = loss", "unsupported function"),
        ("loss < (select 1)", "loss < 3 and metric"),
    ],
)
def test_what_is_no_condition_says_what_is_wrong(condition: str, complaint: str) -> None:
    with pytest.raises(ConfigError, match=complaint):
        rows_where(TABLE, condition)


def test_rows_that_are_left_out_are_counted(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "runs.csv"
    pl.DataFrame({"N": [1e5, 2e5, 4e5, 8e5, 9e5], "loss": [4.0, 3.5, 3.2, 3.0, 90.0]}).write_csv(path)
    arguments = ["fit", str(path), "--form", "LN", "--no-floor", "--where", "loss < 10"]
    assert run_command_line(arguments) == 0
    said = capsys.readouterr()
    assert "4 of 5 rows meet --where loss < 10" in said.err and "4 runs" in said.out
