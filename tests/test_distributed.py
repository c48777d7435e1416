"""One run over two ranks gives one process's losses, dropout and accumulation included."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from isoloss.store.run import read_rows
from isoloss.store.tables import StudyResults, load_study

SETTINGS = "--n_layer=2 --n_embd=16 --n_head=2 --block_size=16 --batch_size=5 --max_iters=15 --eval_interval=10"
SETTINGS += " --dropout=0.2 --gradient_accumulation_steps=2 --precision=fp32 --device=cpu"


def train(launcher: list[str], corpus: Path, out: Path) -> StudyResults:
    command = [*launcher, "-m", "isoloss", "train", *SETTINGS.split(), "--corpus", str(corpus), "--out", str(out)]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    done = subprocess.run(command, capture_output=True, text=True, env=environment, check=False, timeout=120)
    assert done.returncode == 0, done.stderr
    return load_study(out)


def losses(results: StudyResults) -> list[float]:
    paths = results.paths.run(results.summary()["run_id"][0])
    evaluations = [value for row in read_rows(paths.evals) for value in (row["train_loss"], row["val_loss"])]
    return [row["loss"] for row in read_rows(paths.metrics)] + evaluations


def test_two_ranks_train_like_one_process(text_file: Path, tmp_path: Path) -> None:
    one = train([sys.executable], text_file, tmp_path / "one")
    torchrun = [sys.executable, "-m", "torch.distributed.run", "--nproc-per-node", "2", "--standalone"]
    two = train(torchrun, text_file, tmp_path / "two")
    assert losses(two) == pytest.approx(losses(one), rel=1e-5)
    assert two.status(two.summary()["run_id"][0]).provenance["ranks"] == 2
