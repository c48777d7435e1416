"""Levenberg–Marquardt from many starts at once.

For problems of few parameters: a step is some forty operations of numpy on arrays of all starts, which take about as
long as scipy's own work on a step of one of them.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from isoloss.analysis.laws import Floats

Flags = NDArray[np.bool_]

MAX_STEPS = 1000
FIRST_DAMPING, LEAST_DAMPING, MOST_DAMPING = 1e-3, 1e-12, 1e12
SMALL = 1e-300
"""Keeps a column of zeros from dividing by zero."""


@dataclass(frozen=True)
class Local:
    """An objective around the places of s starts: its value, gradient and Hessian, and what is added to damp a step.

    `bound_sxpxp`, times the damping, is added to the Hessian besides its own diagonal: what the Hessian lacks to bound
    the objective from above.
    """

    value_s: Floats
    gradient_sxp: Floats
    hessian_sxpxp: Floats
    bound_sxpxp: Floats

    def take(self, better_s: Flags, other: Local) -> Local:
        """This one's starts where `better_s`, elsewhere the other's."""
        return Local(
            np.where(better_s, self.value_s, other.value_s),
            np.where(better_s[:, None], self.gradient_sxp, other.gradient_sxp),
            np.where(better_s[:, None, None], self.hessian_sxpxp, other.hessian_sxpxp),
            np.where(better_s[:, None, None], self.bound_sxpxp, other.bound_sxpxp),
        )

    def of(self, kept_s: Flags) -> Local:
        """The starts that are kept."""
        return Local(
            self.value_s[kept_s], self.gradient_sxp[kept_s], self.hessian_sxpxp[kept_s], self.bound_sxpxp[kept_s]
        )


def descend(
    around: Callable[[Floats], Local], start_sxp: Floats, bounds: tuple[Floats, Floats], tolerance: float
) -> Floats:
    """Where each start ends, shape [s, p], within the bounds; never higher than it began.

    A start ends where a step that is hardly damped would lower its value by less than the share `tolerance`, or where
    no step lowers it.
    """
    low_p, high_p = bounds
    end_sxp = np.clip(start_sxp, low_p, high_p)
    going = np.arange(len(end_sxp))
    here, damping_s = around(end_sxp), np.full(len(end_sxp), FIRST_DAMPING)
    for _ in range(MAX_STEPS):
        theta_sxp = end_sxp[going]
        step_sxp, foreseen_s = _step(here, damping_s, theta_sxp, low_p, high_p)
        there = around(theta_sxp + step_sxp)
        fall_s = here.value_s - there.value_s
        better_s = fall_s > 0
        end_sxp[going[better_s]] += step_sxp[better_s]
        as_foreseen_s = better_s & (fall_s > foreseen_s / 4)
        done_s = (np.abs(foreseen_s) <= tolerance * here.value_s) & (damping_s <= 1) | (damping_s > MOST_DAMPING)
        well_s = better_s & (fall_s > 0.75 * foreseen_s)
        damping_s = np.where(well_s, damping_s / 5, np.where(as_foreseen_s, damping_s, damping_s * 4))
        damping_s = np.maximum(damping_s, LEAST_DAMPING)
        here = there.take(better_s, here)
        if done_s.any():
            going, damping_s, here = going[~done_s], damping_s[~done_s], here.of(~done_s)
            if not len(going):
                break
    return end_sxp


def _step(here: Local, damping_s: Floats, theta_sxp: Floats, low_p: Floats, high_p: Floats) -> tuple[Floats, Floats]:
    """A damped step of each start within the bounds, and how much its model foresees it to fall.

    A parameter at a bound that the gradient pushes against stays there, so that the others move as if it were fixed.
    """
    held_sxp = ((theta_sxp <= low_p) & (here.gradient_sxp > 0)) | ((theta_sxp >= high_p) & (here.gradient_sxp < 0))
    free_sxp = ~held_sxp
    whole_sxpxp = here.hessian_sxpxp + here.bound_sxpxp
    diagonal_sxp = np.maximum(np.diagonal(whole_sxpxp, axis1=1, axis2=2), SMALL)
    eye_pxp = np.eye(len(low_p))
    damped_sxpxp = here.hessian_sxpxp + damping_s[:, None, None] * (
        here.bound_sxpxp + diagonal_sxp[:, :, None] * eye_pxp
    )
    scale_sxp = 1 / np.sqrt(diagonal_sxp)
    scaled_sxpxp = damped_sxpxp * scale_sxp[:, :, None] * scale_sxp[:, None, :]
    both_sxpxp = free_sxp[:, :, None] & free_sxp[:, None, :]
    scaled_sxpxp = np.where(both_sxpxp, scaled_sxpxp, 0.0) + held_sxp[:, :, None] * eye_pxp + 1e-15 * eye_pxp
    gradient_sxp = np.where(free_sxp, here.gradient_sxp, 0.0)
    step_sxp = -np.linalg.solve(scaled_sxpxp, (gradient_sxp * scale_sxp)[:, :, None])[:, :, 0] * scale_sxp
    step_sxp = np.clip(theta_sxp + step_sxp, low_p, high_p) - theta_sxp
    curved_s = np.einsum("sp,spq,sq->s", step_sxp, damped_sxpxp, step_sxp)
    return step_sxp, -(gradient_sxp * step_sxp).sum(1) - curved_s / 2
