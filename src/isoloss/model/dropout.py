"""Dropout masks that are never stored: an element is a hash of the member's seed, the step, the place, its index."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from math import prod

import numpy as np
import torch
from torch import Tensor

from isoloss.randomness import Purpose, derived_key, keyed_bits, stream_key
from isoloss.spec.config import RunConfig

SIGN = -(2**31)
"""Added to an unsigned 32-bit number, or xored into its bits, it lets signed comparison order unsigned numbers."""


def n_places(config: RunConfig) -> int:
    """Places in the network where dropout acts: the embedding, and attention and two projections a block."""
    return 1 + 3 * config.n_layer


@dataclass(frozen=True)
class Mask:
    """The masks of one place for every member: `multipliers` in full, or the fields for a kernel that computes them.

    An element is kept where its bits, as an unsigned number, reach p·2³²; `limit_E` is that number less 2³¹.
    `first_row` is the place of the first sequence at hand in the micro-batch the masks are drawn for.
    """

    key_Ex2: Tensor
    limit_E: Tensor
    scale_E: Tensor
    first_row: int

    def multipliers(self, shape: tuple[int, ...]) -> Tensor:
        """0 or 1/(1-p), fp32 of shape [E, *shape], of which the first is counted in sequences."""
        first = self.first_row * prod(shape[1:])
        index_I = torch.arange(first, first + prod(shape), device=self.key_Ex2.device).to(torch.int32)  # wraps
        bits_ExI = keyed_bits(self.key_Ex2[:, :1], self.key_Ex2[:, 1:], index_I)
        kept_ExI = (bits_ExI ^ SIGN) >= self.limit_E[:, None]
        return (kept_ExI * self.scale_E[:, None]).view(-1, *shape)

    def of(self, members: slice) -> Mask:
        """The masks of some of the members."""
        return Mask(self.key_Ex2[members], self.limit_E[members], self.scale_E[members], self.first_row)


class Dropout:
    """The dropout of a stack: streams and rates of its members on their device."""

    def __init__(self, members: Sequence[RunConfig], device: torch.device) -> None:
        keys_Ex2 = np.stack([stream_key(config.seed, Purpose.DROPOUT) for config in members])
        # A rate rounds to a multiple of 2^-32, and the scale is that of the rate really used.
        limits_E = [min(round(config.dropout * 2**32), 2**32 - 1) for config in members]
        self._keys_Ex2 = torch.from_numpy(keys_Ex2).to(device)
        self._limit_E = torch.tensor([limit + SIGN for limit in limits_E], dtype=torch.int32, device=device)
        self._scale_E = torch.tensor([2**32 / (2**32 - limit) for limit in limits_E], device=device)
        self._places_1xPx1 = torch.arange(n_places(members[0]), dtype=torch.int32, device=device)[None, :, None]
        self._acts = any(limits_E)

    def keys(self, micro_M: Tensor) -> Tensor:
        """The keys of micro-batches by place, int32 of shape [M, P, E, 2]; they are numbered over all steps."""
        counter_MxPx1 = (micro_M[:, None, None] * self._places_1xPx1.shape[1]).int() + self._places_1xPx1
        return torch.stack(derived_key(self._keys_Ex2[:, 0], self._keys_Ex2[:, 1], counter_MxPx1), dim=3)

    def masks(self, keys_PxEx2: Tensor, first_row: int) -> list[Mask] | None:
        """The masks of one micro-batch by place; None when no member drops anything.

        Sequences count from `first_row`, so that several ranks together drop what one process would.
        """
        if not self._acts:
            return None
        return [Mask(key_Ex2, self._limit_E, self._scale_E, first_row) for key_Ex2 in keys_PxEx2]
