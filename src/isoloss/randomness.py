"""Randomness as a pure function of (seed, purpose, counters), without generator state: a counter-based generator.

The same arguments give the same numbers in every process and in any order of calls, so evaluation cannot touch
training, a resumed run draws what an uninterrupted one draws, and runs of equal seed see the same data in the same
order whatever their other settings are.

What a step draws, its batch and its dropout masks, comes from a hash of 32-bit counters: it is written with operators
alone, so that the same lines run on numpy arrays and on torch tensors of any device, and it is short enough to be
computed inside a kernel (model/kernels.cpp) in place of a mask read from memory.
"""

from __future__ import annotations

import enum
from typing import Any, TypeVar

import numpy as np
from numpy.typing import NDArray

Ints = TypeVar("Ints", bound=Any)
"""An int32 array of numpy or of torch with at least one dimension; its products wrap around."""


class Purpose(enum.IntEnum):
    """What a stream of random numbers is for. The values are part of a run's identity: append, never renumber."""

    INIT = 1
    BATCH = 2
    DROPOUT = 3
    SAMPLED_EVAL = 4
    GENERATE = 5
    DESIGN = 6
    SOURCE = 7
    TEXT = 8
    MERGES = 9


def generator(seed: int, purpose: Purpose, *counters: int) -> np.random.Generator:
    """A new numpy generator (SFC64) for a seed, a purpose and non-negative counters."""
    return np.random.Generator(np.random.SFC64(np.random.SeedSequence([seed, purpose, *counters])))


def stream_key(seed: int, purpose: Purpose) -> NDArray[np.int32]:
    """The 64-bit key of a stream, int32 of shape [2]."""
    return np.random.SeedSequence([seed, purpose]).generate_state(2, np.uint32).view(np.int32)


def mix(x: Ints) -> Ints:
    """A bijection of 32 bits in which every input bit reaches every output bit (Wellons' lowbias32)."""
    x = (x ^ ((x >> 16) & 0xFFFF)) * 0x7FEB352D
    return _second_half(x ^ ((x >> 15) & 0x1FFFF))


def keyed_bits(key_0: Ints, key_1: Ints, counter: Ints) -> Ints:
    """32 random bits for each counter under a 64-bit key; arguments broadcast. `mix` with the key xored in twice."""
    x = counter ^ key_0
    x = (x ^ ((x >> 16) & 0xFFFF)) * 0x7FEB352D
    return _second_half((x ^ ((x >> 15) & 0x1FFFF)) ^ key_1)


def derived_key(key_0: Ints, key_1: Ints, counter: Ints) -> tuple[Ints, Ints]:
    """The key of a substream: both halves depend on all bits of the key and the counter."""
    first = keyed_bits(key_0, key_1, mix(counter))
    return first, mix(first ^ key_1)


def _second_half(x: Ints) -> Ints:
    x = x * (0x846CA68B - 2**32)
    return x ^ ((x >> 16) & 0xFFFF)
