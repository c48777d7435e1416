"""What all stacks of a study share: folders, device, threads and kernels, and the numerics that follow from them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

import torch

from isoloss.model.functions import Kernels
from isoloss.store.layout import StudyPaths
from isoloss.study.config import Precision, RunConfig
from isoloss.study.datasets import Dataset
from isoloss.study.identity import run_id
from isoloss.study.plugins import Plugin, plugins_in_use
from isoloss.training.backend import kernels_for
from isoloss.training.numerics import Numerics, numerics_here
from isoloss.training.state import COMPUTE_DTYPES


@dataclass(frozen=True)
class TrainingContext:
    """Where every stack of a study is read from, written to and trained, and with which kernels.

    `threads` of each process and `stack`, the planned stack width, follow from the whole study and not from the runs
    still missing; `ranks` processes train each stack together.
    """

    study: StudyPaths
    tokens_folders: Mapping[Dataset, Path]
    """Where the tokens of each text and tokenizer are."""
    device: torch.device
    threads: int
    compiled: bool = False
    stack: int = 1
    ranks: int = 1
    shuffled: bool = False
    """Whether stacks come in shuffled order."""
    kept_steps: Mapping[str, frozenset[int]] = field(default_factory=dict[str, frozenset[int]])
    """By run id, the steps at which its state is kept for runs that leave it there."""
    alike_at_first: Mapping[str, tuple[str, ...]] = field(default_factory=dict[str, tuple[str, ...]])
    """By run id, the runs that are evaluated alike before their first step, itself among them: first_evaluation.py."""

    executor: str = "inline"
    """What trains them, for their provenance."""
    elsewhere: bool = False
    """Whether that is on other machines than the coordinator's, of which alone their numerics are known."""
    accept_other_numerics: bool = False
    scratch: Path | None = None
    """A folder of each machine's own in which to train, if any."""
    plugins: tuple[Plugin, ...] = field(default_factory=plugins_in_use)
    """Parts of one's own that the study may name, for its worker processes."""

    def kept_at(self, config: RunConfig) -> frozenset[int]:
        """Those of one run."""
        return self.kept_steps.get(run_id(config), frozenset())

    def kernels(self, precision: Precision) -> Kernels:
        """The kernels for stacks of a precision."""
        return kernels_for(COMPUTE_DTYPES[precision], self.device, compiled=self.compiled, threads=self.threads)

    def numerics(self, precision: Precision) -> Numerics:
        """The numerics of stacks of a precision."""
        kernels = self.kernels(precision).name
        return numerics_here(self.device, kernels, threads=self.threads, stack=self.stack, ranks=self.ranks)
