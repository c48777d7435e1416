"""The peer under the clock: nanoGPT's own train.py, or without a checkout the plain reference model of the tests."""

from __future__ import annotations

import os
import re
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from isoloss.errors import ConfigError
from isoloss.study.config import RunConfig

EVAL_ITERS = 200
"""nanoGPT's default: batches of each split in one evaluation."""

TIMED_EVAL_ITERS = 40
SETTLING_STEPS = 10
STEP = re.compile(r"iter (\d+): loss ([\d.naninf]+), time ([\d.]+)ms")


@dataclass(frozen=True)
class PeerTimes:
    """Seconds the peer takes a step, an evaluation at its default 200 batches, and to start (compiling included)."""

    step_s: float
    evaluation_s: float
    startup_s: float


@dataclass(frozen=True)
class Peer:
    """How to start the peer: in which mode, and how many processes at once.

    Several processes have one thread each, and their times are divided by their number: what somebody gets who
    starts a grid by hand with a run a core.
    """

    checkout: Path | None
    compiled: bool
    device: str
    processes: int = 1

    @property
    def name(self) -> str:
        """What the tables call it."""
        if self.checkout is None:
            return "plain reference GPT (fp32, eager, no dropout)"
        mode = "nanoGPT, compiled" if self.compiled else "nanoGPT, eager"
        return mode if self.processes == 1 else f"{mode}, {self.processes} processes"

    def time(self, config: RunConfig, steps: int) -> PeerTimes:
        """Start the peer on a run's settings for a few steps. Raises ConfigError when it fails.

        It evaluates at the first step, half-way and at the end; the one half-way is timed, for by then all is warm.
        """
        settings = {"max_iters": steps, "eval_iters": TIMED_EVAL_ITERS, "eval_interval": steps // 2, "log_interval": 1}
        with tempfile.TemporaryDirectory() as folder:
            started = time.perf_counter()
            running = [self.start(config, settings, Path(folder) / str(i)) for i in range(self.processes)]
            outputs = [self._finish(process) for process in running]
            wall = time.perf_counter() - started
        times = [{step: seconds for step, _, seconds in self.steps(output)} for output in outputs]
        settled = [i for i in range(SETTLING_STEPS, steps) if i % (steps // 2)]
        step_s = statistics.median(one[i] for one in times for i in settled)
        timed_s = max(0.0, statistics.median(one[steps // 2] for one in times) - step_s)
        startup_s = max(0.0, wall - (steps + 1) * step_s - 3 * timed_s)
        scaled_s = timed_s * EVAL_ITERS / TIMED_EVAL_ITERS
        return PeerTimes(*(seconds / self.processes for seconds in (step_s, scaled_s, startup_s)))

    def train(self, config: RunConfig, folder: Path) -> None:
        """A whole run with its evaluations, at the peer's defaults."""
        settings = {"max_iters": config.max_iters, "eval_iters": EVAL_ITERS, "eval_interval": config.eval_interval}
        self._finish(self.start(config, settings, folder))

    def start(self, config: RunConfig, settings: Mapping[str, int | str], folder: Path) -> subprocess.Popen[str]:
        """Start it on a run's settings and others of its own; its checkpoint goes to the folder."""
        names = ("n_layer", "n_head", "n_embd", "block_size", "batch_size", "dropout", "learning_rate", "min_lr")
        names += ("warmup_iters", "beta2", "weight_decay", "grad_clip")
        options = {name: getattr(config, name) for name in names} | dict(settings)
        options |= {"lr_decay_iters": config.decay_horizon, "gradient_accumulation_steps": 1, "out_dir": str(folder)}
        if self.checkout is None:
            command, where = [sys.executable, "-m", "benchmarks.reference_peer"], Path(__file__).parents[1]
        else:
            command, where = [sys.executable, "train.py"], self.checkout
            options |= {"dataset": "shakespeare_char", "device": self.device, "compile": self.compiled}
        command += [f"--{name}={value}" for name, value in options.items()]
        threads = {"OMP_NUM_THREADS": "1"} if self.processes > 1 else {}
        environment, pipe = {**os.environ, **threads}, subprocess.PIPE
        return subprocess.Popen(command, cwd=where, text=True, env=environment, stdout=pipe, stderr=pipe)

    def steps(self, output: str) -> list[tuple[int, float, float]]:
        """Step, loss and seconds of each line that it printed of a step."""
        return [(int(step), float(loss), float(ms) / 1e3) for step, loss, ms in STEP.findall(output)]

    def _finish(self, process: subprocess.Popen[str]) -> str:
        output, complaints = process.communicate()
        if process.returncode:
            reason = (complaints.strip().splitlines() or ["no message"])[-1]
            raise ConfigError(f"{self.name} failed: {reason}")
        return output


def peers(checkout: Path | None, device: str, cores: int) -> list[Peer]:
    """Every mode of the peer, its own two first. Raises ConfigError when the checkout is none."""
    if checkout is None and device != "cpu":
        raise ConfigError(f"--device {device}: the plain reference model trains on a CPU; name a --nanogpt checkout")
    if checkout is None:
        return [Peer(None, False, device)]
    if not (checkout / "train.py").exists() or not (checkout / "data/shakespeare_char/train.bin").exists():
        raise ConfigError(f"{checkout}: no nanoGPT checkout with data/shakespeare_char prepared (train.py, train.bin)")
    modes = [Peer(checkout, False, device), Peer(checkout, True, device)]
    return modes + ([Peer(checkout, False, device, cores)] if device == "cpu" and cores > 1 else [])
