"""Budgets: horizons that follow from what a run may cost, as in IsoFLOP profiles."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Literal, get_args

from isoloss.errors import ConfigError
from isoloss.study.compute import flops_per_token, params_non_embedding, tokens_per_step
from isoloss.study.config import MAX_ITERS, RunConfig

Kind = Literal["flops", "tokens", "tokens_per_parameter", "seconds"]
KINDS: tuple[Kind, ...] = get_args(Kind)
StepTime = Callable[[RunConfig], float]
"""Seconds an optimizer step of a run takes on one core of this machine."""
PER_STEP: Mapping[Kind, Callable[[RunConfig], float]] = {
    "flops": lambda config: flops_per_token(config) * tokens_per_step(config),
    "tokens": lambda config: tokens_per_step(config),
    "tokens_per_parameter": lambda config: tokens_per_step(config) / params_non_embedding(config),
}
"""What an optimizer step takes of each kind of budget but seconds: training FLOPs, tokens, tokens a parameter."""
CLOSE = 0.02
"""By which share of a budget whole steps may miss it."""
UNMEASURED_STEP_S = 0.01
"""Stands for a step's time where a study is checked before anything is measured."""
UNKNOWN_VOCABULARY = 1000
"""By how much FLOPs a step may differ between the smallest and the largest vocabulary."""


def _is_amount(value: object) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and 0 < value < float("inf")


@dataclass(frozen=True)
class Budgets:
    """What each cell is trained for, once for every level: training FLOPs, tokens, tokens a parameter, or seconds."""

    kind: Kind
    levels: tuple[float, ...]

    def faults(self) -> Iterator[ConfigError]:
        """Levels that are no amount, or there twice."""
        if not self.levels:
            yield ConfigError(f"budgets: {self.kind} has no levels", (f"budgets {self.kind}", "budgets"))
        for place, level in enumerate(self.levels):
            if not _is_amount(level):
                text = f"budgets: {self.kind}={level!r}: expected a number above 0"
                yield ConfigError(text, (f"budgets {self.kind} {place}", f"budgets {self.kind}"))
        if len(set(map(repr, self.levels))) < len(self.levels):
            text = f"budgets: {self.kind} repeats a level: {list(self.levels)}"
            yield ConfigError(text, (f"budgets {self.kind}", "budgets"))

    def horizons(self, config: RunConfig, *, known: bool, step_s: StepTime | None = None) -> Iterator[int]:
        """Steps of a cell for each budget. Raises ConfigError for one that whole steps miss by more than CLOSE.

        Where the text is not known, and so its vocabulary, one of FLOPs that no vocabulary could meet is refused; where
        `step_s` is not, those of seconds stand for others.
        """
        loose = self.kind == "flops" and not known
        if self.kind == "seconds" and step_s is None:
            most = MAX_ITERS - len(self.levels)
            yield from (min(max(1, round(each / UNMEASURED_STEP_S)), most) + i for i, each in enumerate(self.levels))
            return
        per_step = step_s(config) if self.kind == "seconds" and step_s else PER_STEP[self.kind](config)
        for place, level in enumerate(self.levels):
            steps = max(1, round(level / per_step))
            if loose and steps < UNKNOWN_VOCABULARY * MAX_ITERS and level > per_step / 2:
                yield min(steps, MAX_ITERS)
                continue
            if steps > MAX_ITERS or abs(steps * per_step / level - 1) > CLOSE:
                cell = f"n_embd {config.n_embd}, n_layer {config.n_layer}, batch_size {config.batch_size}"
                why = (
                    f"a run has at most {MAX_ITERS:,}"
                    if steps > MAX_ITERS
                    else f"whole steps miss it by over {CLOSE:.0%}"
                )
                what = f"{level:g} {self.kind.replace('_', ' ')} are {level / per_step:.3g} steps of {cell}"
                raise ConfigError(f"budgets: {what}, and {why}", (f"budgets {self.kind} {place}", "budgets"))
            yield steps
