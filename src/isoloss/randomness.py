"""Randomness as a pure function of (seed, purpose, counters): there is no generator state to save or to disturb.

The same arguments give the same numbers in every process and in any order of calls, so evaluation cannot touch
training, a resumed run draws what an uninterrupted one draws, and runs of equal seed see the same data in the same
order whatever their other settings are.
"""

from __future__ import annotations

import enum

import numpy as np


class Purpose(enum.IntEnum):
    """What a stream of random numbers is for. The values are part of a run's identity: append, never renumber."""

    INIT = 1
    BATCH = 2
    DROPOUT = 3
    SAMPLED_EVAL = 4
    GENERATE = 5


def generator(seed: int, purpose: Purpose, *counters: int) -> np.random.Generator:
    """A fresh numpy generator (SFC64) for one seed, one purpose and one place given by non-negative counters."""
    return np.random.Generator(np.random.SFC64(np.random.SeedSequence([seed, purpose, *counters])))
