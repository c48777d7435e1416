"""How long a study still takes, by the steps that are left and by what steps have taken in it so far."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from isoloss.study.compute import flops_per_token, tokens_per_step
from isoloss.study.config import RunConfig

EQUAL_PARTS_WEIGHT = 0.1
"""Weight of half of a mean step being fixed and half being by FLOPs; each run that was watched has 1."""


@dataclass(frozen=True)
class Pace:
    """How far a run is: it begins at step `first`, took `seconds` to `step`, and ends at `end`."""

    config: RunConfig
    first: int
    step: int
    end: int
    seconds: float = 0.0

    @property
    def step_flops(self) -> int:
        """Training FLOPs of one step."""
        return tokens_per_step(self.config) * flops_per_token(self.config)


def time_left_s(paces: Sequence[Pace], elapsed_s: float) -> float | None:
    """Seconds until all runs have ended, after `elapsed_s` since the first began; None before a hundredth is done.

    A step of a run takes a time of its own and a time by its FLOPs: a small model's steps take longer than its FLOPs
    say. Of a stack each run counts with all of its time, so stacks are taken to be alike wide.

    Example: `time_left_s([Pace(config, 0, 50, 100, 9.0)], 10.0)` is 10.
    """
    fixed, per_flop = _step_cost(paces)
    done = total = 0.0
    for pace in paces:
        cost = fixed + per_flop * pace.step_flops
        done += cost * max(0, pace.step - pace.first)
        total += cost * max(0, pace.end - pace.first)
    return elapsed_s * max(0.0, total - done) / done if done > 0.01 * total else None


def _step_cost(paces: Sequence[Pace]) -> tuple[float, float]:
    """What a step takes, fixed and by FLOP, by least squares of relative residuals; neither is below zero."""
    from scipy.optimize import nnls  # most commands watch no runs

    watched = [pace for pace in paces if pace.seconds > 0 and pace.step > pace.first]
    if not watched:
        return 0.0, 1.0
    step_s = np.array([pace.seconds / (pace.step - pace.first) for pace in watched])
    flops = np.array([float(pace.step_flops) for pace in watched])
    rows = np.stack([1 / step_s, flops / flops.mean() / step_s], axis=1)
    equal = EQUAL_PARTS_WEIGHT * np.array([[1.0, -1.0]]) / step_s.mean()
    (fixed, by_size), _ = nnls(np.concatenate([rows, equal]), np.append(np.ones(len(watched)), 0.0))
    return float(fixed), float(by_size) / float(flops.mean())
