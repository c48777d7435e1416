"""The whole training state: what a checkpoint holds, for one member and stacked for many."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Annotated

import torch
from pydantic import Field
from torch import Tensor

from isoloss.model.functions import Kernels
from isoloss.model.parameters import Gradients, Layout, Parameters, init_flat, layout_of
from isoloss.study.config import CountInt, PositiveFloat, RateFloat, RunConfig
from isoloss.study.identity import run_id
from isoloss.study.parts import optimizer_of
from isoloss.study.stacking import shape_key

COMPUTE_DTYPES = {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}
INITIAL_LOSS_SCALE = 65536.0


@dataclass(frozen=True)
class Progress:
    """The scalars of one member's state.

    `step` counts steps taken; `updates` those of them that changed the weights (fp16 skips on overflow).
    `evaluated_step` is the last step whose evaluation is recorded, -1 before the first. Times are in seconds. The types
    say what a checkpoint's reader accepts; nothing is checked in between.
    """

    step: CountInt = 0
    updates: CountInt = 0
    evaluated_step: Annotated[int, Field(ge=-1, strict=True)] = -1
    best_val_loss: RateFloat | None = None
    best_step: CountInt | None = None
    loss_scale: PositiveFloat = 1.0
    steps_since_overflow: CountInt = 0
    train_time_s: RateFloat = 0.0
    eval_time_s: RateFloat = 0.0
    checkpoint_time_s: RateFloat = 0.0


@dataclass(frozen=True)
class Weights:
    """One run at one step: its weights as a flat fp32 tensor of shape [P], and its progress."""

    config: RunConfig
    progress: Progress
    flat_P: Tensor


@dataclass(frozen=True)
class MemberState(Weights):
    """The same with what the optimizer keeps, by its name and each of the weights' shape: all that training needs.

    `average_P` is the moving average of the weights of a run with `ema`.
    """

    moments: Mapping[str, Tensor]
    average_P: Tensor | None = None

    def each(self, of: Callable[[Tensor], Tensor]) -> MemberState:
        """The same state with each tensor replaced by what `of` makes of it."""
        moments = {name: of(moment_P) for name, moment_P in self.moments.items()}
        average_P = None if self.average_P is None else of(self.average_P)
        return replace(self, flat_P=of(self.flat_P), moments=moments, average_P=average_P)


@dataclass
class StackState:
    """E runs of one shape at one step, those of equal n_head side by side.

    `progress` is on the host; `counts_Ex2` (updates, for parameters that decay and for the others) and `loss_scale_E`
    are its part on the device. `averages_AxP` are the moving averages of the members that have one, in their order.
    """

    members: list[RunConfig]
    progress: list[Progress]
    parameters: Parameters
    moments: dict[str, Tensor]
    averages_AxP: Tensor
    gradients: Gradients = field(init=False)
    counts_Ex2: Tensor = field(init=False)
    loss_scale_E: Tensor = field(init=False)

    def __post_init__(self) -> None:
        self.gradients = Gradients(self.parameters)
        updates = [[float(progress.updates)] * 2 for progress in self.progress]
        self.counts_Ex2 = torch.tensor(updates, device=self.device)
        self.loss_scale_E = torch.tensor([progress.loss_scale for progress in self.progress], device=self.device)

    @property
    def device(self) -> torch.device:
        """The device of the stack's tensors."""
        return self.parameters.flat_ExP.device

    @property
    def layout(self) -> Layout:
        """The ranges of the tensors in the flat order."""
        return self.parameters.layout

    @property
    def step(self) -> int:
        """Steps taken, the same for every member."""
        return self.progress[0].step

    @property
    def averaged(self) -> list[int]:
        """The members whose weights are averaged."""
        return [e for e, config in enumerate(self.members) if config.ema]

    def member(self, e: int) -> MemberState:
        """A view of one member's state."""
        return MemberState(
            self.members[e],
            self.progress[e],
            self.parameters.flat_ExP[e],
            {name: moment_ExP[e] for name, moment_ExP in self.moments.items()},
            self.averages_AxP[self.averaged.index(e)] if self.members[e].ema else None,
        )

    def keep(self, members: Sequence[int]) -> StackState:
        """The stack of the given members alone, in their order, as they are."""
        index = torch.tensor(members, device=self.device)
        flat_ExP, parameters = self.parameters.flat_ExP[index], self.parameters
        return StackState(
            [self.members[e] for e in members],
            [self.progress[e] for e in members],
            Parameters(self.layout, flat_ExP, parameters.kernels),
            {name: moment_ExP[index] for name, moment_ExP in self.moments.items()},
            self.averages_AxP[[self.averaged.index(e) for e in members if self.members[e].ema]],
        )


def initial_state(config: RunConfig) -> MemberState:
    """The state of a run before its first step."""
    flat_P = init_flat(config)
    scale = INITIAL_LOSS_SCALE if config.precision == "fp16" else 1.0
    moments = {name: torch.zeros_like(flat_P) for name in optimizer_of(config.optimizer).moments}
    return MemberState(config, Progress(loss_scale=scale), flat_P, moments, flat_P.clone() if config.ema else None)


def stack(states: Sequence[MemberState], device: torch.device, kernels: Kernels | None = None) -> StackState:
    """Stack members of one shape at one step on a device, ordered by n_head. Raises ValueError when they differ.

    `kernels` are torch's by default; others must be of the runs' precision.
    """
    if len({(shape_key(state.config), state.progress.step) for state in states}) != 1:
        raise ValueError("members of a stack must share their shape and step")
    if len({run_id(state.config) for state in states}) != len(states):
        raise ValueError("members of a stack must be different runs")
    states = sorted(states, key=lambda state: state.config.n_head)
    config, dtype = states[0].config, COMPUTE_DTYPES[states[0].config.precision]
    flat_ExP = torch.stack([state.flat_P for state in states]).to(device)
    averages = [state.average_P for state in states if state.average_P is not None]
    return StackState(
        [state.config for state in states],
        [state.progress for state in states],
        Parameters(layout_of(config), flat_ExP, kernels or Kernels(dtype)),
        {name: torch.stack([state.moments[name] for state in states]).to(device) for name in states[0].moments},
        (torch.stack(averages) if averages else torch.empty(0, flat_ExP.shape[1])).to(device),
    )
