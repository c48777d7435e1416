"""What isoloss adds to training: a study of many tiny runs, its overhead a run, `status`, the coordinator's memory."""

from __future__ import annotations

import json
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import torch

from benchmarks.timing import machine, samples
from isoloss.store.tables import load_study
from isoloss.training.device import available_cores

STUDY = """
name: scale
corpus: tinyshakespeare
base: {{n_embd: 16, n_layer: 1, n_head: 1, block_size: 16, batch_size: 4, max_iters: 20, warmup_iters: 5,
        eval_interval: 20, eval_train_tokens: 256}}
factors: {{learning_rate: [{rates}]}}
seeds: [{seeds}]
"""


def run(runs: int = 1000, out: Path = Path("results/benchmarks/scale.json")) -> None:
    """Measure the whole study's overhead over the sum of training.

    Args:
        runs: How many tiny runs: n_embd 16, n_layer 1, 20 steps.
        out: Where the JSON goes.
    """
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        rates, seeds = ", ".join(f"{i}e-3" for i in range(1, 11)), ", ".join(map(str, range(runs // 10)))
        (folder / "scale.yaml").write_text(STUDY.format(rates=rates, seeds=seeds))
        wall_s, memory = _watched_run(folder)
        started = time.perf_counter()
        subprocess.run(
            [sys.executable, "-m", "isoloss", "status", "study"], cwd=folder, check=True, capture_output=True
        )
        status_s = time.perf_counter() - started
        results = load_study(folder / "study")
        times = [json.loads(path.read_text())["times_s"] for path in results.paths.folder.glob("runs/*/status.json")]
    training_s = sum(t["train"] + t["eval"] for t in times)
    workers = available_cores()
    result = {
        "machine": machine(torch.device("cpu")),
        "runs": len(times),
        "wall_s": wall_s,
        "training_and_evaluation_s": training_s,
        "overhead_s_a_run": (wall_s - training_s / workers) / len(times),
        "overhead_core_s_a_run": (wall_s * workers - training_s) / len(times),
        "status_s": status_s,
        "coordinator_mb": samples(memory).as_dict() | {"first_quarter": samples(memory[: len(memory) // 4]).median},
    }
    print(json.dumps(result, indent=2))
    out.parent.mkdir(parents=True, exist_ok=True)
    out.write_text(json.dumps(result, indent=2))


def _watched_run(folder: Path) -> tuple[float, list[float]]:
    """Run the study in a folder: wall time, and the coordinator's resident megabytes once a second while it trains."""
    command = [sys.executable, "-m", "isoloss", "run", "scale.yaml", "--out", "study"]
    started, memory = time.perf_counter(), list[float]()
    with (folder / "log").open("w") as log, subprocess.Popen(command, cwd=folder, stdout=log, stderr=log) as process:
        while process.poll() is None:
            time.sleep(1)
            if (folder / "study/study.yaml").exists():
                memory.append(_resident_mb(process.pid))
    if process.returncode:
        sys.exit((folder / "log").read_text())
    return time.perf_counter() - started, [value for value in memory if value]


def _resident_mb(pid: int) -> float:
    try:
        fields = Path(f"/proc/{pid}/status").read_text()
    except OSError:
        return 0.0
    line = next((line for line in fields.splitlines() if line.startswith("VmRSS:")), "VmRSS: 0 kB")
    return int(line.split()[1]) / 1024
