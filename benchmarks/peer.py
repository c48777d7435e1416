"""The peer under the clock: nanoGPT's own train.py, or without a checkout the plain reference model of the tests."""

from __future__ import annotations

import os
import re
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from isoloss.errors import ConfigError
from isoloss.spec.config import RunConfig

EVAL_ITERS = 200
"""nanoGPT's default: batches of each split in one evaluation."""

TIMED_EVAL_ITERS = 20
SETTLING_STEPS = 10
STEP = re.compile(r"iter (\d+): loss [\d.naninf]+, time ([\d.]+)ms")


@dataclass(frozen=True)
class PeerTimes:
    """Seconds the peer takes a step, an evaluation at its default 200 batches, and to start."""

    step_s: float
    evaluation_s: float
    startup_s: float


@dataclass(frozen=True)
class Peer:
    """How to start the peer, in which mode."""

    checkout: Path | None
    compiled: bool
    device: str

    @property
    def name(self) -> str:
        """What the tables call it."""
        if self.checkout is None:
            return "plain reference GPT (fp32, eager)"
        return "nanoGPT, compiled" if self.compiled else "nanoGPT, eager"

    def time(self, config: RunConfig, steps: int) -> PeerTimes:
        """Start the peer on a run's settings for a few steps. Raises ConfigError when it fails."""
        with tempfile.TemporaryDirectory() as folder:
            settings = {"max_iters": steps, "eval_iters": TIMED_EVAL_ITERS, "eval_interval": 10**9, "log_interval": 1}
            started = time.perf_counter()
            lines = self._start(config, settings, Path(folder))
            wall = time.perf_counter() - started
        times = {int(found[1]): float(found[2]) / 1e3 for line in lines if (found := STEP.match(line))}
        step_s = statistics.median(times[i] for i in range(SETTLING_STEPS, steps))
        evaluation_s = max(0.0, times[0] - times[1]) if not self.compiled else 0.0  # the first step compiles
        startup_s = wall - sum(times.values()) + (times[0] - evaluation_s - step_s)
        return PeerTimes(step_s, evaluation_s * EVAL_ITERS / TIMED_EVAL_ITERS, startup_s)

    def train(self, config: RunConfig, folder: Path) -> None:
        """A whole run with its evaluations, at the peer's defaults."""
        settings = {"max_iters": config.max_iters, "eval_iters": EVAL_ITERS, "eval_interval": config.eval_interval}
        self._start(config, settings, folder)

    def _start(self, config: RunConfig, settings: dict[str, int], folder: Path) -> Sequence[str]:
        names = ("n_layer", "n_head", "n_embd", "block_size", "batch_size", "dropout", "learning_rate", "min_lr")
        names += ("warmup_iters", "beta2", "weight_decay", "grad_clip")
        options = {name: getattr(config, name) for name in names} | settings
        options |= {"lr_decay_iters": config.decay_horizon, "gradient_accumulation_steps": 1, "out_dir": str(folder)}
        if self.checkout is None:
            command, where = [sys.executable, "-m", "benchmarks.reference_peer"], Path(__file__).parents[1]
        else:
            command, where = [sys.executable, "train.py"], self.checkout
            options |= {"dataset": "shakespeare_char", "device": self.device, "compile": self.compiled}
        command += [f"--{name}={value}" for name, value in options.items()]
        done = subprocess.run(command, cwd=where, capture_output=True, text=True, env=dict(os.environ), check=False)
        if done.returncode:
            reason = (done.stderr.strip().splitlines() or ["no message"])[-1]
            raise ConfigError(f"{self.name} failed: {reason}; it needs its data/shakespeare_char prepared")
        return done.stdout.splitlines()


def peers(checkout: Path | None, device: str) -> list[Peer]:
    """Every mode of the peer. Raises ConfigError when the checkout is none."""
    if checkout is None:
        return [Peer(None, False, device)]
    if not (checkout / "train.py").exists() or not (checkout / "data/shakespeare_char/train.bin").exists():
        raise ConfigError(f"{checkout}: no nanoGPT checkout with data/shakespeare_char prepared (train.py, train.bin)")
    return [Peer(checkout, False, device), Peer(checkout, True, device)]
