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
from isoloss.execution.study import RunOptions, available_cores, resolve_study, uses_compiled_kernels
from isoloss.study.compute import disk_bytes, evaluations, tokens_per_step
from isoloss.study.config import RunConfig, shape_key
from isoloss.study.identity import run_id
from isoloss.study.study import Study, too_large
from isoloss.training.backend import kernels_for
from isoloss.training.loop import EvalRow, StepRow, train
from isoloss.training.state import COMPUTE_DTYPES, MemberState, initial_state, stack

TIMED_STEPS = 3
FORWARD_SHARE = 1 / 3
"""Of a training step's arithmetic, what a forward pass alone takes."""


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
class Plan:
    """What a study would cost on this machine. `step_times_s` is by run id, at one thread a worker on a CPU."""

    study: Study
    configs: list[RunConfig]
    precision: str
    device: str
    workers: int
    step_times_s: dict[str, float]
    eta_s: float
    disk_bytes: int


def plan_study(study: Study, options: RunOptions) -> Plan:
    """Expand a study and time a few steps of each of its shapes; writes nothing but compiled kernels into the cache.

    Raises ConfigError or CorpusError as running it would.
    """
    study, device = resolve_study(study, options)
    facts, train_tokens, val_tokens = corpus_facts(study.corpus, study.tokenizer)
    configs = study.expand(facts)
    for config in configs:
        check_length(config, train_tokens, val_tokens)
    workers = min(options.workers or (available_cores() if device.type == "cpu" else 1), len(configs))
    times_s = _step_times(configs, device, compiled=uses_compiled_kernels(options, configs, device))
    seconds = sum(
        times_s[run_id(c)] * (c.max_iters + FORWARD_SHARE * _evaluated_tokens(c, val_tokens) / tokens_per_step(c))
        for c in configs
    )
    return Plan(
        study=study,
        configs=configs,
        precision=", ".join(sorted({config.precision for config in configs})),
        device=device.type,
        workers=workers,
        step_times_s=times_s,
        eta_s=seconds / workers,
        disk_bytes=sum(map(disk_bytes, configs)),
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


def _evaluated_tokens(config: RunConfig, val_tokens: int) -> int:
    """Tokens all evaluations of a run read, both splits together."""
    if config.eval == "sampled":
        once = 2 * config.eval_iters * config.batch_size * config.block_size
    else:
        once = (config.eval_val_tokens or val_tokens) + config.eval_train_tokens
    return once * evaluations(config)
