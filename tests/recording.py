"""An observer that keeps what it hears, and a way to train with it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Literal

import torch

from isoloss.data.token_files import Tokens
from isoloss.study.config import RunConfig
from isoloss.study.identity import run_id
from isoloss.training.backend import kernels_for
from isoloss.training.loop import EvalRow, StepRow, train
from isoloss.training.saving import Save, Saved
from isoloss.training.state import COMPUTE_DTYPES, MemberState, Progress, initial_state, stack


@dataclass
class Recording:
    steps: list[StepRow] = field(default_factory=list)
    evals: list[EvalRow] = field(default_factory=list)
    kept: list[MemberState] = field(default_factory=list)
    outcome: str = ""
    reason: str = ""

    def step(self, row: StepRow) -> None:
        self.steps.append(row)

    def evaluation(self, row: EvalRow) -> None:
        self.evals.append(row)

    def saving(self, what: Saved) -> Save:
        return lambda state: self.kept.append(state.each(torch.clone)) if what == "checkpoint" else None

    def end(self, progress: Progress, outcome: Literal["done", "diverged"], reason: str) -> None:
        self.outcome, self.reason = outcome, reason


def recorded(
    configs: Sequence[RunConfig],
    tokens: Tokens,
    states: Sequence[MemberState] | None = None,
    stop_at: int | None = None,
    compiled: bool = False,
) -> list[Recording]:
    """Train the runs as one stack, from scratch or from states, perhaps to a step, and return what each did."""
    kernels = kernels_for(COMPUTE_DTYPES[configs[0].precision], torch.device("cpu"), compiled=compiled)
    recordings = {run_id(config): Recording() for config in configs}
    stacked = stack(states or [initial_state(config) for config in configs], torch.device("cpu"), kernels)
    first = recordings[run_id(configs[0])]
    train(
        stacked,
        tokens,
        lambda config: recordings[run_id(config)],
        should_stop=lambda: stop_at is not None and len(first.steps) >= stop_at,
    )
    return [recordings[run_id(config)] for config in configs]
