"""The state of a run at its end, told from its curve: the first of the sentences in `convergence` that is true."""

from __future__ import annotations

from typing import Literal, get_args

from isoloss.analysis.estimate import Estimate
from isoloss.analysis.trend import Points, RunNoise, fall_at_end

State = Literal["improving", "plateaued", "U-turned", "diverged", "inconclusive"]
STATES: tuple[State, ...] = get_args(State)
JUMP = 5.0
"""Tolerances that a jump has to be high at least."""


def state_of(
    points: Points,
    noise: RunNoise | None,
    improvement: Estimate | None,
    rise: Estimate | None,
    tolerance: float,
    *,
    diverged: bool,
) -> State:
    """The state of a run; `diverged` when its last loss is not finite or its loss jumped and stayed."""
    if diverged:
        return "diverged"
    if rise is not None and rise.low is not None and rise.low > 0 and rise.value > tolerance:
        return "U-turned"
    if improvement is None or improvement.low is None or improvement.high is None:
        return "inconclusive"
    if improvement.high < -tolerance:
        return "U-turned"
    fall = fall_at_end(points, noise) if noise else None
    if fall is not None and fall.low is not None and fall.low > 0 and fall.value > tolerance:
        return "improving"
    if -tolerance < improvement.low and improvement.high < tolerance:
        return "plateaued"
    return "improving" if improvement.low > 0 else "inconclusive"
