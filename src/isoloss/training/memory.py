"""Memory that a stack takes on an accelerator, from one step and one evaluation of it on tensors without data.

On torch's meta device operations compute shapes alone: nothing is allocated, and no accelerator is needed. What a
kernel allocates inside itself is not seen.
"""

from __future__ import annotations

import weakref
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from isoloss.data.token_files import Tokens
from isoloss.data.tokenizer import Tokenizer, token_dtype
from isoloss.model.functions import Kernels
from isoloss.model.parameters import Parameters, layout_of
from isoloss.study.config import RunConfig
from isoloss.study.datasets import dataset_of
from isoloss.study.parts import optimizer_of
from isoloss.study.texts import DataFacts
from isoloss.training.distributed import Ranks
from isoloss.training.evaluate import DeviceTokens, split_loss
from isoloss.training.state import COMPUTE_DTYPES, Progress, StackState
from isoloss.training.step import Stepper

ALLOCATION_BYTES = 512
"""What torch gives out of an accelerator's memory is a multiple of this."""
CONTEXT_BYTES = 1 << 30
"""What CUDA takes beside tensors, for kernels as they load and workspaces of matrix products: not measured."""

WITHOUT_SHAPES = (torch.ops.aten._fused_adamw_.tensor_lr,)
"""Operations that work in place, return nothing and have no kernel for tensors without data."""


@dataclass(frozen=True)
class StackMemory:
    """Bytes that a stack holds between steps, and what a step and an evaluation take besides at their heights.

    `saved` are copies of states: those that are being written, and the best so far that wait for it.
    """

    held: int
    step: int
    evaluation: int
    saved: int

    @property
    def peak(self) -> int:
        """The most at one time, CUDA's own share included.

        A captured step keeps its memory during evaluations. It has given it up when some members have ended and the
        others are copied.
        """
        return CONTEXT_BYTES + self.held + self.saved + max(self.step + self.evaluation, self.held)


def stack_memory(members: Sequence[RunConfig], data: DataFacts, device: torch.device | None = None) -> StackMemory:
    """The memory of a stack of these runs on an accelerator, with the text; nothing is allocated for it.

    Members that differ in nothing but their number may be the same run repeated.
    """
    config, device = members[0], device or torch.device("meta")
    of, dtype = data.of(dataset_of(config)), token_dtype(config.vocab_size)
    val_tokens = sum(of.val_parts.lengths) if of.val_parts else of.val_tokens
    train_N, val_N = (np.empty(n or 0, dtype) for n in (of.train_tokens, val_tokens))
    with _Allocations() as allocations, torch.no_grad():
        texts = DeviceTokens(Tokens("", Tokenizer("byte"), train_N, val_N, Path()), device)
        size, averaged = layout_of(config).size, [member for member in members if member.ema]
        names = optimizer_of(config.optimizer).moments
        flat_ExP, *moments = (torch.empty(len(members), size, device=device) for _ in range(1 + len(names)))
        averages_AxP = torch.empty(len(averaged), size, device=device)
        kernels = Kernels(COMPUTE_DTYPES[config.precision])
        parameters = Parameters(layout_of(config), flat_ExP, kernels)
        progress = [Progress() for _ in members]
        stack = StackState(
            [*members], progress, parameters, dict(zip(names, moments, strict=True)), averages_AxP=averages_AxP
        )
        stepper = Stepper(stack, texts.train_N, Ranks())
        stepper.fill_tables()
        held = allocations.begin()
        stepper.step()
        step = allocations.peak - held
        allocations.begin()
        at_positions_ExT = torch.zeros(len(members), config.block_size, device=device)
        for split in range(2):
            split_loss(parameters, members, 0, texts, split, Ranks(), lambda: False, at_positions_ExT)  # a chunk
            if averaged:  # of which a copy in low precision is made
                averages = Parameters(stack.layout, averages_AxP, kernels)
                split_loss(averages, averaged, 0, texts, split, Ranks(), lambda: False)
        state = sum(tensor.numel() for tensor in (flat_ExP, *moments, averages_AxP)) * flat_ExP.element_size()
        return StackMemory(held, step, allocations.peak - held, saved=2 * state)


class _Allocations(TorchDispatchMode):
    """Bytes of the tensors there are on other devices than the CPU, and the most there were at one time."""

    def __init__(self) -> None:
        super().__init__()
        self.peak = self._now = 0
        self._sizes: dict[int, int] = {}

    def begin(self) -> int:
        """Bytes now, from which on the peak counts."""
        self.peak = self._now
        return self._now

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        result = None if func in WITHOUT_SHAPES else func(*args, **(kwargs or {}))
        for tensor in tree_leaves(result):
            if isinstance(tensor, Tensor) and tensor.device.type != "cpu":
                self._count(tensor.untyped_storage())
        return result

    def _count(self, storage: torch.UntypedStorage) -> None:
        key = storage._cdata
        if key not in self._sizes:
            self._sizes[key] = -(-storage.nbytes() // ALLOCATION_BYTES) * ALLOCATION_BYTES
            self._now += self._sizes[key]
            self.peak = max(self.peak, self._now)
            weakref.finalize(storage, self._forget, key)

    def _forget(self, key: int) -> None:
        self._now -= self._sizes.pop(key)
