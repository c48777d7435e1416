"""Parameters of a stack and their gradients: flat buffers, and a view for every tensor.

`study/shapes.py` names them. The flat order is block matrices, a head that is not tied, token embedding, position
embedding, vectors. Its prefixes are the M parameters with a low-precision copy (the matrices and the head, which a tied
token embedding is), those with weight decay (all but the vectors), and all P. The head is padded with rows of zeros,
because one of 65 rows is slow to multiply by.
"""

from __future__ import annotations

from dataclasses import dataclass
from math import prod

import numpy as np
import torch
from torch import Tensor

from isoloss.model.functions import Kernels
from isoloss.randomness import Purpose, generator
from isoloss.study import shapes
from isoloss.study.config import RunConfig
from isoloss.study.parametrization import INIT_STD, scales
from isoloss.study.shapes import block_matrices, embeddings, vectors

HEAD = "lm_head"
HEAD_ROW_MULTIPLE = 8
"""The head is padded to a multiple of this many rows."""


@dataclass(frozen=True)
class Slot:
    """The range of one tensor of `shape` in a member's flat parameters."""

    name: str
    start: int
    shape: tuple[int, ...]

    @property
    def stop(self) -> int:
        """End of the tensor in the flat order, exclusive."""
        return self.start + prod(self.shape)


@dataclass(frozen=True)
class Layout:
    """All tensors of one shape of GPT in flat order, with the ends of its prefixes."""

    slots: tuple[Slot, ...]
    matrix_end: int
    head_end: int
    decay_end: int
    tied: bool

    @property
    def size(self) -> int:
        """P, the number of parameters of a member and its padding."""
        return self.slots[-1].stop

    def split(self, flat_P: Tensor) -> dict[str, Tensor]:
        """Named views of one member's flat tensor of shape [P]."""
        return {slot.name: flat_P[slot.start : slot.stop].view(slot.shape) for slot in self.slots}

    def join(self, tensors: dict[str, Tensor]) -> Tensor:
        """Inverse of `split`, as a new tensor of shape [P]. Raises KeyError or RuntimeError when they do not fit."""
        flat_P = torch.zeros(self.size)
        for slot in self.slots:
            flat_P[slot.start : slot.stop].view(slot.shape).copy_(tensors[slot.name].reshape(slot.shape))
        return flat_P


def layout_of(config: RunConfig) -> Layout:
    """The flat order of the parameters of a GPT of this shape."""
    matrices, head = block_matrices(config), shapes.head(config)
    padded = f"{HEAD}.weight" if head else "wte.weight"
    padding = -config.vocab_size % HEAD_ROW_MULTIPLE * config.n_embd
    slots: list[Slot] = []
    start = 0
    for name, shape in {**matrices, **head, **embeddings(config), **vectors(config)}.items():
        slots.append(Slot(name, start, shape))
        start = slots[-1].stop + (padding if name == padded else 0)
    ends = {slot.name: slot.stop for slot in slots}
    tables = [slot for slot in slots if slot.name in embeddings(config)]
    return Layout(
        tuple(slots),
        matrix_end=slots[len(matrices)].start,
        head_end=ends[padded] + padding,
        decay_end=max(tables[-1].stop, ends[padded] + padding),
        tied=config.tie_embeddings,
    )


def init_flat(config: RunConfig) -> Tensor:
    """Fresh parameters of one member, fp32 of shape [P]: a pure function of the seed of weights and the shape.

    GPT-2's initialisation: N(0, 0.02), residual projections N(0, 0.02/√(2·n_layer)), norms 1, biases 0; other
    parametrizations scale that of matrices.
    """
    layout, scale = layout_of(config), scales(config)
    flat_P = torch.zeros(layout.size)
    for index, slot in enumerate(layout.slots):
        view = flat_P[slot.start : slot.stop]
        if len(slot.shape) == 2:
            std = INIT_STD
            if slot.stop <= layout.matrix_end:
                std = scale.projection_std if slot.name.endswith("c_proj.weight") else scale.matrix_std
            drawn = generator(config.seed_of_weights, Purpose.INIT, index).standard_normal(len(view), dtype=np.float32)
            view.copy_(torch.from_numpy(drawn)).mul_(std)
        elif slot.name.endswith("weight"):
            view.fill_(1.0)
    return flat_P


class Parameters:
    """The parameters of a stack of E members, ready for a forward and backward pass.

    `flat_ExP` are the fp32 master weights. `weights[name]`, of shape [E, *shape], is what the model reads: a view of
    them, or for block matrices and HEAD under low-precision kernels a view of the copy that each update renews.
    """

    def __init__(self, layout: Layout, flat_ExP: Tensor, kernels: Kernels) -> None:
        self.layout = layout
        self.flat_ExP = flat_ExP
        self.kernels = kernels
        self.low_precision = kernels.dtype != torch.float32
        self.low_ExM = flat_ExP[:, : layout.head_end].to(kernels.dtype)
        self.weights = {name: view.requires_grad_() for name, view in _views(layout, self.low_ExM, flat_ExP).items()}


class Gradients:
    """The gradients of one micro-batch and their sum over a step.

    `parts[name]` is the `.grad` of `Parameters.weights[name]`, where a backward pass writes or adds; `total_ExP` is
    fp32, in the flat order.
    """

    def __init__(self, parameters: Parameters) -> None:
        self._layout = parameters.layout
        self.total_ExP = torch.zeros_like(parameters.flat_ExP)
        self._low_ExM = torch.zeros_like(parameters.low_ExM)
        self._rest_ExP = torch.zeros_like(parameters.flat_ExP)
        self.parts = _views(self._layout, self._low_ExM, self._rest_ExP)
        for name, weight in parameters.weights.items():
            weight.grad = self.parts[name]

    def begin(self) -> None:
        """Zero the gradients to which a backward pass adds; those of matrices it overwrites."""
        self._rest_ExP[:, self._layout.matrix_end :].zero_()

    def collect(self, *, first: bool) -> None:
        """Add the micro-batch's gradients to the total, or replace the total by them for a step's first."""
        matrix_end, head_end = self._layout.matrix_end, self._layout.head_end
        low, rest = self.total_ExP[:, :head_end], self.total_ExP[:, head_end:]
        if first:
            low.copy_(self._low_ExM)
            rest.copy_(self._rest_ExP[:, head_end:])
        else:
            low.add_(self._low_ExM)
            rest.add_(self._rest_ExP[:, head_end:])
        if self._layout.tied:
            low[:, matrix_end:].add_(self._rest_ExP[:, matrix_end:head_end])  # the table as an embedding


def _views(layout: Layout, low_ExM: Tensor, rest_ExP: Tensor) -> dict[str, Tensor]:
    """Every tensor of a stack by name: matrices and HEAD in the first buffer, all else in the second."""
    views: dict[str, Tensor] = {}
    for slot in layout.slots:
        source = low_ExM if slot.stop <= layout.matrix_end else rest_ExP
        views[slot.name] = source[:, slot.start : slot.stop].view(len(source), *slot.shape)
    width = layout.slots[0].shape[1]
    views[f"{HEAD}.weight"] = low_ExM[:, layout.matrix_end : layout.head_end].view(len(low_ExM), -1, width)
    return views
