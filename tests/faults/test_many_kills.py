"""Many short runs, several workers, and many kills: no run is lost, none is counted twice."""

from __future__ import annotations

import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from isoloss.store.run import read_rows
from isoloss.store.tables import load_study
from isoloss.study.study import Study
from isoloss.study.studyfile import dump_study
from tests.faults.processes import workers_of

STEPS = 5
TINY = {
    "n_layer": 1,
    "n_embd": 8,
    "n_head": 2,
    "block_size": 8,
    "batch_size": 2,
    "warmup_iters": 2,
    "precision": "fp32",
}
TINY |= {"eval_train_tokens": 64, "max_iters": STEPS, "eval_interval": 3}


def start(file: Path, out: Path) -> subprocess.Popen[bytes]:
    command = [sys.executable, "-m", "isoloss", "run", str(file), "--out", str(out), "--workers", "4"]
    command += ["--device", "cpu", "--compile", "off"]
    return subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)


def done(out: Path) -> int:
    return sum(b'"done"' in path.read_bytes() for path in out.glob("runs/*/status.json"))


@pytest.mark.promise(4, "500 runs, 4 workers, 40 kills of workers and the coordinator")
def test_no_run_is_lost_and_none_counted_twice(study: Path, tmp_path: Path, few: int | None) -> None:
    runs, kills = (500, 40) if few is None else (16, 2)
    text = str(study.with_name("words.txt"))
    many = Study("many", text, base=TINY, factors={"weight_decay": (0.0, 0.1)}, seeds=tuple(range(runs // 2)))
    file, out, generator = tmp_path / "many.yaml", tmp_path / "out", random.Random(0)
    file.write_text(dump_study(many))
    killed, process = 0, start(file, out)
    while process.poll() is None or done(out) < runs:
        if process.poll() is not None:
            process = start(file, out)
        # The next kill comes once some more runs are done, so that kills go on as long as the study.
        if killed < kills and done(out) >= killed * runs // (kills + 1):
            time.sleep(generator.uniform(0.0, 1.0))
            victims = workers_of(process.pid) if generator.random() < 0.6 else [process.pid]
            for victim in victims[:1]:
                os.kill(victim, signal.SIGKILL)
                killed += 1
        time.sleep(0.02)
    assert killed == kills
    results = load_study(out)
    table = results.summary()
    assert table["status"].to_list() == ["done"] * runs and table["run_id"].n_unique() == runs
    assert {path.name for path in (out / "runs").iterdir()} == set(table["run_id"])
    for run in table["run_id"]:
        paths = results.paths.run(run)
        assert [row["step"] for row in read_rows(paths.metrics)] == list(range(STEPS)), run
        assert [row["step"] for row in read_rows(paths.evals)] == [0, 3, STEPS], run
