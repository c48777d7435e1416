"""How long a study will take here, from a few measured steps of each of its shapes."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

from isoloss.data.tokens import check_length, corpus_facts
from isoloss.design.audit_settings import evaluated_blocks
from isoloss.design.trunks import forks
from isoloss.execution.disk_cap import all_kept_bytes, check_cap
from isoloss.execution.first_evaluation import expected_takers
from isoloss.execution.placement import runs_at_once, worker_count
from isoloss.execution.step_times import StepTimes
from isoloss.execution.study import RunOptions, resolve_study, uses_compiled_kernels
from isoloss.execution.width import stack_width, widths
from isoloss.study.compute import checkpoint_bytes, evaluations, tokens_per_step
from isoloss.study.config import RunConfig
from isoloss.study.identity import run_id
from isoloss.study.study import Study
from isoloss.study.texts import DataFacts, joined_facts

FORWARD_SHARE = 1 / 3
"""Of a training step's arithmetic, what a forward pass alone takes."""
SAVED_BYTES_PER_S, SAVE_S = 4e8, 0.01
"""What saving a checkpoint takes: digest, write and sync, and besides a time for each."""
START_S = 4.0
"""From the command to the first step: libraries are loaded in every worker, at the same time."""


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
    """What a study would cost on this machine. `step_times_s` is by run id, as StepTimes gives them."""

    study: Study
    configs: list[RunConfig]
    precision: str
    device: str
    workers: int
    step_times_s: dict[str, float]
    data: DataFacts
    eta: Eta
    disk_bytes: int
    evaluations: int
    """Of all runs together, without those that one takes over from another."""


@dataclass(frozen=True)
class OwnWork:
    """Steps and evaluations that a run makes itself: all but those that it takes over from another."""

    steps: int
    evaluations: int


def plan_study(study: Study, options: RunOptions, say: Callable[[str], None] = lambda line: None) -> Plan:
    """Expand a study and time a few steps of each of its shapes.

    Writes nothing but compiled kernels, a synthetic text and tokens of a byte-level BPE, and these into the cache.

    Raises ConfigError or CorpusError as running it would.
    """
    options = replace(options, on="here", slurm=None)  # what is measured is this machine
    study, device = resolve_study(study, options)
    told = {"offline": options.offline, "say": say}
    data = joined_facts({each: corpus_facts(text, each.tokenizer, **told) for each, text in study.datasets.items()})
    expanded = study.expand(data)
    compiled = uses_compiled_kernels(options, expanded, device)
    width = stack_width(options, expanded, device, data)
    step_times = StepTimes(device, compiled, widths(expanded, width))
    study = study.resolved(data, step_times)
    configs = study.expand(data)
    for config in configs:
        check_length(config, data)
    check_cap(study, configs, configs, runs_at_once(options, configs, device, width))
    workers = min(worker_count(options, device), len(configs))
    times_s = {run_id(config): step_times(config) for config in configs}
    work = own_work(configs, width, workers)
    training = sum(times_s[run_id(config)] * own.steps for config, own in zip(configs, work, strict=True))
    evaluation = sum(
        own.evaluations
        * FORWARD_SHARE
        * times_s[run_id(config)]
        * _evaluated_tokens(config, data)
        / tokens_per_step(config)
        for config, own in zip(configs, work, strict=True)
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
        evaluations=sum(own.evaluations for own in work),
    )


def own_work(configs: Sequence[RunConfig], width: int, workers: int) -> list[OwnWork]:
    """Of each run of a study, in stacks of at most `width`, by so many workers."""
    begun_at = {run: fork.step for run, fork in forks(configs).items()}
    takers = expected_takers(configs, width, workers)
    return [_own_work(config, begun_at.get(run_id(config)), run_id(config) in takers) for config in configs]


def _own_work(config: RunConfig, begun_at: int | None, takes_first: bool) -> OwnWork:
    taken_over = takes_first if begun_at is None else begun_at // config.eval_interval + 1
    return OwnWork(config.max_iters - (begun_at or 0), evaluations(config) - taken_over)


def _evaluated_tokens(config: RunConfig, data: DataFacts) -> int:
    """Tokens that one evaluation of a run reads, both splits together, and again for an average of the weights."""
    if config.eval == "sampled":
        read = 2 * config.eval_iters * config.batch_size * config.block_size
    else:
        read = sum(evaluated_blocks(config, data, split) for split in (0, 1)) * config.block_size
    return 2 * read if config.ema else read
