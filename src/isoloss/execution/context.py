"""Where stacks are trained: what all of a study's share, and the numerics that follow from it."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import torch

from isoloss.model.kernels import Kernels
from isoloss.spec.config import Precision
from isoloss.store.layout import StudyPaths
from isoloss.training.backend import kernels_for
from isoloss.training.numerics import Numerics, numerics_here
from isoloss.training.state import COMPUTE_DTYPES


@dataclass(frozen=True)
class TrainingContext:
    """What every stack of a study shares: where to write, what to read, where and with which kernels to compute.

    `threads` of each process and `stack`, the width that stacks are planned with, follow from the study and not from
    what is left of it; `ranks` processes train each stack together.
    """

    study: StudyPaths
    tokens_folder: Path
    device: torch.device
    threads: int
    compiled: bool = False
    stack: int = 1
    ranks: int = 1

    def kernels(self, precision: Precision) -> Kernels:
        """What stacks of some precision are trained with here."""
        return kernels_for(COMPUTE_DTYPES[precision], self.device, compiled=self.compiled, threads=self.threads)

    def numerics(self, precision: Precision) -> Numerics:
        """What decides the bits of a stack of some precision, trained here."""
        kernels = self.kernels(precision).name
        return numerics_here(self.device, kernels, threads=self.threads, stack=self.stack, ranks=self.ranks)
