"""One estimate of noise for many runs, without those that are noisier than the others by more than chance.

A run with a spike must not make the others noisier. So runs are held against the median of their own variances, each
divided by the median that its degrees of freedom give it, and not against a mean that the spike is part of. A variance
that exceeds this scale at 1% divided by the number of runs (one-sided F) is left out; the others are added up as ever,
so that a table without such a run has the estimate it always had.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from functools import reduce
from operator import add

from scipy import special

from isoloss.analysis.curves import Noise

LEFT_OUT = 0.01
"""Tables of equally noisy runs, as a share, of which any run is left out."""
MEDIAN_EFFICIENCY = 2 / math.pi
"""Degrees of freedom that a median of variances has of those of their mean, for many runs."""


def typical(noises: Sequence[Noise]) -> list[bool]:
    """Whether each run's noise belongs to what the runs share; True for more than half of them."""
    scale = robust_variance(noises)
    df = MEDIAN_EFFICIENCY * sum(noise.df for noise in noises)
    chance = 1 - LEFT_OUT / max(len(noises), 1)
    return [noise.variance <= scale * float(special.fdtri(noise.df, df, chance)) for noise in noises]


def shared_noise(noises: Sequence[Noise]) -> tuple[Noise | None, int]:
    """The noise of the runs that are typical, and how many they are."""
    kept = [noise for noise, belongs in zip(noises, typical(noises), strict=True) if belongs]
    return (reduce(add, kept) if kept else None), len(kept)


def robust_variance(noises: Sequence[Noise]) -> float:
    """Median (of an even number the lower one) of variances, made consistent for normal noise; 0 without any."""
    scaled = sorted(noise.variance * noise.df / float(special.chdtri(noise.df, 0.5)) for noise in noises)
    return scaled[(len(scaled) - 1) // 2] if scaled else 0.0
