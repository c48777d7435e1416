"""The verbs effects, fit and convergence, as a user calls them on a study or on a table of their own."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import polars as pl
import pytest

from isoloss.cli import run_command_line
from isoloss.execution.executor import Inline
from isoloss.execution.study import RunOptions, run_study
from isoloss.store.run import RunStatus, write_status
from isoloss.study.study import Study

Captured = pytest.CaptureFixture[str]


@pytest.fixture(scope="module")
def study(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("analyses")
    text = folder / "text.txt"
    text.write_text("the quick brown fox jumps over the lazy dog. " * 200, encoding="utf-8")
    base = {"n_layer": 1, "n_head": 2, "block_size": 16, "batch_size": 4, "max_iters": 30, "eval_interval": 5}
    factors = {"n_embd": (8, 16), "dropout": (0.0, 0.2)}
    tiny = Study("tiny", str(text), base={**base, "warmup_iters": 2}, factors=factors, seeds=(1, 2))
    results = run_study(tiny, folder / "out", RunOptions(device="cpu", precision="fp32"), executor=Inline())
    write_status(results.paths.run(results.summary()["run_id"][0]), RunStatus("failed", "for the test"))
    return folder / "out"


def said(arguments: list[str], capsys: Captured, code: int = 0) -> str:
    assert run_command_line(arguments) == code
    captured = capsys.readouterr()
    return captured.err if code else captured.out


def test_effects_of_a_study_count_done_runs_alone(study: Path, capsys: Captured) -> None:
    arguments = ["effects", str(study), "--response", "best_val_loss", "--factors", "n_embd,dropout", "--block", "seed"]
    assert run_command_line([*arguments, "--json"]) == 0
    captured = capsys.readouterr()
    found = json.loads(captured.out)
    assert found["n"] == 7 and "1 of 8 runs are not done" in captured.err
    assert [pair["factor"] for pair in found["pairs"]] == ["n_embd", "dropout"]
    assert found["pairs"][0]["difference"]["n"] == 2 and found["effects"][0]["error"]["source"] == "seed × n_embd"
    text = " ".join(said(arguments, capsys).split())
    assert "7 runs in 4 combinations of levels, seed taken out" in text and "differ between 2 levels of seed" in text
    assert "p, sign flips" in text and "Pairs of runs that share all else" in text


def test_steps_to_a_target_are_a_response(study: Path, capsys: Captured, tmp_path: Path) -> None:
    arguments = ["--response", "steps_to_target", "--factors", "n_embd", "--target", "99", "--json"]
    found = json.loads(said(["effects", str(study), *arguments], capsys))
    assert found["n"] == 7 and found["effects"][0]["estimate"]["value"] == 0  # all reach it at step 0
    table = tmp_path / "runs.csv"
    table.write_text("n_embd,steps_to_target\n1,2\n")
    assert "needs a study directory" in said(["effects", str(table), *arguments], capsys, 2)


def test_what_an_answer_leaves_out_is_said(study: Path, capsys: Captured) -> None:
    arguments = ["effects", str(study), "--response", "steps_to_target", "--factors", "n_embd", "--target"]
    losses = sorted(run["best_loss"] for run in json.loads(said(["convergence", str(study), "--json"], capsys))["runs"])
    assert run_command_line([*arguments, str(losses[3])]) == 0
    told = capsys.readouterr().err
    assert "dropout varies too and is not among --factors" in told and "3 of 7 runs never reached" in told
    assert "no column 'flops'" in said(["fit", str(study), "--form", "LN", "--compute", "flops"], capsys, 2)


def test_convergence_of_a_study_knows_what_a_step_costs(study: Path, capsys: Captured) -> None:
    found = json.loads(said(["convergence", str(study), "--target", "3.4", "--json"], capsys))
    assert len(found["runs"]) == 7
    reached = [run["to_target"] for run in found["runs"] if run["to_target"]["reached"]]
    assert reached and all(target["tokens"] == target["step"] * 64 for target in reached)
    assert found["gap"]["n"] == 7
    assert "improving" in said(["convergence", str(study)], capsys)


def test_convergence_of_a_study_tests_the_mean_over_its_seeds(study: Path, capsys: Captured) -> None:
    found = json.loads(said(["convergence", str(study), "--target", "3.4", "--json"], capsys))
    assert [entry["n"] for entry in found["crossing"]] in ([1, 2, 2, 2], [2, 2, 2, 1], [2, 1, 2, 2], [2, 2, 1, 2])
    assert {"n_embd", "dropout"} <= set(found["crossing"][0]["group"].replace("·", " ").split())
    assert all(run["rate_falling"] is True for run in found["runs"])
    by_width = ["convergence", str(study), "--target", "3.4", "--group", "n_embd", "--p", "0.05"]
    assert {entry["group"]: entry["n"] for entry in json.loads(said([*by_width, "--json"], capsys))["crossing"]} in (
        {8: 3, 16: 4},
        {8: 4, 16: 3},
    )
    assert "learning rate was still falling at the end of 7 of 7 runs" in said(by_width, capsys)
    assert "no setting 'width'" in said([*by_width[:-4], "--group", "width"], capsys, 2)
    assert "needs a target" in said(["convergence", str(study), "--group", "n_embd"], capsys, 2)


def test_a_study_of_two_sizes_gives_no_law(study: Path, capsys: Captured) -> None:
    assert "do not determine the law" in said(["fit", str(study), "--form", "LN"], capsys)


def test_anyones_parquet_is_read(tmp_path: Path, capsys: Captured) -> None:
    steps = np.tile(np.geomspace(1, 1000, 30), 2)
    table = pl.DataFrame({"who": ["a"] * 30 + ["b"] * 30, "t": steps, "l": 2 + steps**-0.5})
    table.write_parquet(tmp_path / "curves.parquet")
    columns = ["--run", "who", "--step", "t", "--loss", "l", "--json"]
    found = json.loads(said(["convergence", str(tmp_path / "curves.parquet"), *columns], capsys))
    assert [run["run"] for run in found["runs"]] == ["a", "b"]


def test_a_reader_that_stops_is_no_error(study: Path) -> None:
    command = f"{sys.executable} -m isoloss convergence {study} --json | head -c 10"
    ended = subprocess.run(["bash", "-o", "pipefail", "-c", command], capture_output=True, text=True, check=False)
    assert ended.returncode == 0 and "Error" not in ended.stderr


@pytest.mark.parametrize(
    ("name", "content", "complaint"),
    [
        ("nothing.csv", None, "no such file"),
        ("empty.csv", "", "cannot be read as a table"),
        ("broken.parquet", "no parquet", "cannot be read as a table"),
        ("runs.csv", "width,loss\n1,2.0\n2,1.9\n", "did you mean 'loss'"),
        ("folder", "", "is a folder without study.yaml"),
    ],
)
def test_what_is_no_table_gets_one_line(
    name: str, content: str | None, complaint: str, tmp_path: Path, capsys: Captured
) -> None:
    path = tmp_path / name
    if name == "folder":
        path.mkdir()
    elif content is not None:
        path.write_text(content)
    message = said(["effects", str(path), "--response", "losss", "--factors", "width"], capsys, 2)
    assert complaint in message and message.count("\n") == 1


def test_effects_of_a_table_as_text_load_neither_a_drawing_library_nor_the_store(tmp_path: Path) -> None:
    rows = [f"{lr},{seed},{2 + (lr - 3) ** 2 / 10 + seed * lr % 5 / 97}" for lr in range(1, 7) for seed in range(3)]
    table = tmp_path / "runs.csv"
    table.write_text("\n".join(["lr,seed,loss", *rows]))
    heavy = ["altair", "isoloss.store.tables", "isoloss.study.study", "jinja2"]
    program = f"""
import os, sys
from isoloss.cli import run_command_line
assert "numpy" not in sys.modules  # its threads are set when it is loaded
run_command_line(["effects", {str(table)!r}, "--response", "loss", "--factors", "lr", "--block", "seed"])
print([name for name in {heavy} if name in sys.modules], os.environ["OPENBLAS_NUM_THREADS"])
"""
    environment = {name: value for name, value in os.environ.items() if name != "OPENBLAS_NUM_THREADS"}
    ended = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, env=environment, check=True)
    assert "lr matters most" in ended.stdout and ended.stdout.splitlines()[-1] == "[] 1"
