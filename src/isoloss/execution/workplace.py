"""Where stacks are trained: what all of a study's share, and the numerics that follow from it."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import torch

from isoloss.spec.config import Precision
from isoloss.store.layout import StudyPaths
from isoloss.training.backend import kernels_for
from isoloss.training.numerics import Numerics, numerics_here
from isoloss.training.state import COMPUTE_DTYPES


@dataclass(frozen=True)
class Workplace:
    """What every stack of a study shares: where to write, what to read, where and with which kernels to compute.

    `stack` is the width that stacks are planned with.
    """

    study: StudyPaths
    tokens_folder: Path
    device: torch.device
    compiled: bool = False
    stack: int = 1

    def numerics(self, precision: Precision, threads: int, ranks: int) -> Numerics:
        """What decides the bits of a stack of some precision, trained here with so many threads and ranks."""
        kernels = kernels_for(COMPUTE_DTYPES[precision], self.device, compiled=self.compiled, threads=threads)
        return numerics_here(self.device, kernels.name, threads=threads, stack=self.stack, ranks=ranks)
