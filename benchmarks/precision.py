"""Is bf16 safe? Final validation losses of one small configuration in bf16 and fp32, seed by seed."""

from __future__ import annotations

import json
import statistics
import sys
from math import sqrt
from pathlib import Path

import torch
from scipy import stats

from benchmarks.timing import machine
from isoloss.execution.study import RunOptions, run_study
from isoloss.study.study import Study

BASE = {"n_embd": 128, "n_head": 4, "batch_size": 12, "max_iters": 1000, "dropout": 0.1, "eval_interval": 1000}


def run(seeds: int = 8, out: Path = Path("results/benchmarks/precision")) -> None:
    """Train the pairs and print their difference with its 95% interval (paired t).

    Args:
        seeds: Pairs to train.
        out: Where the runs and the JSON go.
    """
    finals: dict[str, list[float]] = {}
    for precision in ("bf16", "fp32"):
        study = Study("precision", "tinyshakespeare", "char", base=BASE, seeds=tuple(range(seeds)))
        results = run_study(study.with_settings({"precision": precision}), out / precision, RunOptions())
        table = results.summary().sort("seed")
        finals[precision] = table["final_val_loss"].to_list()
        print(f"{precision}: {finals[precision]}", file=sys.stderr)
    differences = [low - full for low, full in zip(finals["bf16"], finals["fp32"], strict=True)]
    mean, spread = statistics.mean(differences), statistics.stdev(differences)
    half = float(stats.t.ppf(0.975, seeds - 1)) * spread / sqrt(seeds)
    result = {"machine": machine(torch.device("cpu")), "settings": BASE, "final_val_loss": finals}
    result |= {"differences": differences, "mean": mean, "low": mean - half, "high": mean + half, "n": seeds}
    (out / "precision.json").write_text(json.dumps(result, indent=2))
    print(f"bf16 − fp32: {mean:+.5f} nats a token, 95% interval {mean - half:+.5f} to {mean + half:+.5f}, n = {seeds}")
