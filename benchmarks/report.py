"""Reading a large study: how long `status` and `report` take for thousands of runs that are done, on one core.

And how long a browser takes to draw the page and to show a selection.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any
from unittest import mock

import numpy as np
import torch
from tests.chromium import start_chromium
from tests.fake_studies import write_rows, write_tokenizer

from benchmarks.timing import machine, samples
from isoloss.files import write_checksummed, write_record
from isoloss.store.layout import StudyPaths
from isoloss.store.outcome import keep_outcome
from isoloss.store.run import RunStatus, create_run, write_status
from isoloss.study.compute import evaluation_steps
from isoloss.study.config import RunConfig
from isoloss.study.identity import run_id
from isoloss.study.study import Study
from isoloss.study.studyfile import dump_study
from isoloss.study.texts import DataFacts

SEEDS, STEPS, EVALUATIONS = 5, 150, 30
SELECT = """
  const [row, done] = [arguments[0], arguments[1]];
  const began = performance.now();
  row.click();
  requestAnimationFrame(() => setTimeout(() => done(performance.now() - began)));
"""
"""Milliseconds from a click on a row to the picture after it."""
FACTS = DataFacts(sha256="ab" * 32, vocab_size=65, val_tokens=111_540)


def run(runs: int = 10_000, rounds: int = 3, out: Path = Path("results/benchmarks/report.json")) -> None:
    """Measure how long a large study takes to read and to report.

    The study is made up once and kept in the temporary folder: 4 factors, 5 seeds, 150 steps and 31 evaluations a run.

    Args:
        runs: How many runs are done, a multiple of 500.
        rounds: How often each command is timed.
        out: Where the JSON goes.
    """
    folder = made_study(runs)
    commands = {name: [sys.executable, "-m", "isoloss", name, str(folder)] for name in ("status", "report")}
    times = {name: [_wall_s(command) for _ in range(rounds)] for name, command in commands.items()}
    result = {
        "machine": machine(torch.device("cpu")),
        "runs": runs,
        **{f"{name}_s": samples(measured).as_dict() for name, measured in times.items()},
        "page_bytes": StudyPaths(folder).report.stat().st_size,
        **_in_a_browser(StudyPaths(folder).report, rounds),
    }
    print(json.dumps(result, indent=2))
    out.parent.mkdir(parents=True, exist_ok=True)
    out.write_text(json.dumps(result, indent=2))


def _wall_s(command: list[str]) -> float:
    """Seconds a command takes on one core, with compiled modules kept as they are for a user."""
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONDONTWRITEBYTECODE"}
    one_core = ["taskset", "--cpu-list", str(min(os.sched_getaffinity(0)))]
    started = time.perf_counter()
    subprocess.run([*one_core, *command], check=True, capture_output=True, env=environment)
    return time.perf_counter() - started


def _in_a_browser(page: Path, rounds: int) -> dict[str, Any]:
    """Milliseconds until a page is drawn, and from a click on a configuration or a run to the picture after it.

    Single runs are drawn, so that each is a curve of its own. Empty where Chromium is not installed.
    """
    chromium = start_chromium()
    if chromium is None:
        return {}
    drawn, picked = list[float](), list[float]()
    try:
        for _ in range(rounds):
            chromium.get(page.as_uri())
            while not chromium.execute_script("return document.documentElement.dataset.ready"):
                time.sleep(0.1)
            drawn.append(float(chromium.execute_script("return document.documentElement.dataset.drawn")))
            chromium.execute_script("document.querySelector('input[name=single]').click()")
            for row in chromium.find_elements("css selector", "#configurations tbody tr, #runs tbody tr"):
                picked.append(chromium.execute_async_script(SELECT, row))
        curves = chromium.execute_script("return isoloss.lines().length")
    finally:
        chromium.quit()
    return {"curves": curves, "drawn_ms": samples(drawn).as_dict(), "selected_ms": samples(picked).as_dict()}


def made_study(runs: int) -> Path:
    """The folder of a study of so many runs, made up where it is not there yet."""
    folder = Path(tempfile.gettempdir()) / f"isoloss-benchmark-report-{runs}"
    if not (folder / "study.yaml").exists():
        paths, study = StudyPaths(folder), _study(runs)
        with mock.patch("os.fsync"):  # a benchmark's input may be lost
            start = {"started_at": "2026-01-01T00:00:00+00:00", "versions": {"isoloss": "0"}, "machine": {}}
            write_record(paths.provenance, start)
            write_tokenizer(paths, study, FACTS)
            for config in study.expand(FACTS):
                _made_run(paths, config)
            write_checksummed(paths.study, dump_study(study))
    return folder


def _study(runs: int) -> Study:
    cells = runs // SEEDS
    return Study(
        name="large",
        corpus="tinyshakespeare",
        description="Does width or dropout matter more, and at which learning rate?",
        base={"max_iters": STEPS, "eval_interval": STEPS // EVALUATIONS, "warmup_iters": 10},
        factors={
            "learning_rate": tuple(float(f"{rate:.3g}") for rate in np.geomspace(1e-4, 1e-2, cells // 100)),
            "n_embd": (64, 96, 128, 192, 256),
            "n_layer": (2, 4, 6, 8),
            "dropout": (0.0, 0.05, 0.1, 0.15, 0.2),
        },
        seeds=tuple(range(1337, 1337 + SEEDS)),
    )


def _made_run(paths: StudyPaths, config: RunConfig) -> None:
    """A run's files as it leaves them, but for its weights, which no reader opens."""
    run, generator = paths.run(run_id(config)), np.random.default_rng(int(run_id(config), 16))
    create_run(run, config)
    off = np.log10(config.learning_rate / 1e-3) ** 2 / 4 - config.n_embd / 1000 - config.n_layer / 50
    loss = 2.0 + off + 2.2 * (1 + np.arange(STEPS + 1) / 20) ** -0.5 + generator.normal(0, 0.02, STEPS + 1)
    seconds = 0.02 * np.exp(generator.normal(0, 0.05, STEPS))
    metrics = [_step(step, float(loss[step]), config.learning_rate, float(seconds[step])) for step in range(STEPS)]
    evals = [_evaluation(step, float(loss[step]), config.dropout) for step in evaluation_steps(config)]
    written = {"metrics": write_rows(run.metrics, metrics), "evals": write_rows(run.evals, evals)}
    times = {"train": float(seconds.sum()), "eval": 1.5, "checkpoint": 0.2}
    peak = {"flops": 2e11, "source": "measured GEMM"}
    provenance = {"device": "cpu", "device_name": "a processor", "peak": peak}
    write_status(run, RunStatus("done", "", times, provenance, written, keep_outcome(run, written)))
    for name in (".lock", "last.safetensors", "last.json"):
        (run.folder / name).touch()
    for name in ("safetensors", "json"):
        os.link(run.folder / f"last.{name}", run.folder / f"best.{name}")


def _step(step: int, loss: float, rate: float, seconds: float) -> dict[str, Any]:
    speeds = {"tokens_per_s": 768 / seconds, "mfu": 0.005 / seconds, "mfu_a100": 2e-5 / seconds}
    return {"step": step, "loss": loss, "lr": rate, "grad_norm": loss / 3, "step_time_s": seconds, **speeds}


def _evaluation(step: int, loss: float, dropout: float) -> dict[str, Any]:
    return {"step": step, "train_loss": loss - 0.05 + dropout / 4, "val_loss": loss + dropout / 3, "eval_time_s": 0.05}
