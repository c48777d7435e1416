"""Dropout masks that are never stored: an element is a hash of the seed of data, the step, the site and its index."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from math import prod

import numpy as np
import torch
from torch import Tensor

from isoloss.randomness import Purpose, derived_key, keyed_bits, stream_key
from isoloss.study.config import RunConfig

SIGN = -(2**31)
"""Added to an unsigned 32-bit number, or xored into its bits, it makes signed comparison order unsigned numbers."""


def n_places(config: RunConfig) -> int:
    """Dropout sites of the network: the embedding, and attention and two projections a block."""
    return 1 + 3 * config.n_layer


@dataclass(frozen=True)
class Mask:
    """The masks of one site for every member: `multipliers` in full, or the fields for a kernel that computes them.

    An element is kept where its bits, as an unsigned number, reach p·2³²; `limit_E` is that number less 2³¹.
    `first_row` is the index, in the micro-batch the masks are drawn for, of the first sequence given.
    """

    key_Ex2: Tensor
    limit_E: Tensor
    scale_E: Tensor
    first_row: int

    def multipliers(self, shape: tuple[int, ...]) -> Tensor:
        """0 or 1/(1-p), fp32 of shape [E, *shape]; the first axis of `shape` is sequences."""
        first = self.first_row * prod(shape[1:])
        index_F = torch.arange(first, first + prod(shape), device=self.key_Ex2.device).to(torch.int32)  # wraps
        bits_ExF = keyed_bits(self.key_Ex2[:, :1], self.key_Ex2[:, 1:], index_F)
        kept_ExF = (bits_ExF ^ SIGN) >= self.limit_E[:, None]
        return (kept_ExF * self.scale_E[:, None]).view(-1, *shape)

    def of(self, members: slice) -> Mask:
        """The masks of some of the members."""
        return Mask(self.key_Ex2[members], self.limit_E[members], self.scale_E[members], self.first_row)


class Dropout:
    """The dropout of a stack: random streams and rates of its members on their device."""

    def __init__(self, members: Sequence[RunConfig], device: torch.device) -> None:
        keys_Ex2 = np.stack([stream_key(config.seed_of_data, Purpose.DROPOUT) for config in members])
        # A rate rounds to a multiple of 2^-32, and the scale is that of the rate really used.
        limits_E = [min(round(config.dropout * 2**32), 2**32 - 1) for config in members]
        self._keys_Ex2 = torch.from_numpy(keys_Ex2).to(device)
        self._limit_E = torch.tensor([limit + SIGN for limit in limits_E], dtype=torch.int32, device=device)
        self._scale_E = torch.tensor([2**32 / (2**32 - limit) for limit in limits_E], device=device)
        self._places_1xJx1 = torch.arange(n_places(members[0]), dtype=torch.int32, device=device)[None, :, None]
        self._acts = any(limits_E)

    def keys(self, micro_K: Tensor) -> Tensor:
        """The keys of micro-batches by site, int32 of shape [K, J, E, 2]; they are numbered over all steps."""
        counter_KxJx1 = (micro_K[:, None, None] * self._places_1xJx1.shape[1]).int() + self._places_1xJx1
        return torch.stack(derived_key(self._keys_Ex2[:, 0], self._keys_Ex2[:, 1], counter_KxJx1), dim=3)

    def masks(self, keys_JxEx2: Tensor, first_row: int) -> list[Mask] | None:
        """The masks of one micro-batch by site; None when no member has dropout.

        Sequences count from `first_row`, so that several ranks together drop what one process would.
        """
        if not self._acts:
            return None
        return [Mask(key_Ex2, self._limit_E, self._scale_E, first_row) for key_Ex2 in keys_JxEx2]
