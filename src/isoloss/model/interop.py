"""A member's weights under other people's names: nanoGPT's, GPT-2's and Llama's as Hugging Face stores them."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor

from isoloss.errors import ConfigError
from isoloss.model.parameters import layout_of
from isoloss.study.compute import attended_length
from isoloss.study.config import RunConfig

PREFIX = "transformer."
PROJECTIONS = ("c_attn.weight", "c_proj.weight", "c_fc.weight")
"""Ends of the names of what GPT-2 stores [in, out]."""
GPT2_PARTS: Mapping[str, object] = {
    "norm": "layernorm", "position": "learned", "mlp": "gelu", "qk_norm": False, "parametrization": "standard",
}  # fmt: skip
LLAMA_PARTS: Mapping[str, object] = {
    "norm": "rmsnorm", "position": "rope", "mlp": "swiglu", "qk_norm": False, "bias": False,
    "parametrization": "standard",
}  # fmt: skip


def is_llama(config: RunConfig) -> bool:
    """Whether transformers' LlamaForCausalLM computes what this model does."""
    return not _others(config, LLAMA_PARTS)


def check_gpt2(config: RunConfig, target: str, *, tied: bool) -> None:
    """Raises ConfigError with the settings GPT-2's model has no counterpart of; `tied`: nor of a head of its own."""
    others = _others(config, GPT2_PARTS)
    if config.n_kv_head not in (None, config.n_head):
        others.append("n_kv_head")
    if tied and not config.tie_embeddings:
        others.append("tie_embeddings")
    if others:
        stated = ", ".join(f"{name}={getattr(config, name)}" for name in others)
        raise ConfigError(
            f"{target} has no model with {stated}; --to hf opens GPT-2's and Llama's parts", tuple(others)
        )


def _others(config: RunConfig, parts: Mapping[str, object]) -> list[str]:
    """The settings in which a model differs from these parts, or sees less than the whole block."""
    differ = [name for name, part in parts.items() if getattr(config, name) != part]
    return differ + (["window"] if attended_length(config) < config.block_size else [])


def nanogpt_order(config: RunConfig) -> list[str]:
    """Our names of all parameters in the order in which nanoGPT's modules hold them."""
    block = ("ln_1", "attn.c_attn", "attn.c_proj", "ln_2", "mlp.c_fc", "mlp.c_proj")
    modules = ["wte", "wpe", *(f"h.{i}.{name}" for i in range(config.n_layer) for name in block), "ln_f"]
    known = {slot.name for slot in layout_of(config).slots}
    names = [f"{module}.{kind}" for module in modules for kind in ("weight", "bias")]
    return [name for name in names if name in known]


def to_nanogpt(config: RunConfig, tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    """The state_dict of nanoGPT's GPT; projections stay [out, in]. Tensors are shared, the tied head is wte itself.

    `tensors` are named and shaped as by `Layout.split`. Raises KeyError when one is missing, ConfigError for a model
    that is none of nanoGPT's.
    """
    check_gpt2(config, "nanoGPT", tied=True)
    state = {PREFIX + name: tensors[name] for name in nanogpt_order(config)}
    return state | {"lm_head.weight": tensors["wte.weight"]}


def to_gpt2(config: RunConfig, tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    """The weights of transformers' GPT2LMHeadModel: projections [in, out], a zero bias where ours has none.

    A head that is tied to wte is left out. `tensors` are named and shaped as by `Layout.split`. Raises KeyError when
    one is missing, ConfigError for a model that is not GPT-2's.
    """
    check_gpt2(config, "GPT-2", tied=False)
    weights: dict[str, Tensor] = {} if config.tie_embeddings else {"lm_head.weight": tensors["lm_head.weight"]}
    for name in nanogpt_order(config):
        module, tensor = name.rpartition(".")[0], tensors[name]
        weights[PREFIX + name] = tensor.T.contiguous() if name.endswith(PROJECTIONS) else tensor
        if not config.bias and module not in ("wte", "wpe"):
            weights[f"{PREFIX}{module}.bias"] = torch.zeros(tensor.shape[0])
    return weights


def to_llama(config: RunConfig, tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    """The weights of transformers' LlamaForCausalLM, of a model whose parts are LLAMA_PARTS; likewise."""
    weights = {"model.embed_tokens.weight": tensors["wte.weight"], "model.norm.weight": tensors["ln_f.weight"]}
    if not config.tie_embeddings:
        weights["lm_head.weight"] = tensors["lm_head.weight"]
    size = config.n_embd // config.n_head
    rows = [config.n_embd, *2 * [(config.n_kv_head or config.n_head) * size]]
    for i in range(config.n_layer):
        ours, theirs = f"h.{i}", f"model.layers.{i}"
        for name, part in zip("qkv", tensors[f"{ours}.attn.c_attn.weight"].split(rows), strict=True):
            weights[f"{theirs}.self_attn.{name}_proj.weight"] = part.contiguous()
        gate, up = (part.contiguous() for part in tensors[f"{ours}.mlp.c_fc.weight"].chunk(2))
        weights |= {
            f"{theirs}.self_attn.o_proj.weight": tensors[f"{ours}.attn.c_proj.weight"],
            f"{theirs}.mlp.gate_proj.weight": gate,
            f"{theirs}.mlp.up_proj.weight": up,
            f"{theirs}.mlp.down_proj.weight": tensors[f"{ours}.mlp.c_proj.weight"],
            f"{theirs}.input_layernorm.weight": tensors[f"{ours}.ln_1.weight"],
            f"{theirs}.post_attention_layernorm.weight": tensors[f"{ours}.ln_2.weight"],
        }
    return weights
