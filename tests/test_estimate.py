"""What a plan says of time: a step's cost is measured in a CPU's own work."""

from __future__ import annotations

import time
from typing import Any

import pytest
import torch

from isoloss.execution import estimate
from isoloss.study.config import make_config

CONFIG = make_config(
    {"corpus": "", "corpus_sha256": "", "vocab_size": 65, "n_layer": 1, "n_embd": 16, "n_head": 2, "block_size": 16}
)


def test_what_other_programs_take_of_a_cpu_does_not_lengthen_a_step(monkeypatch: pytest.MonkeyPatch) -> None:
    alone = estimate.step_time_s(CONFIG, torch.device("cpu"), compiled=False)
    step = estimate._Stopwatch.step  # pyright: ignore[reportPrivateUsage]

    def waiting(self: Any, row: Any) -> None:
        step(self, row)
        time.sleep(0.05)  # as where the system gives the core to another program

    monkeypatch.setattr(estimate._Stopwatch, "step", waiting)  # pyright: ignore[reportPrivateUsage]
    assert estimate.step_time_s(CONFIG, torch.device("cpu"), compiled=False) < alone + 0.04
