"""nanoGPT's GPT-2 over a member axis: a pre-norm transformer with learned positions, exact GELU and a tied head."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import groupby

import torch
import torch.nn.functional as F
from torch import Tensor

from isoloss.model.layers import Dropout, causal_attention, embedding, layer_norm, linear
from isoloss.model.parameters import Parameters
from isoloss.spec.config import RunConfig


def logits(
    parameters: Parameters, members: Sequence[RunConfig], tokens_ExBxT: Tensor, dropout: Dropout | None = None
) -> Tensor:
    """Next-token logits of every member on its own tokens, fp32 of shape [E, B, T, V].

    `members` are the configurations of the stack, those of equal n_head side by side. Matrix products run in the
    parameters' compute dtype; the residual stream, norms, softmax and logits are fp32.
    """
    weights = parameters.leaves
    dtype = parameters.compute_dtype
    E, B, T = tokens_ExBxT.shape
    C = members[0].n_embd
    places = iter(range(1 + 3 * members[0].n_layer))

    def dropped(x_ExNxC: Tensor) -> Tensor:
        mask = None if dropout is None else dropout.mask(next(places), (T, C))
        return x_ExNxC if mask is None else x_ExNxC * mask.view(E, B * T, C)

    def project(x_ExNxI: Tensor, name: str) -> Tensor:
        return linear(x_ExNxI.to(dtype), weights[f"{name}.weight"], weights.get(f"{name}.bias"))

    def norm(x_ExNxC: Tensor, name: str) -> Tensor:
        return layer_norm(x_ExNxC, weights[f"{name}.weight"], weights.get(f"{name}.bias"))

    x_ExBxTxC = embedding(tokens_ExBxT, weights["wte.weight"]) + weights["wpe.weight"][:, None, :T]
    x_ExNxC = dropped(x_ExBxTxC.view(E, B * T, C))
    for i in range(members[0].n_layer):
        qkv_ExNx3C = project(norm(x_ExNxC, f"h.{i}.ln_1"), f"h.{i}.attn.c_attn")
        y_ExNxC = _attention(qkv_ExNx3C.view(E, B, T, 3 * C), members, dropout, next(places)).view(E, B * T, C)
        x_ExNxC = x_ExNxC + dropped(project(y_ExNxC, f"h.{i}.attn.c_proj").float())
        hidden_ExNx4C = F.gelu(project(norm(x_ExNxC, f"h.{i}.ln_2"), f"h.{i}.mlp.c_fc"))
        x_ExNxC = x_ExNxC + dropped(project(hidden_ExNx4C, f"h.{i}.mlp.c_proj").float())
    head_ExVxC = weights["wte.weight"].to(dtype)
    return linear(norm(x_ExNxC, "ln_f").to(dtype), head_ExVxC).float().view(E, B, T, -1)


def loss(
    parameters: Parameters, members: Sequence[RunConfig], blocks_ExBxT1: Tensor, dropout: Dropout | None = None
) -> Tensor:
    """Mean cross-entropy in nats a token of every member, fp32 of shape [E], on blocks of T+1 tokens."""
    logits_ExBxTxV = logits(parameters, members, blocks_ExBxT1[..., :-1], dropout)
    targets_ExBxT = blocks_ExBxT1[..., 1:]
    losses = F.cross_entropy(logits_ExBxTxV.flatten(0, 2), targets_ExBxT.flatten(), reduction="none")
    return losses.view(len(members), -1).mean(dim=1)


def head_groups(members: Sequence[RunConfig]) -> Iterator[tuple[slice, int]]:
    """Slices of neighbouring members that share n_head, with their n_head."""
    start = 0
    for n_head, group in groupby(config.n_head for config in members):
        stop = start + len(list(group))
        yield slice(start, stop), n_head
        start = stop


def _attention(qkv_ExBxTx3C: Tensor, members: Sequence[RunConfig], dropout: Dropout | None, place: int) -> Tensor:
    T = qkv_ExBxTx3C.shape[2]
    outputs: list[Tensor] = []
    for group, n_head in head_groups(members):
        mask = None if dropout is None else dropout.mask(place, (n_head, T, T), group)
        outputs.append(causal_attention(qkv_ExBxTx3C[group], n_head, mask))
    return outputs[0] if len(outputs) == 1 else torch.cat(outputs)
