"""Names and shapes of a model's parameters, from its configuration: what is counted, laid out and exported.

Names are GPT-2's (`h.0.attn.c_attn.weight`), matrices are output × input as nanoGPT's are. Queries, keys and values are
rows of one matrix, and so are the gate and the hidden channels of a SwiGLU.
"""

from __future__ import annotations

from collections.abc import Mapping
from math import prod

from isoloss.study.config import RunConfig
from isoloss.study.parts import mlp_of, position_of

Shapes = Mapping[str, tuple[int, ...]]
GATED_MULTIPLE = 8
"""The hidden width of a gated MLP is a multiple of this."""


def hidden_width(config: RunConfig) -> int:
    """Hidden channels of the MLP: 4·n_embd, and of a gated one's three matrices 8/3·n_embd to a multiple of 8.

    So their parameters match (Shazeer 2020), to 0.8% at 128 channels and 0.4% at 256.
    """
    if not mlp_of(config.mlp).gated:
        return 4 * config.n_embd
    return max(1, round(8 * config.n_embd / 3 / GATED_MULTIPLE)) * GATED_MULTIPLE


def qkv_rows(config: RunConfig) -> int:
    """Rows of a block's queries, keys and values together."""
    n_kv_head = config.n_kv_head or config.n_head
    return config.n_embd + 2 * n_kv_head * (config.n_embd // config.n_head)


def matrices_of_a_block(config: RunConfig) -> dict[str, tuple[int, int]]:
    """The matrices of one block, by their names in it."""
    width, hidden = config.n_embd, hidden_width(config)
    return {
        "attn.c_attn.weight": (qkv_rows(config), width),
        "attn.c_proj.weight": (width, width),
        "mlp.c_fc.weight": (2 * hidden if mlp_of(config.mlp).gated else hidden, width),
        "mlp.c_proj.weight": (width, hidden),
    }


def block_matrices(config: RunConfig) -> dict[str, tuple[int, int]]:
    """The matrices of all blocks."""
    of_block = matrices_of_a_block(config)
    return {f"h.{i}.{name}": shape for i in range(config.n_layer) for name, shape in of_block.items()}


def head(config: RunConfig) -> dict[str, tuple[int, int]]:
    """The output matrix, where it is not the token embedding."""
    return {} if config.tie_embeddings else {"lm_head.weight": (config.vocab_size, config.n_embd)}


def embeddings(config: RunConfig) -> dict[str, tuple[int, int]]:
    """The tables of tokens and of learned positions."""
    tables = {"wte.weight": (config.vocab_size, config.n_embd)}
    return tables | ({"wpe.weight": (config.block_size, config.n_embd)} if position_of(config.position).learned else {})


def vectors(config: RunConfig) -> dict[str, tuple[int]]:
    """Scales of norms and, with `bias`, what is added in norms and in linear layers but the head."""
    norms = [f"h.{i}.{name}" for i in range(config.n_layer) for name in ("ln_1", "ln_2")] + ["ln_f"]
    found = {f"{name}.weight": (config.n_embd,) for name in norms}
    if config.bias:
        found |= {f"{name}.bias": (config.n_embd,) for name in norms}
        found |= {f"{name.removesuffix('weight')}bias": shape[:1] for name, shape in block_matrices(config).items()}
    return found


def count(shapes: Shapes) -> int:
    """Numbers in all of them."""
    return sum(map(prod, shapes.values()))
