"""Hostile words outside the page: a terminal shows them, a spreadsheet runs none of them."""

from __future__ import annotations

import csv
import io
import json
import re
from pathlib import Path

import polars as pl
import pytest
from rich.console import Console

from isoloss.cli import run_command_line
from isoloss.data.tokenizer import Tokenizer
from isoloss.errors import printable
from isoloss.execution.display import Display
from isoloss.execution.recorder import Event
from isoloss.files import read_record, write_record
from isoloss.report.study_report import write_report
from isoloss.store.run import read_status
from isoloss.store.spreadsheet import csv_text
from isoloss.store.tables import StudyResults, write_summary
from isoloss.study.identity import run_id
from isoloss.terminal import show
from tests.faults.hostile import payloads, study_of

pytestmark = pytest.mark.promise(12, "escape sequences for a terminal, formulas for a spreadsheet")

OBEYED = re.compile(r"[\x00-\x09\x0b-\x1f\x7f-\x9f\u061c\u200e\u200f\u2028-\u202e\u2066-\u2069\ufeff]")
"""What a terminal does in place of showing it; an end of a line ends a line."""
FORMULAS = ["=1+1", "+a", "-a", "@a", "\tb", "\rb", "\n=b", "-1+2", "-0x1", "=cmd|' /C calc'!A0", "＝1", "-inf", "＠a"]
NUMBERS = ["-0.5", "+1", "-1e-3", "-.5"]


@pytest.fixture(scope="module")
def study(tmp_path_factory: pytest.TempPathFactory) -> StudyResults:
    return study_of(tmp_path_factory.mktemp("hostile"), "\n".join(payloads()))


def test_status_prints_signs_and_nothing_else(study: StudyResults, capsys: pytest.CaptureFixture[str]) -> None:
    assert run_command_line(["status", str(study.paths.folder)]) == 0
    printed = capsys.readouterr().out
    assert not OBEYED.search(printed) and "\\u001b[31mred" in printed
    assert len(printed.splitlines()) == 6  # counts, the best loss, two runs and their reasons: none forges a line
    assert run_command_line(["status", str(study.paths.folder), "--json"]) == 0
    runs = json.loads(capsys.readouterr().out)["runs"]
    assert [run["reason"] for run in runs if run["reason"]] == ["\n".join(payloads())] * 2


def test_json_stays_what_it_is(capsys: pytest.CaptureFixture[str]) -> None:
    value = {"words": "".join(payloads()) + "\U000e0041 ä – 中 😀"}
    show(json.dumps(value, indent=2, ensure_ascii=False))
    printed = capsys.readouterr().out
    assert not OBEYED.search(printed) and json.loads(printed) == value


def test_what_people_write_is_shown_as_written() -> None:
    words = "Ärger – “größer” · 中文 · ελ · 😀 · 1 000\u00a0000 · a\u0301"
    assert printable(words) == words


@pytest.mark.parametrize("terminal", [False, True])
def test_progress_takes_no_orders(study: StudyResults, terminal: bool) -> None:
    stream = io.StringIO()
    console = Console(file=stream, force_terminal=terminal, width=200, color_system="standard" if terminal else None)
    display = Display(console)
    display.begin(study.configs, list(study.study.factors))
    text = "\n".join(payloads())
    display.say(text)
    for kind, run in zip(("failed", "diverged", "running"), map(run_id, study.configs), strict=False):
        display.emit(Event(run, kind, 1, 2.0, reason=text))
    said = stream.getvalue()
    assert not OBEYED.search(said) and said.count("\n") == 4
    assert "[red]markup[/red] [link=http://127.0.0.1:9]link[/link] :bomb:" in said
    console.print(display.table())


