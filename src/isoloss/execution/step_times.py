"""Seconds an optimizer step takes here: measured for estimates, and for horizons of budgets that are seconds."""

from __future__ import annotations

import json
import statistics
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path

import numpy as np
import torch

from isoloss.data.token_files import Tokens
from isoloss.data.tokenizer import Tokenizer, token_dtype
from isoloss.errors import ConfigError, IsolossError
from isoloss.files import path_exists, write_record
from isoloss.spawning import in_another_process
from isoloss.store.layout import StudyPaths
from isoloss.store.records import STEP_TIMES, read_checked
from isoloss.study.config import RunConfig
from isoloss.study.study_faults import too_large
from isoloss.training.backend import kernels_for
from isoloss.training.device import is_out_of_memory
from isoloss.training.distributed import Ranks
from isoloss.training.evaluate import DeviceTokens
from isoloss.training.loop import EvalRow, StepRow, train
from isoloss.training.saving import Save, Saved
from isoloss.training.state import COMPUTE_DTYPES, MemberState, StackState, initial_state, stack
from isoloss.training.step import WARM_UP_STEPS, Stepper
from isoloss.wording import listed

TIMED_STEPS = 5
TIMED_REPLAYS = 20
"""Steps of each of TIMED_STEPS blocks on CUDA, where a look at the losses takes longer than a small step."""
COSTLY_FIELDS = (
    "vocab_size", "n_layer", "n_head", "n_embd", "block_size", "bias", "norm", "position", "mlp", "n_kv_head",
    "qk_norm", "tie_embeddings", "window", "batch_size", "gradient_accumulation_steps", "precision", "optimizer",
)  # fmt: skip
"""Settings on which a step's time depends; of dropout and an average, whether there is any."""


@dataclass
class StepTimes:
    """Seconds a step of a run takes here, measured once for runs that cost the same.

    On a CPU on one thread; on CUDA its share of a step of as many runs as `width` says.
    """

    device: torch.device
    compiled: bool
    width: Callable[[RunConfig], int] = lambda config: 1
    measured: dict[str, float] = field(default_factory=dict[str, float])

    def __call__(self, config: RunConfig) -> float:
        """The seconds of a run. Raises ConfigError where an accelerator has too little memory for it."""
        average = {"ema": True} if config.ema else {}  # keys without one stand in files of older studies
        costly = {name: getattr(config, name) for name in COSTLY_FIELDS}
        key = json.dumps({**costly, "dropout": config.dropout > 0, **average})
        if key not in self.measured:
            threads = torch.get_num_threads()
            torch.set_num_threads(1)
            try:
                width = self.width(config)
                apart = self.device.type == "cuda" and not torch.cuda.is_initialized()  # workers will need its memory
                measure = partial(in_another_process, step_time_s) if apart else step_time_s
                self.measured[key] = measure(config, self.device, compiled=self.compiled, width=width)
            except Exception as error:
                own = [value for value in (config.norm, config.mlp, config.optimizer) if "@" in value]
                if not own or isinstance(error, IsolossError):
                    raise
                why = str(error).partition("\n")[0]
                raise ConfigError(f"a step with {listed(own)} fails: {type(error).__name__}: {why}") from error
            finally:
                torch.set_num_threads(threads)
        return self.measured[key]

    def recall(self, paths: StudyPaths) -> None:
        """Take what was measured when a study began, so that its horizons stay. Raises StoreError where damaged."""
        if path_exists(paths.step_times):
            self.measured |= read_checked(STEP_TIMES, paths.step_times)["seconds"]

    def keep(self, paths: StudyPaths) -> None:
        """Record what was measured."""
        write_record(paths.step_times, {"seconds": self.measured})


class _Stopwatch:
    """An observer that keeps step times and nothing else.

    On a CPU they are seconds of its work from one step to the next, which other programs do not lengthen.
    """

    def __init__(self, device: torch.device) -> None:
        self.times_s: list[float] = []
        self._of_cpu, self._last_s = device.type == "cpu", 0.0

    def step(self, row: StepRow) -> None:
        now_s = time.process_time()
        self.times_s.append(now_s - self._last_s if self._of_cpu else row.step_time_s)
        self._last_s = now_s

    def evaluation(self, row: EvalRow) -> None: ...
    def saving(self, what: Saved) -> Save:
        return lambda state: None

    def end(self, progress: object, outcome: str, reason: str) -> None: ...


def step_time_s(config: RunConfig, device: torch.device, *, compiled: bool, width: int = 1) -> float:
    """Median seconds a step of a run takes here on random tokens, after some to warm up.

    On one thread of a CPU; on CUDA in a stack of `width` runs, by replays of its captured step, divided by their
    number. Raises ConfigError where an accelerator has too little memory for it.
    """
    data_N = np.random.default_rng(0).integers(0, config.vocab_size, size=8 * config.block_size)
    data_N = data_N.astype(token_dtype(config.vocab_size))
    tokens = Tokens("", Tokenizer("char", "".join(map(chr, range(config.vocab_size)))), data_N, data_N, folder=Path())
    lengths = {"max_iters": TIMED_STEPS + 1, "eval_interval": TIMED_STEPS + 1}
    short = config.model_copy(update={**lengths, "eval": "exact", "eval_stride": None})
    stopwatch = _Stopwatch(device)
    kernels = kernels_for(COMPUTE_DTYPES[config.precision], device, compiled=compiled)
    try:
        if device.type == "cuda":
            return _replay_s(stack(_replicates(config, width), device, kernels), tokens) / width
        train(stack([initial_state(short)], device, kernels), tokens, lambda config: stopwatch)
    except RuntimeError as error:
        if not is_out_of_memory(error):
            raise
        raise too_large(config, f"needs more memory than {device.type} has left") from error
    return statistics.median(stopwatch.times_s[1:])


def _replicates(config: RunConfig, n: int) -> list[MemberState]:
    """Runs that differ in their seeds alone."""
    return [
        initial_state(config.model_copy(update={"seed": i, "init_seed": None, "data_seed": None})) for i in range(n)
    ]


def _replay_s(stacked: StackState, tokens: Tokens) -> float:
    """Median seconds of a captured step of a stack, over blocks of which the losses are read once."""
    stepper = Stepper(stacked, DeviceTokens(tokens, stacked.device).train_N, Ranks())
    stepper.take(WARM_UP_STEPS + 1).read()  # with the one that is captured
    times_s: list[float] = []
    for _ in range(TIMED_STEPS):
        started = time.perf_counter()
        stepper.take(TIMED_REPLAYS).read()
        times_s.append((time.perf_counter() - started) / TIMED_REPLAYS)
    return statistics.median(times_s)
