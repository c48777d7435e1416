"""What compute a run of a size and horizon takes."""

from __future__ import annotations

from dataclasses import dataclass
from math import log

FLOPS_PER_PARAMETER_TOKEN = 6.0
"""k in C = k·N·D, forward and backward (Kaplan et al. 2020)."""


@dataclass(frozen=True)
class Cost:
    """What compute a run takes: C = `per` · N^`size_power` · D. Embeddings and attention make small models dearer."""

    per: float = FLOPS_PER_PARAMETER_TOKEN
    size_power: float = 1.0

    def log_product(self, flops: float) -> float:
        """log N^size_power · D at a compute."""
        return log(flops / self.per)

    def tokens(self, flops: float, size: float) -> float:
        """D of a model of this size at a compute."""
        return flops / self.per / size**self.size_power

    def size(self, flops: float, tokens: float) -> float:
        """N of a model that sees so many tokens at a compute."""
        return (flops / self.per / tokens) ** (1 / self.size_power)


SIX_ND = Cost()
