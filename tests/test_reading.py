"""Tables as people have them: how they are written, curves a column a run, missing columns."""

from __future__ import annotations

import gzip
import io
import itertools
import json
import math
from pathlib import Path

import polars as pl
import pytest

from isoloss.analysis.columns import number_column, usable_rows
from isoloss.analysis.curve_tables import curve_table, mixed_runs
from isoloss.analysis.reading import read_table
from isoloss.cli import run_command_line
from isoloss.errors import ConfigError

Captured = pytest.CaptureFixture[str]
MILLION = 1_000_000


def read(content: str | bytes, folder: Path, name: str = "table.csv") -> dict[str, list[object]]:
    path = folder / name
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    return read_table(path).to_dict(as_series=False)


@pytest.mark.parametrize(
    ("text", "columns"),
    [
        ("N;D;loss\n1e6;1e8;4.0\n", {"N": [1e6], "D": [1e8], "loss": [4.0]}),
        ("N\tloss\n1\t4.5\n", {"N": [1], "loss": [4.5]}),
        ("N;loss\n3e6;3,85\n1e6;4,0\n", {"N": [3e6, 1e6], "loss": [3.85, 4.0]}),
        ("N;loss\n1.000.000;0,5\n3.000;1,25\n", {"N": [MILLION, 3000], "loss": [0.5, 1.25]}),
        ("N;loss\n110,678,115;2.345\n1,000;2.1\n", {"N": [110_678_115, 1000], "loss": [2.345, 2.1]}),
        ('N,D,loss\n"110,678,115",1.3B,3.1\n"1,000",20M,3\n', {"N": [110678115, 1000], "D": [1300000000, 20000000]}),
        ("size,loss\n70m,3.5\n160m,3.25\n", {"size": ["70m", "160m"], "loss": [3.5, 3.25]}),
        ("\ufeffa,b\r\n\r\n1,2\r\n\r\n3,4\r\n\r\n", {"a": [1, 3], "b": [2, 4]}),
        ('" a" , b\n 1, 2.5\n', {"a": [1], "b": [2.5]}),
        ("a,b\r1,2\r", {"a": [1], "b": [2]}),
        ('a,b\n"x\0\r\ny",2\n', {"a": ["x\0\r\ny"], "b": [2]}),
        ("a,b,,\n1,2,,\n", {"a": [1], "b": [2]}),
        ("sep=;\na;b\n1;x\n", {"a": [1], "b": ["x"]}),
        ('"run; a, 1",b\n1,NaN\n', {"run; a, 1": [1]}),
        ('{"N":1,"config":{"lr":0.1}}\n\n{"N":2,"loss":"NaN"}\n', {"N": [1, 2], "config.lr": [0.1, None]}),
        ('[{"N":1,"who":"001"},{"N":2.5,"who":"002"}]', {"N": [1.0, 2.5], "who": ["001", "002"]}),
    ],
)
def test_a_table_is_read_as_it_is_written(text: str, columns: dict[str, list[object]], tmp_path: Path) -> None:
    for content in (text, gzip.compress(text.encode()), text.encode("utf-16") if text[0] != "\ufeff" else text):
        found = read(content, tmp_path)
        assert {name: found[name] for name in columns} == columns


