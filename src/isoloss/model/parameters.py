"""Parameters of a stack: one flat fp32 buffer, a view of it for every tensor, and the gradients' way back.

Names are GPT-2's (`h.0.attn.c_attn.weight`), weights are stored output × input as nanoGPT's are. The flat order is
block matrices, embeddings, vectors, so that three prefixes matter: what has a low-precision shadow (the matrices),
what is decayed (matrices and embeddings), everything.
"""

from __future__ import annotations

from dataclasses import dataclass
from math import prod, sqrt

import numpy as np
import torch
from torch import Tensor

from isoloss.randomness import Purpose, generator
from isoloss.spec.config import RunConfig

INIT_STD = 0.02


@dataclass(frozen=True)
class Slot:
    """Where one tensor of `shape` lies in a member's flat parameters."""

    name: str
    start: int
    shape: tuple[int, ...]

    @property
    def stop(self) -> int:
        """End of the tensor in the flat order, exclusive."""
        return self.start + prod(self.shape)


@dataclass(frozen=True)
class Layout:
    """All tensors of one shape of GPT in flat order, with the ends of the matrix and decay prefixes."""

    slots: tuple[Slot, ...]
    matrix_end: int
    decay_end: int

    @property
    def size(self) -> int:
        """P, the number of parameters of a member."""
        return self.slots[-1].stop

    def split(self, flat_P: Tensor) -> dict[str, Tensor]:
        """Named views of one member's flat tensor of shape [P]."""
        return {slot.name: flat_P[slot.start : slot.stop].view(slot.shape) for slot in self.slots}

    def join(self, tensors: dict[str, Tensor]) -> Tensor:
        """Inverse of `split`, as a new tensor of shape [P]. Raises KeyError or RuntimeError when they do not fit."""
        return torch.cat([tensors[slot.name].reshape(slot.shape).reshape(-1) for slot in self.slots])


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
    norms = [f"{block}.{name}" for block in blocks for name in ("ln_1", "ln_2")] + ["ln_f"]
    vectors = {f"{name}.weight": (width,) for name in norms}
    if config.bias:
        vectors |= {f"{name}.bias": (width,) for name in norms}
        vectors |= {name.removesuffix("weight") + "bias": shape[:1] for name, shape in matrices.items()}
    slots: list[Slot] = []
    for name, shape in {**matrices, **embeddings, **vectors}.items():
        slots.append(Slot(name, slots[-1].stop if slots else 0, shape))
    return Layout(tuple(slots), slots[len(matrices) - 1].stop, slots[len(matrices) + 1].stop)


def init_flat(config: RunConfig) -> Tensor:
    """Fresh parameters of one member, fp32 of shape [P]: a pure function of the seed and the shape.

    GPT-2's initialisation: N(0, 0.02), residual projections N(0, 0.02/√(2·n_layer)), norms 1, biases 0.
    """
    layout = layout_of(config)
    flat_P = torch.zeros(layout.size)
    for index, slot in enumerate(layout.slots):
        view = flat_P[slot.start : slot.stop]
        if len(slot.shape) == 2:
            std = INIT_STD / sqrt(2 * config.n_layer) if slot.name.endswith("c_proj.weight") else INIT_STD
            drawn = generator(config.seed, Purpose.INIT, index).standard_normal(len(view), dtype=np.float32)
            view.copy_(torch.from_numpy(drawn)).mul_(std)
        elif slot.name.endswith("weight"):
            view.fill_(1.0)
    return flat_P


class Parameters:
    """The parameters of a stack of E members, ready for a forward and backward pass.

    `flat_ExP` is the fp32 truth. `leaves[name]` has shape [E, *shape] and is what the model reads: a view of the
    truth, or for block matrices under a low-precision `compute_dtype` a view of a shadow that `refresh` renews.
    """

    def __init__(self, layout: Layout, flat_ExP: Tensor, compute_dtype: torch.dtype) -> None:
        self.layout = layout
        self.flat_ExP = flat_ExP
        self.compute_dtype = compute_dtype
        n_members = len(flat_ExP)
        matrices = flat_ExP[:, : layout.matrix_end]
        self._shadow = None if compute_dtype == torch.float32 else torch.empty_like(matrices, dtype=compute_dtype)
        self.leaves: dict[str, Tensor] = {}
        for slot in layout.slots:
            source = flat_ExP if self._shadow is None or slot.stop > layout.matrix_end else self._shadow
            leaf = source[:, slot.start : slot.stop].view(n_members, *slot.shape).detach()
            self.leaves[slot.name] = leaf.requires_grad_()
        self.refresh()

    def refresh(self) -> None:
        """Renew the low-precision shadow after `flat_ExP` changed."""
        if self._shadow is not None:
            self._shadow.copy_(self.flat_ExP[:, : self.layout.matrix_end])

    def move_gradients(self, grad_ExP: Tensor, *, add: bool) -> None:
        """Move the leaves' gradients into `grad_ExP` (fp32), adding to it or replacing it."""
        with torch.no_grad():
            for slot in self.layout.slots:
                leaf = self.leaves[slot.name]
                assert leaf.grad is not None, slot.name
                target = grad_ExP[:, slot.start : slot.stop].view(leaf.shape)
                if add:
                    target.add_(leaf.grad)
                else:
                    target.copy_(leaf.grad)
                leaf.grad = None
