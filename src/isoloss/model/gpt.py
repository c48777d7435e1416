"""nanoGPT's GPT-2 over a member axis: a pre-norm transformer with learned positions, exact GELU and a tied head.

The backward pass is written by hand, so that gradients are written to the buffers the optimizer reads, dropout masks
are computed again instead of stored, and a captured step has no autograd graph. tests/test_parity.py compares both with
a plain model under autograd.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from isoloss.model.attention import Attended, attention, attention_backward
from isoloss.model.dropout import Mask, n_places
from isoloss.model.kernels import Normed
from isoloss.model.layers import linear, linear_backward
from isoloss.model.parameters import HEAD, Gradients, Parameters
from isoloss.study.config import RunConfig


@dataclass(frozen=True)
class _Block:
    """What the backward pass needs of one block: its two norms, attention, GELU and its output."""

    norm_1: Normed
    attended: list[Attended]
    y_ExNxC: Tensor
    norm_2: Normed
    gelu_ExNx4C: Tensor
    activated_ExNx4C: Tensor


Attend = Callable[[int, Tensor], Tensor]
"""Attention's output [E, B, T, C] in a block, by the block's number and its qkv [E, B, T, 3C]."""


def logits(parameters: Parameters, members: Sequence[RunConfig], tokens_ExBxT: Tensor) -> Tensor:
    """Next-token logits of every member on its own tokens, fp32 of shape [E, B, T, V].

    `members` are the configurations of the stack, those of equal n_head side by side. Matrix products run in the
    parameters' compute dtype; the residual stream, norms and softmax are fp32.
    """
    norm_f, _ = _forward(parameters, members, tokens_ExBxT, None, keep=False)
    logits_ExNxW = linear(norm_f.out_ExNxC, parameters.weights[HEAD])
    return logits_ExNxW.float().unflatten(1, tokens_ExBxT.shape[1:])[..., : members[0].vocab_size]


def next_logits(
    parameters: Parameters, config: RunConfig, tokens_BxT: Tensor, attend: Attend, first_position: int
) -> Tensor:
    """One member's logits after the last token of B sequences, fp32 of shape [B, V].

    Positions are counted from `first_position`; keys and values of earlier tokens are kept by `attend`.
    """
    norm_f, _ = _forward(parameters, [config], tokens_BxT[None], None, attend, first_position, keep=False)
    last_1xBxC = norm_f.out_ExNxC.unflatten(1, tokens_BxT.shape)[:, :, -1]
    return linear(last_1xBxC, parameters.weights[HEAD])[0].float()[:, : config.vocab_size]


def loss(parameters: Parameters, members: Sequence[RunConfig], blocks_ExBxT1: Tensor) -> Tensor:
    """Mean cross-entropy in nats a token of every member, fp32 of shape [E], on blocks of T+1 tokens."""
    norm_f, _ = _forward(parameters, members, blocks_ExBxT1[..., :-1], None, keep=False)
    logits_ExNxW = linear(norm_f.out_ExNxC, parameters.weights[HEAD])
    targets_ExN = blocks_ExBxT1[..., 1:].flatten(1)
    total_E, _ = parameters.kernels.cross_entropy(logits_ExNxW, targets_ExN, members[0].vocab_size, None)
    return total_E / targets_ExN.shape[1]


def loss_and_gradients(
    parameters: Parameters,
    members: Sequence[RunConfig],
    blocks_ExBxT1: Tensor,
    masks: list[Mask] | None,
    scales_E: Tensor,
    gradients: Gradients,
) -> Tensor:
    """The mean loss as by `loss`, under dropout; sets `gradients.parts` to those of the loss times `scales_E`."""
    kernels = parameters.kernels
    tokens_ExBxT, targets_ExN = blocks_ExBxT1[..., :-1], blocks_ExBxT1[..., 1:].flatten(1)
    norm_f, blocks = _forward(parameters, members, tokens_ExBxT, masks, keep=True)
    logits_ExNxW = linear(norm_f.out_ExNxC, parameters.weights[HEAD])
    n_tokens = targets_ExN.shape[1]
    total_E, grad_ExNxW = kernels.cross_entropy(logits_ExNxW, targets_ExN, members[0].vocab_size, scales_E / n_tokens)
    _backward(parameters, members, tokens_ExBxT, masks, norm_f, blocks, grad_ExNxW, gradients)
    return total_E / n_tokens


def _forward(
    parameters: Parameters,
    members: Sequence[RunConfig],
    tokens_ExBxT: Tensor,
    masks: list[Mask] | None,
    attend: Attend | None = None,
    first_position: int = 0,
    *,
    keep: bool,
) -> tuple[Normed, list[_Block]]:
    """The final norm and, with `keep`, what the backward pass needs of every block.

    `attend` replaces causal attention among the given tokens.
    """
    weights, kernels = parameters.weights, parameters.kernels
    B, T = tokens_ExBxT.shape[1:]
    mask = (masks or [None] * n_places(members[0])).__getitem__

    def add_norm(x_ExNxC: Tensor, added_ExNxC: Tensor | None, place: int, name: str) -> Normed:
        bias_ExC = weights.get(f"{name}.bias")
        return kernels.add_norm(x_ExNxC, added_ExNxC, mask(place), weights[f"{name}.weight"], bias_ExC, B)

    def project(x_ExNxI: Tensor, name: str) -> Tensor:
        return linear(x_ExNxI, weights[f"{name}.weight"], weights.get(f"{name}.bias"))

    blocks: list[_Block] = []
    positions_ExTxC = weights["wpe.weight"][:, first_position:]
    x_ExNxC = kernels.embed(tokens_ExBxT, weights["wte.weight"], positions_ExTxC, mask(0))
    norm_1 = add_norm(x_ExNxC, None, 0, "h.0.ln_1")
    for i in range(members[0].n_layer):
        qkv_ExNx3C = project(norm_1.out_ExNxC, f"h.{i}.attn.c_attn")
        qkv_ExBxTx3C = qkv_ExNx3C.view(len(members), B, T, -1)
        if attend is None:
            y_ExBxTxC, attended = attention(kernels, members, qkv_ExBxTx3C, mask(3 * i + 1))
        else:
            y_ExBxTxC, attended = attend(i, qkv_ExBxTx3C), []
        y_ExNxC = y_ExBxTxC.view(norm_1.x_ExNxC.shape)
        norm_2 = add_norm(norm_1.x_ExNxC, project(y_ExNxC, f"h.{i}.attn.c_proj"), 3 * i + 2, f"h.{i}.ln_2")
        activated_ExNx4C, gelu_ExNx4C = kernels.gelu(project(norm_2.out_ExNxC, f"h.{i}.mlp.c_fc"), keep=keep)
        if keep:
            blocks.append(_Block(norm_1, attended, y_ExNxC, norm_2, gelu_ExNx4C, activated_ExNx4C))
        next_name = f"h.{i + 1}.ln_1" if i + 1 < members[0].n_layer else "ln_f"
        norm_1 = add_norm(norm_2.x_ExNxC, project(activated_ExNx4C, f"h.{i}.mlp.c_proj"), 3 * i + 3, next_name)
    return norm_1, blocks


def _backward(
    parameters: Parameters,
    members: Sequence[RunConfig],
    tokens_ExBxT: Tensor,
    masks: list[Mask] | None,
    norm_f: Normed,
    blocks: list[_Block],
    grad_ExNxW: Tensor,
    gradients: Gradients,
) -> None:
    """Gradients of all parameters from that of the logits, block by block as `_forward` went."""
    weights, kernels, grads = parameters.weights, parameters.kernels, gradients.parts
    B, T = tokens_ExBxT.shape[1:]
    mask = (masks or [None] * n_places(members[0])).__getitem__
    stream_ExNxC = torch.zeros_like(norm_f.x_ExNxC)  # gradient of the residual stream

    def through_norm(grad_ExNxC: Tensor, normed: Normed, name: str, place: int) -> Tensor:
        weight, bias = f"{name}.weight", grads.get(f"{name}.bias")
        return kernels.norm_backward(
            grad_ExNxC, normed, weights[weight], stream_ExNxC, grads[weight], bias, mask(place), B
        )

    def through_projection(grad_ExNxO: Tensor, x_ExNxI: Tensor, name: str) -> Tensor:
        weight = f"{name}.weight"
        return linear_backward(grad_ExNxO, x_ExNxI, weights[weight], grads[weight], grads.get(f"{name}.bias"))

    gradients.begin()
    grad_ExNxC = linear_backward(grad_ExNxW, norm_f.out_ExNxC, weights[HEAD], grads[HEAD])
    grad_ExNxC = through_norm(grad_ExNxC, norm_f, "ln_f", 3 * len(blocks))
    for i, block in reversed(list(enumerate(blocks))):
        grad_ExNx4C = through_projection(grad_ExNxC, block.activated_ExNx4C, f"h.{i}.mlp.c_proj")
        grad_ExNx4C = kernels.gelu_backward(grad_ExNx4C, block.gelu_ExNx4C)
        grad_ExNxC = through_projection(grad_ExNx4C, block.norm_2.out_ExNxC, f"h.{i}.mlp.c_fc")
        grad_ExNxC = through_norm(grad_ExNxC, block.norm_2, f"h.{i}.ln_2", 3 * i + 2)
        grad_ExNxC = through_projection(grad_ExNxC, block.y_ExNxC, f"h.{i}.attn.c_proj")
        grad_ExBxTxC = grad_ExNxC.view(len(members), B, T, -1)
        grad_ExBxTx3C = attention_backward(kernels, members, grad_ExBxTxC, block.attended, mask(3 * i + 1))
        grad_ExNx3C = grad_ExBxTx3C.view(len(members), B * T, -1)
        grad_ExNxC = through_projection(grad_ExNx3C, block.norm_1.out_ExNxC, f"h.{i}.attn.c_attn")
        grad_ExNxC = through_norm(grad_ExNxC, block.norm_1, f"h.{i}.ln_1", 3 * i)
    kernels.embed_backward(tokens_ExBxT, stream_ExNxC, mask(0), grads["wte.weight"], grads["wpe.weight"])
