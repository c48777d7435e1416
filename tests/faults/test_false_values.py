"""Records with false values and valid digests, which anybody can compute: a report, or one line that says where."""

from __future__ import annotations

import json
import random
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from isoloss.cli.status import status_as_text
from isoloss.errors import IsolossError, printable
from isoloss.files import read_record, write_record
from isoloss.report.findings import find
from isoloss.report.snapshot import take_snapshot
from isoloss.report.study_report import study_chapters
from isoloss.store.opening import open_study
from isoloss.store.tables import load_study, write_summary
from tests.faults.harness import Points, Trials
from tests.faults.hostile import study_of

reading = pytest.mark.promise(12, "13 false values at each key of every record, with a valid digest, and in rows")
VALUES: list[Any] = [None, True, -1, 10**30, 1e308, "", "words", [], [1], {}]
VALUES += [{"flops": []}, [{"step": "x"}], {"a": {"b": 1}}]
RECORDS = ("provenance.json", "tokenizer.json", "status.json", "config.json", "curves.json", "last.json")
ROWS = ("metrics.jsonl", "evals.jsonl")


def places(value: Any, before: tuple[str, ...] = ()) -> Iterator[tuple[str, ...]]:
    """Every key of an object and of the objects in it, and in each one more that nobody writes."""
    if isinstance(value, dict):
        yield (*before, "more")
        for key, inner in value.items():
            yield (*before, key)
            yield from places(inner, (*before, key))


def with_value(content: dict[str, Any], place: tuple[str, ...], value: Any) -> dict[str, Any]:
    """The object with a value replaced at one place; None removes the key."""
    key, *rest = place
    if rest:
        return {**content, key: with_value(content[key], tuple(rest), value)}
    return {k: v for k, v in content.items() if k != key} if value is None else {**content, key: value}


def read_all(folder: Path) -> None:
    """What `status` and `report` do, short of drawing."""
    results = load_study(folder)
    status_as_text(open_study(folder))
    write_summary(results, results.summary())
    results.thinned_curves()
    snapshot = take_snapshot(results)
    study_chapters(snapshot, find(snapshot))


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    made = tmp_path_factory.mktemp("changed") / "study"
    study_of(made, "plain")
    read_all(made)
    return made


@reading
def test_a_false_value_is_a_typed_error_or_a_report(folder: Path, points: Points) -> None:
    run = next(path.parent for path in folder.glob("runs/*/status.json") if '"done"' in path.read_text())
    files = [path for name in RECORDS for path in (folder / name, run / name) if path.exists()]
    everywhere = [(path, place) for path in files for place in places(read_record(path))]
    for path, place in points([(path.name, "/".join(place)) for path, place in everywhere], 2):
        file, keys = next((f, k) for f, k in everywhere if (f.name, "/".join(k)) == (path, place))
        before = read_record(file)
        try:
            for value in VALUES:
                write_record(file, with_value(before, keys, value))
                _a_report_or_one_line(folder)
        finally:
            write_record(file, before)


@reading
@pytest.mark.parametrize("name", ROWS)
def test_a_false_row_damages_its_run_alone(folder: Path, points: Points, name: str) -> None:
    run = next(path.parent for path in folder.glob("runs/*/status.json") if '"done"' in path.read_text())
    rows = [json.loads(line) for line in (run / name).read_text().splitlines()]
    status, whole = read_record(run / "status.json"), (run / name).read_bytes()
    try:
        write_record(run / "status.json", {**status, "rows": {}})  # as if they had been written like this
        for key in points(list(rows[0]), 1):
            for value in VALUES:
                chosen = random.Random(key).randrange(len(rows))
                changed = [
                    with_value(row, (key,), value) if number == chosen else row for number, row in enumerate(rows)
                ]
                (run / name).write_text("".join(json.dumps(row) + "\n" for row in changed))
                _a_report_or_one_line(folder)
    finally:
        (run / name).write_bytes(whole)
        write_record(run / "status.json", status)


@pytest.mark.promise(12, "3 false values at each key of every record of an unfinished run, then started again")
def test_a_false_value_in_an_unfinished_run_is_a_typed_error_or_trained_over(
    server: Trials, fault_free: tuple[dict[str, Any], int], tmp_path: Path, points: Points
) -> None:
    left, out = tmp_path / "left", tmp_path / "out"
    server.start(left, "kill", fault_free[1] // 2)
    files = [path.relative_to(left) for path in (left / "tokenizer.json", *left.glob("runs/*/*.json"))]
    everywhere = {f"{file.name} {'/'.join(p)}": (file, p) for file in files for p in places(read_record(left / file))}
    for point in points(list(everywhere), 6):
        file, keys = everywhere[point]
        for value in random.Random(point).sample(VALUES, 3):
            shutil.copytree(left, out)
            write_record(out / file, with_value(read_record(out / file), keys, value))
            again = server.start(out)  # an error of any other type comes with its traceback
            assert again.message or set(again.states) <= {"done", "failed", "diverged"}, (value, again)
            _a_report_or_one_line(out)
            shutil.rmtree(out)


def _a_report_or_one_line(folder: Path) -> None:
    try:
        read_all(folder)
    except IsolossError as error:
        assert str(error) == printable(str(error))