def test_what_a_file_is_its_bytes_say(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    parquet = io.BytesIO()
    pl.DataFrame({"a": [1, 2]}).write_parquet(parquet)
    assert read(parquet.getvalue(), tmp_path) == read(gzip.compress(parquet.getvalue()), tmp_path) == {"a": [1, 2]}
    monkeypatch.setattr("sys.stdin", io.TextIOWrapper(io.BytesIO(gzip.compress(b"a;b\n1;2\n"))))
    assert read_table(Path("-")).to_dict(as_series=False) == {"a": [1], "b": [2]}


@pytest.mark.parametrize(
    ("content", "complaint"),
    [
        ("a,b,a\n1,2,3\n", "2 columns are called 'a'"),
        ("a,b\n1,2\n1,2,3\n", "line 3 has 3 fields, and the first line 2"),
        ("1e6,1e8,4.0\n1e6,1e8,4.0\n", "first line holds numbers, not names"),
        (gzip.compress(b"a,b\n1,2\n" * 99, mtime=0)[:-9], "gzip ends too early"),
        (b"PK\x03\x04" + bytes(20), "save the sheet as CSV"),
        (b"\x80\x04\x95\x10\x00\x00", "no UTF-8"),
        ('{"a":1}\n{"a":\n', "line 2, character 6"),
        ('{"a":1}\n5\n', "line 2 holds 5"),
        ("[" * 100_000, "line 1 holds what no table does"),
        (" \n\n", "it is empty"),
    ],
    ids=itertools.count(),
)
def test_what_cannot_be_read_gets_one_line(
    content: str | bytes, complaint: str, tmp_path: Path, capsys: Captured
) -> None:
    path = tmp_path / "table.csv"
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    assert run_command_line(["fit", str(path)]) == 2
    told = capsys.readouterr().err
    assert complaint in told and told.count("\n") == 1


def test_words_are_numbers_where_numbers_are_asked_for() -> None:
    table = pl.DataFrame({"N": ["70m", "1.4b", "1,000", "\u22122.5e3", " 5 k ", "12 345"], "loss": [3.0] * 6})
    assert usable_rows(table, numeric=["N"]).floats("N").tolist() == [7e7, 1.4e9, 1000, -2500, 5000, 12345]
    with pytest.raises(ConfigError, match="not numeric: it holds '1,00,0'"):
        usable_rows(pl.DataFrame({"N": ["1,00,0"]}), numeric=["N"])


def test_a_missing_column_names_the_nearest_three() -> None:
    table = pl.DataFrame({f"column_{number}": [1] for number in range(50)} | {"eval/loss": [1], "lr": [1]})
    with pytest.raises(ConfigError, match=r"did you mean 'eval/loss'.* or '.*'.*nearest of 52") as caught:
        usable_rows(table, numeric=["loss"])
    assert str(caught.value).count("'") == 8
    with pytest.raises(ConfigError, match="use lr"):
        usable_rows(table, numeric=["learning_rate"])


WIDE = """"Step","Group: k9 - val/loss","Group: k9 - val/loss__MIN","a - b - val/loss","a - b - _step"
"100","5.0","4.0","","100"
"200","4.5","4.5","4.7","200"
"""


def test_a_column_a_run_is_one_row_an_evaluation(tmp_path: Path, capsys: Captured) -> None:
    path = tmp_path / "wide.csv"
    path.write_text(WIDE)
    assert run_command_line(["convergence", str(path), "--json"]) == 0
    runs = json.loads(capsys.readouterr().out)["runs"]
    assert [(run["run"], run["n"], run["best_loss"]) for run in runs] == [("Group: k9", 2, 4.5), ("a - b", 1, 4.7)]


def test_wide_curves_without_a_trackers_names() -> None:
    plain = curve_table(pl.DataFrame({"step": [1, 2], "small": [3.0, 2.0], "large": [2.5, math.nan]}))
    assert plain.table["run"].to_list() == ["small"] * 2 + ["large"] * 2
    numbered = curve_table(pl.DataFrame({"step": [1], "loss_seed0": [3.0], "loss_seed1": [2.0]}))
    assert numbered.table["loss"].to_list() == [3.0, 2.0]
    with pytest.raises(ConfigError, match="no column 'loss'"):  # two measurements of one run
        curve_table(pl.DataFrame({"step": [1, 2], "train_loss": [3.0, 2.0], "val_loss": [2.5, 2.0]}))
    metrics = pl.DataFrame({"Step": [1], "a - val/loss": [3.0], "a - train/loss": [2.0]})
    with pytest.raises(ConfigError, match="use --loss with one of 'val/loss', 'train/loss'"):
        curve_table(metrics)
    assert curve_table(metrics, loss="val/loss").table.row(0) == ("a", 1, 3.0, 2.0)


def test_a_run_column_is_needed_for_several_runs_alone() -> None:
    rows = [{"width": w, "seed": s, "step": t, "loss": 1.0 + w} for w in (1, 2) for s in (0, 1) for t in (10, 20)]
    table = pl.DataFrame(rows)
    alone = curve_table(table.head(2))
    assert alone.table[alone.run].to_list() == ["run", "run"]
    with pytest.raises(ConfigError, match="step 10 comes more than once: use --run width,seed"):
        curve_table(table)
    named = curve_table(table, "width,seed")
    assert named.table[named.run].unique(maintain_order=True).to_list()[:2] == ["width=1 seed=0", "width=1 seed=1"]
    dense = pl.DataFrame({"run": ["a"] * 12, "step": range(12), "seed": [0, 1] * 6, "loss": [1.0] * 12})
    assert [caution.code for caution in mixed_runs(curve_table(dense))] == ["unlisted_columns"]
    assert mixed_runs(named) == []


def test_a_response_of_truth_values_is_refused_in_plain_words() -> None:
    with pytest.raises(ConfigError, match="column 'done' is not numeric: it holds true and false"):
        number_column(pl.Series("done", [True, False]))
