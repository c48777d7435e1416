"""GPT-2 and its relatives over a member axis: pre-norm transformers that are written forward, for autograd to go back.

tests/test_parity.py compares losses and gradients with a plain model.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import chain

import torch
from torch import Tensor

from isoloss.model.dropout import Mask
from isoloss.model.functions import Step, cross_entropy, scaled, through, token_losses
from isoloss.model.parameters import HEAD, Gradients, Parameters
from isoloss.model.parts import ForwardPass, KeysAndValues
from isoloss.model.parts.attention import attention
from isoloss.model.parts.mlp import mlp
from isoloss.model.parts.norm import add_norm
from isoloss.model.parts.position import embed
from isoloss.study.config import RunConfig


def logits(parameters: Parameters, members: Sequence[RunConfig], tokens_ExBxT: Tensor) -> Tensor:
    """Next-token logits of every member on its own tokens, fp32 of shape [E, B, T, V].

    `members` are the configurations of the stack, those of equal n_head side by side. Matrix products run in the
    parameters' compute dtype; the residual stream, norms and softmax are fp32.
    """
    logits_ExNxW = _logits(parameters, members, tokens_ExBxT)
    return logits_ExNxW.float().unflatten(1, tokens_ExBxT.shape[1:])[..., : members[0].vocab_size]


def next_logits(parameters: Parameters, config: RunConfig, tokens_BxT: Tensor, read_before: KeysAndValues) -> Tensor:
    """One member's logits after the last token of B sequences that go on from `read_before`, fp32 of shape [B, V]."""
    run = ForwardPass([config], parameters.weights, parameters.kernels, tokens_BxT[None], None, read_before)
    stream_1xBxC, branch_1xBxC = (each_1xNxC.unflatten(1, tokens_BxT.shape)[:, :, -1] for each_1xNxC in _hidden(run))
    return through(stream_1xBxC, branch_1xBxC, _head(run))[1][0].float()[:, : config.vocab_size]


def loss(
    parameters: Parameters,
    members: Sequence[RunConfig],
    blocks_ExBxT1: Tensor,
    scored_ExBxS: Tensor | None = None,
    at_positions_ExT: Tensor | None = None,
) -> Tensor:
    """Mean cross-entropy in nats a token of every member, fp32 of shape [E], on blocks of T+1 tokens.

    Of all targets, or of those at some positions of each block, from 0: then the head computes no others, unless the
    losses at each position are asked for: to `at_positions_ExT` those of all blocks are added.
    """
    run = ForwardPass(members, parameters.weights, parameters.kernels, blocks_ExBxT1[..., :-1])
    targets_ExN = blocks_ExBxT1[..., 1:].flatten(1)
    stream_ExNxC, branch_ExNxC = _hidden(run)
    n_blocks, block = run.tokens_ExBxT.shape[1:]
    if at_positions_ExT is not None:
        logits_ExNxW = through(stream_ExNxC, branch_ExNxC, _head(run))[1]
        losses_ExN = token_losses(logits_ExNxW, targets_ExN, members[0].vocab_size)
        at_positions_ExT += losses_ExN.unflatten(1, (n_blocks, block)).sum(dim=1)
    if scored_ExBxS is not None:
        firsts_Bx1 = torch.arange(n_blocks, device=targets_ExN.device)[:, None] * block
        rows_ExN = (scored_ExBxS + firsts_Bx1).flatten(1)
        targets_ExN = targets_ExN.gather(1, rows_ExN)
        rows_ExNxC = rows_ExN[..., None].expand(-1, -1, stream_ExNxC.shape[2])
        stream_ExNxC, branch_ExNxC = stream_ExNxC.gather(1, rows_ExNxC), branch_ExNxC.gather(1, rows_ExNxC)
    logits_ExNxW = through(stream_ExNxC, branch_ExNxC, _head(run))[1]
    total_E, _ = cross_entropy(parameters.kernels, logits_ExNxW, targets_ExN, members[0].vocab_size, None)
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
    gradients.begin()
    targets_ExN = blocks_ExBxT1[..., 1:].flatten(1)
    n_tokens, vocab_size = targets_ExN.shape[1], members[0].vocab_size
    with torch.enable_grad():
        logits_ExNxW = _logits(parameters, members, blocks_ExBxT1[..., :-1], masks)
    total_E, grad_ExNxW = cross_entropy(parameters.kernels, logits_ExNxW, targets_ExN, vocab_size, scales_E / n_tokens)
    logits_ExNxW.backward(grad_ExNxW)
    return total_E / n_tokens


@torch.no_grad()
def activations(parameters: Parameters, config: RunConfig, tokens_1xBxT: Tensor) -> dict[str, Tensor]:
    """What a coordinate check compares: the embedding, what each block adds, the stream after them and the logits."""
    run = ForwardPass([config], parameters.weights, parameters.kernels, tokens_1xBxT)
    stream = branch = embed(run)
    found = {"embedding": stream}
    for name, steps in (*_blocks(run), ("logits", _head(run))):
        stream, branch = through(stream, branch, steps)
        found[name] = branch
    return {**found, "stream": stream}


def _logits(
    parameters: Parameters, members: Sequence[RunConfig], tokens_ExBxT: Tensor, masks: list[Mask] | None = None
) -> Tensor:
    """In the compute dtype, of shape [E, N, W]."""
    run = ForwardPass(members, parameters.weights, parameters.kernels, tokens_ExBxT, masks)
    x_ExNxC = embed(run)
    steps = chain.from_iterable(steps for _, steps in _blocks(run))
    return through(x_ExNxC, x_ExNxC, chain(steps, _head(run)))[1]


def _hidden(run: ForwardPass) -> tuple[Tensor, Tensor]:
    """The residual stream and the branch behind the last block, each of shape [E, N, C]: what the head reads."""
    x_ExNxC = embed(run)
    return through(x_ExNxC, x_ExNxC, chain.from_iterable(steps for _, steps in _blocks(run)))


def _head(run: ForwardPass) -> list[Step]:
    """The last norm, and the logits."""
    return [add_norm(run, 3 * run.config.n_layer, "ln_f"), *scaled(run.scales.logits), run.linear(HEAD)]


def _blocks(run: ForwardPass) -> Iterator[tuple[str, list[Step]]]:
    """Name and steps of each half of a block, from the embedded tokens on.

    A norm adds what the layer before it left on the branch to the stream, dropped at its place, and begins the next.
    """
    share = scaled(run.scales.residual)
    for i in range(run.config.n_layer):
        before = 3 * i if i else None  # nothing is added before the first
        yield f"attention {i + 1}", [add_norm(run, before, f"h.{i}.ln_1"), *attention(run, i), *share]
        yield f"mlp {i + 1}", [add_norm(run, 3 * i + 2, f"h.{i}.ln_2"), *mlp(run, i), *share]
