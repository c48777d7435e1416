"""Jumps of a loss that stay: where a run got to a higher loss at once and never came back."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy import special

from isoloss.analysis.curves import Noise, short_term_noise
from isoloss.analysis.estimate import LEVEL
from isoloss.analysis.pooling import shared_noise

Floats = NDArray[np.float64]
AT_ONCE = 0.8
"""Share of the whole rise that a jump makes."""
BEFORE = 0.25
"""Share of a jump by which the loss may have risen before it."""
KEPT = 0.5
"""Share of the rise that every later point keeps."""
CLEAR = 1.5
"""Times that a jump has to exceed what noise alone may leave."""
NEAR = 8
"""Points before a jump that tell the noise there: the fall at the start of training is no noise."""


@dataclass(frozen=True)
class Jump:
    """The points up to `before` lie before the jump, those from `after` on behind it; one may lie between."""

    before: int
    after: int


def jumps_that_stay(curves: Sequence[tuple[Floats, Floats]], least: float) -> list[Jump | None]:
    """The jump of each curve (x ascending, y), by `least` or more.

    The loss rises at once, within two neighbouring intervals between points, and two or more points follow. The rise
    has to be above noise by half as much again as a t quantile over all places (Bonferroni), so that noise does not
    make a jump of a steady rise. Noise is that of second differences on
    either side of the jump, shared by the curves unless a curve's own is larger by more than chance.
    """
    candidates = [next(_candidates(y_j, least), None) for _, y_j in curves]
    if not any(candidates):
        return candidates
    noises = [noise_beside(x_j, y_j, jump) for (x_j, y_j), jump in zip(curves, candidates, strict=True)]
    shared, _ = shared_noise([noise for noise in noises if noise is not None])
    return [
        jump if jump and _above_noise(y_j, jump, noise, shared) else None
        for (_, y_j), jump, noise in zip(curves, candidates, noises, strict=True)
    ]


def noise_beside(x_j: Floats, y_j: Floats, jump: Jump | None) -> Noise | None:
    """Noise of a curve's last points, without what crosses its jump; None where there are too few points."""
    if jump is None:
        return short_term_noise(x_j[-2 * NEAR :], y_j[-2 * NEAR :])
    start = max(0, jump.before - NEAR)
    before = short_term_noise(x_j[start : jump.before], y_j[start : jump.before])
    after = short_term_noise(x_j[jump.after :], y_j[jump.after :])
    return before + after if before and after else before or after


def _candidates(y_j: Floats, least: float) -> Iterator[Jump]:
    """Places that have the shape of a jump, whatever the noise."""
    n = len(y_j)
    if n < 4 or float(np.diff(y_j).max()) < least / 2:
        return
    lowest_before_j, lowest_after_j = np.minimum.accumulate(y_j), np.minimum.accumulate(y_j[::-1])[::-1]
    for between in (0, 1):  # points between the two sides
        before_i = np.arange(2, n - 1 - between)
        base_i = np.maximum(y_j[before_i - 2], y_j[before_i - 1])
        first_i, kept_i = y_j[before_i + between] - base_i, lowest_after_j[before_i + between] - base_i
        high_i = (kept_i >= least) & (base_i - lowest_before_j[before_i - 1] <= BEFORE * first_i)
        for i in np.flatnonzero(high_i).tolist():
            before, after = i + 2, i + 2 + between
            level = float(np.median(y_j[after:])) - base_i[i]
            if first_i[i] >= AT_ONCE * level and kept_i[i] >= KEPT * level:
                yield Jump(before, after)


def _above_noise(y_j: Floats, jump: Jump, own: Noise | None, shared: Noise | None) -> bool:
    noise = own if own is not None and (shared is None or own.exceeds(shared)) else shared
    if noise is None:
        return False
    after = len(y_j) - jump.after
    rise = float(y_j[jump.after :].mean() - y_j[jump.before - 2 : jump.before].max())
    quantile = float(special.stdtrit(noise.df, 1 - (1 - LEVEL) / 2 / len(y_j)))
    return rise > CLEAR * quantile * math.sqrt(noise.variance * (1 + 1 / after))
