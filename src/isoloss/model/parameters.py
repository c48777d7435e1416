"""Parameters of a stack and their gradients: flat buffers, and a view for every tensor.

Names are GPT-2's (`h.0.attn.c_attn.weight`), weights are stored output × input as nanoGPT's are. The flat order is
block matrices, token embedding, position embedding, vectors. Its prefixes are the M parameters with a low-precision
copy (the matrices, and the token embedding as the tied head), those with weight decay (all but the vectors), and all P.
The token embedding is padded with rows of zeros, because a head of 65 rows is slow to multiply by.
"""

from __future__ import annotations

from dataclasses import dataclass
from math import prod, sqrt

import numpy as np
import torch
from torch import Tensor

from isoloss.model.functions import Kernels
from isoloss.randomness import Purpose, generator
from isoloss.study.config import RunConfig

INIT_STD = 0.02
HEAD = "lm_head"
HEAD_ROW_MULTIPLE = 8
"""The token embedding is padded to a multiple of this many rows."""


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
    width, blocks = config.n_embd, [f"h.{i}" for i in range(config.n_layer)]
    matrices = {
        f"{block}.{name}.weight": shape
        for block in blocks
        for name, shape in {
            "attn.c_attn": (3 * width, width),
            "attn.c_proj": (width, width),
            "mlp.c_fc": (4 * width, width),
            "mlp.c_proj": (width, 4 * width),
        }.items()
    }
    embeddings = {"wte.weight": (config.vocab_size, width), "wpe.weight": (config.block_size, width)}
    padding = -config.vocab_size % HEAD_ROW_MULTIPLE * width
    norms = [f"{block}.{name}" for block in blocks for name in ("ln_1", "ln_2")] + ["ln_f"]
    vectors = {f"{name}.weight": (width,) for name in norms}
    if config.bias:
        vectors |= {f"{name}.bias": (width,) for name in norms}
        vectors |= {name.removesuffix("weight") + "bias": shape[:1] for name, shape in matrices.items()}
    slots: list[Slot] = []
    for name, shape in {**matrices, **embeddings, **vectors}.items():
        start = slots[-1].stop if slots else 0
        slots.append(Slot(name, start + padding if name == "wpe.weight" else start, shape))
    wte, wpe = slots[len(matrices) : len(matrices) + 2]
    return Layout(tuple(slots), matrix_end=wte.start, head_end=wpe.start, decay_end=wpe.stop)


def init_flat(config: RunConfig) -> Tensor:
    """Fresh parameters of one member, fp32 of shape [P]: a pure function of the seed of weights and the shape.

    GPT-2's initialisation: N(0, 0.02), residual projections N(0, 0.02/√(2·n_layer)), norms 1, biases 0.
    """
    layout = layout_of(config)
    flat_P = torch.zeros(layout.size)
    for index, slot in enumerate(layout.slots):
        view = flat_P[slot.start : slot.stop]
        if len(slot.shape) == 2:
            std = INIT_STD / sqrt(2 * config.n_layer) if slot.name.endswith("c_proj.weight") else INIT_STD
            drawn = generator(config.seed_of_weights, Purpose.INIT, index).standard_normal(len(view), dtype=np.float32)
            view.copy_(torch.from_numpy(drawn)).mul_(std)
        elif slot.name.endswith("weight"):
            view.fill_(1.0)
    return flat_P


class Parameters:
    """The parameters of a stack of E members, ready for a forward and backward pass.

    `flat_ExP` are the fp32 master weights. `weights[name]`, of shape [E, *shape], is what the model reads: a view of
    them, or for block matrices and HEAD under low-precision kernels a view of the copy that AdamW's update renews.
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
        low[:, matrix_end:].add_(self._rest_ExP[:, matrix_end:head_end])  # the tied table as an embedding


def _views(layout: Layout, low_ExM: Tensor, rest_ExP: Tensor) -> dict[str, Tensor]:
    """Every tensor of a stack by name: matrices and HEAD in the first buffer, all else in the second."""
    views: dict[str, Tensor] = {}
    for slot in layout.slots:
        source = low_ExM if slot.stop <= layout.matrix_end else rest_ExP
        views[slot.name] = source[:, slot.start : slot.stop].view(len(source), *slot.shape)
    width = layout.slots[0].shape[1]
    views[f"{HEAD}.weight"] = low_ExM[:, layout.matrix_end : layout.head_end].view(len(low_ExM), -1, width)
    return views
