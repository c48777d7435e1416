"""How long a study will take here, from a few measured steps of each of its shapes."""

from __future__ import annotations

import statistics
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

from isoloss.data.tokenizer import Tokenizer
from isoloss.data.tokens import Tokens, check_length, corpus_facts
from isoloss.execution.disk_cap import all_kept_bytes, check_cap
from isoloss.execution.study import (
    RunOptions,
    available_cores,
    resolve_study,
    runs_at_once,
    uses_compiled_kernels,
)
from isoloss.study.compute import checkpoint_bytes, evaluations, tokens_per_step
from isoloss.study.config import RunConfig, shape_key
from isoloss.study.identity import run_id
from isoloss.study.study import DataFacts, Study, too_large
from isoloss.training.backend import kernels_for
from isoloss.training.loop import EvalRow, StepRow, train
from isoloss.training.state import COMPUTE_DTYPES, MemberState, initial_state, stack

TIMED_STEPS = 3
FORWARD_SHARE = 1 / 3
"""Of a training step's arithmetic, what a forward pass alone takes."""
SAVED_BYTES_PER_S, SAVE_S = 4e8, 0.01
"""What saving a checkpoint takes: digest, write and sync, and besides a time for each."""
START_S = 4.0
"""From the command to the first step: libraries are loaded in every worker, at the same time."""


class _Stopwatch:
    """An observer that keeps step times and nothing else."""

    def __init__(self) -> None:
        self.times_s: list[float] = []

    def step(self, row: StepRow) -> None:
        self.times_s.append(row.step_time_s)

    def evaluation(self, row: EvalRow) -> None: ...
    def checkpoint(self, state: MemberState) -> None: ...
    def end(self, progress: object, outcome: str, reason: str) -> None: ...


def step_time_s(config: RunConfig, device: torch.device, *, compiled: bool) -> float:
    """Median seconds a step of a run takes on this machine, on random tokens, after one step to warm up.

    Raises ConfigError where an accelerator has too little memory for it.
    """
    data_N = np.random.default_rng(0).integers(0, config.vocab_size, size=8 * config.block_size).astype(np.uint16)
    tokens = Tokens("", Tokenizer("byte"), data_N, data_N, folder=Path())
    short = config.model_copy(update={"max_iters": TIMED_STEPS + 1, "eval_interval": TIMED_STEPS + 1, "eval": "exact"})
    stopwatch = _Stopwatch()
    kernels = kernels_for(COMPUTE_DTYPES[config.precision], device, compiled=compiled)
    try:
        train(stack([initial_state(short)], device, kernels), tokens, lambda config: stopwatch)
    except torch.OutOfMemoryError as error:
        raise too_large(config, f"needs more memory than {device.type} has left") from error
    return statistics.median(stopwatch.times_s[1:])


@dataclass(frozen=True)
class Eta:
    """Seconds that a study takes here, by what they are spent on, with all workers busy."""

    train_s: float
    eval_s: float
    checkpoint_s: float
    start_s: float

    @property
    def total_s(self) -> float:
        """All of it."""
        return self.train_s + self.eval_s + self.checkpoint_s + self.start_s


@dataclass(frozen=True)
class Plan:
    """What a study would cost on this machine. `step_times_s` is by run id, at one thread a worker on a CPU."""

    study: Study
    configs: list[RunConfig]
    precision: str
    device: str
    workers: int
    step_times_s: dict[str, float]
    data: DataFacts
    eta: Eta
    disk_bytes: int


def plan_study(study: Study, options: RunOptions) -> Plan:
    """Expand a study and time a few steps of each of its shapes; writes nothing but compiled kernels into the cache.

    Raises ConfigError or CorpusError as running it would.
    """
    study, device = resolve_study(study, options)
    data = corpus_facts(study.corpus, study.tokenizer)
    study = study.resolved(data)
    configs = study.expand(data)
    for config in configs:
        check_length(config, data.train_tokens or 0, data.val_tokens or 0)
    check_cap(study, configs, configs, runs_at_once(options, configs, device))
    workers = min(options.workers or (available_cores() if device.type == "cpu" else 1), len(configs))
    times_s = _step_times(configs, device, compiled=uses_compiled_kernels(options, configs, device))
    training = sum(times_s[run_id(config)] * config.max_iters for config in configs)
    evaluated = (_evaluated_tokens(config, data) / tokens_per_step(config) for config in configs)
    evaluation = sum(
        FORWARD_SHARE * times_s[run_id(config)] * steps for config, steps in zip(configs, evaluated, strict=True)
    )
    saved = sum(evaluations(config) * (checkpoint_bytes(config) / SAVED_BYTES_PER_S + SAVE_S) for config in configs)
    eta = Eta(training / workers, evaluation / workers, saved / workers, START_S)
    return Plan(
        study=study,
        configs=configs,
        precision=", ".join(sorted({config.precision for config in configs})),
        device=device.type,
        workers=workers,
        step_times_s=times_s,
        data=data,
        eta=eta,
        disk_bytes=all_kept_bytes(configs),
    )


def _step_times(configs: Sequence[RunConfig], device: torch.device, *, compiled: bool) -> dict[str, float]:
    """Seconds a step of each run, measured once for runs that cost the same."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    measured: dict[tuple[Any, ...], float] = {}
    try:
        for config in configs:
            if _cost_key(config) not in measured:
                measured[_cost_key(config)] = step_time_s(config, device, compiled=compiled)
    finally:
        torch.set_num_threads(threads)
    return {run_id(config): measured[_cost_key(config)] for config in configs}


def _cost_key(config: RunConfig) -> tuple[Any, ...]:
    return shape_key(config), config.n_head, config.dropout > 0


def _evaluated_tokens(config: RunConfig, data: DataFacts) -> int:
    """Tokens all evaluations of a run read, both splits together."""
    if config.eval == "sampled":
        once = 2 * config.eval_iters * config.batch_size * config.block_size
    else:
        once = (config.eval_val_tokens or data.val_tokens or 0) + min(config.eval_train_tokens, data.train_tokens or 0)
    return once * evaluations(config)