def test_an_error_about_a_strangers_file_is_one_plain_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    bad = tmp_path / "study.yaml"
    bad.write_text('name: x\ncorpus: "a\\e]0;title\\a\\nisoloss: all is well\\u202e"\n')
    assert run_command_line(["run", str(bad), "--out", str(tmp_path / "out")]) == 2
    said = capsys.readouterr().err
    assert not OBEYED.search(said) and said.count("\n") == 1


def test_samples_reach_a_pipe_to_the_letter_and_a_terminal_as_signs(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], study: StudyResults
) -> None:
    monkeypatch.setattr("isoloss.execution.samples.sample_run", lambda *_: ["\x1b[31mred\n", "two"])
    monkeypatch.setattr("isoloss.execution.samples.tokenizer_of", lambda *_: Tokenizer("byte"))
    assert run_command_line(["sample", str(study.paths.folder)]) == 0
    assert capsys.readouterr().out == "\x1b[31mred\n\n---\ntwo\n"
    monkeypatch.setattr("sys.stdout.isatty", lambda: True)
    assert run_command_line(["sample", str(study.paths.folder)]) == 0
    assert capsys.readouterr().out == "\\u001b[31mred\n\n---\ntwo\n"


def test_no_cell_of_any_table_is_a_formula(study: StudyResults) -> None:
    """Every CSV below the study, with a formula wherever a study has words of its own."""
    hostile = study_of(study.paths.folder / "formulas", "=HYPERLINK(1)")
    for config in hostile.configs:
        status = hostile.paths.run(run_id(config)).status
        if status.exists():
            value = read_record(status)
            write_record(status, {**value, "provenance": {**value["provenance"], "device": "=HYPERLINK(1)"}})
    assert read_status(hostile.paths.run(run_id(hostile.configs[0]))).provenance["device"] == "=HYPERLINK(1)"
    table = hostile.summary()
    write_report(hostile)
    written = [*hostile.paths.folder.rglob("*.csv")]
    assert len(written) > 6
    cells = [cell for path in written for row in csv.reader(io.StringIO(path.read_text("utf-8"))) for cell in row]
    assert any(cell.startswith("'=HYPERLINK(1)") for cell in cells)
    signed = re.compile(r"\+[0-9.]+")  # a number with its sign, which is what a spreadsheet reads
    assert not [cell for cell in cells if cell[:1] in tuple("=+@\t\r\n") and not signed.fullmatch(cell)]
    assert all(float(cell) < 0 for cell in cells if cell.startswith("-"))
    # What was no formula is as it was: read again, the numbers are those of the runs.
    known = [name for name in table.columns if name != "device" and table[name].null_count() < len(table)]
    assert pl.read_csv(hostile.paths.summary("csv")).select(known).equals(table.select(known))


@pytest.mark.parametrize("word", [*FORMULAS, *NUMBERS])
def test_text_that_would_run_is_marked_and_numbers_are_not(word: str) -> None:
    frame = pl.DataFrame({"words": [word, None], word: [-0.5, 1.0]})
    head, first, last = csv.reader(io.StringIO(csv_text(frame), newline=""))
    marked = word if word in NUMBERS else f"'{word}"
    assert (head, first, last) == (["words", marked], [marked, "-0.5"], ["", "1.0"])


def test_a_summary_is_analysed_from_its_csv_as_from_its_study(
    study: StudyResults, capsys: pytest.CaptureFixture[str]
) -> None:
    write_summary(study, study.summary())
    answers: list[str] = []
    ended = pl.read_csv(study.paths.summary("csv")).filter(pl.col("status").is_in(["done", "failed", "diverged"]))
    ended = ended.with_columns(pl.when(pl.col("status") == "done").then("best_val_loss"))
    table = study.paths.folder / "done.csv"
    table.write_text(csv_text(ended), encoding="utf-8")
    for source in (study.paths.folder, table):
        command = ["effects", str(source), "--response", "best_val_loss", "--factors", "n_embd,dropout", "--json"]
        assert run_command_line(command) == 0
        answers.append(capsys.readouterr().out)
    assert answers[0] == answers[1]
