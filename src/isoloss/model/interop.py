"""A member's weights under other people's names: nanoGPT's, and GPT-2's as Hugging Face stores it."""

from __future__ import annotations

import torch
from torch import Tensor

from isoloss.model.parameters import layout_of
from isoloss.study.config import RunConfig

PREFIX = "transformer."
PROJECTIONS = ("c_attn.weight", "c_proj.weight", "c_fc.weight")
"""Ends of the names of what GPT-2 stores [in, out]."""


def nanogpt_order(config: RunConfig) -> list[str]:
    """Our names of all parameters in the order in which nanoGPT's modules hold them."""
    block = ("ln_1", "attn.c_attn", "attn.c_proj", "ln_2", "mlp.c_fc", "mlp.c_proj")
    modules = ["wte", "wpe", *(f"h.{i}.{name}" for i in range(config.n_layer) for name in block), "ln_f"]
    known = {slot.name for slot in layout_of(config).slots}
    names = [f"{module}.{kind}" for module in modules for kind in ("weight", "bias")]
    return [name for name in names if name in known]


def to_nanogpt(config: RunConfig, tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    """The state_dict of nanoGPT's GPT; projections stay [out, in]. Tensors are shared, the tied head is wte itself.

    `tensors` are named and shaped as by `Layout.split`. Raises KeyError when one is missing.
    """
    state = {PREFIX + name: tensors[name] for name in nanogpt_order(config)}
    return state | {"lm_head.weight": tensors["wte.weight"]}


def to_gpt2(config: RunConfig, tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    """The weights of transformers' GPT2LMHeadModel: projections [in, out], a zero bias where ours has none.

    The head is left out, for it is tied to wte. `tensors` are named and shaped as by `Layout.split`. Raises KeyError
    when one is missing.
    """
    weights: dict[str, Tensor] = {}
    for name in nanogpt_order(config):
        module, tensor = name.rpartition(".")[0], tensors[name]
        weights[PREFIX + name] = tensor.T.contiguous() if name.endswith(PROJECTIONS) else tensor
        if not config.bias and module not in ("wte", "wpe"):
            weights[f"{PREFIX}{module}.bias"] = torch.zeros(tensor.shape[0])
    return weights
