"""The operations between the matrix products over a stack: their interface, and their implementation in torch.

`model/native.py` implements them fused in C++ for one thread of a CPU. Both take and return the same arrays, so the
model (`gpt.py`) is written once. A `mask` of None means no dropout.
"""

from __future__ import annotations

from typing import NamedTuple, Protocol

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.optim.adamw import adamw

from isoloss.model.dropout import Mask

LN_EPS = 1e-5
ADAM_EPS = 1e-8


class Normed(NamedTuple):
    """A layer norm: its input x, mean and reciprocal standard deviation in fp32, its output in compute dtype."""

    x_ExNxC: Tensor
    out_ExNxC: Tensor
    mean_ExN: Tensor
    rstd_ExN: Tensor


class Update(NamedTuple):
    """What one member's AdamW update reads and writes.

    The gradient is divided by `divisor`; with `skipped` 1 nothing is updated or counted. `low_M` is the low-precision
    copy of the first M parameters (empty in fp32). `counts_2` holds the number of updates so far, once for the decayed
    parameters and once for the others.
    """

    flat_P: Tensor
    grad_P: Tensor
    exp_avg_P: Tensor
    exp_avg_sq_P: Tensor
    low_M: Tensor
    decay_end: int
    counts_2: Tensor
    lr: Tensor
    divisor: Tensor
    skipped: Tensor
    beta1: float
    beta2: float
    weight_decay: float


class Kernels(Protocol):
    """Operations of a step apart from matrix products, in compute dtype `dtype`; `name` is part of a run's numerics."""

    dtype: torch.dtype
    name: str

    def embed(self, tokens_ExBxT: Tensor, wte_ExVxC: Tensor, wpe_ExTxC: Tensor, mask: Mask | None) -> Tensor:
        """Sum of token and position rows, dropped, fp32 of shape [E, B·T, C]."""
        ...

    def embed_backward(
        self, tokens_ExBxT: Tensor, grad_ExNxC: Tensor, mask: Mask | None, wte_ExVxC: Tensor, wpe_ExTxC: Tensor
    ) -> None:
        """Add the gradients of both tables to `wte_ExVxC` and `wpe_ExTxC`."""
        ...

    def add_norm(
        self,
        x_ExNxC: Tensor,
        added_ExNxC: Tensor | None,
        mask: Mask | None,
        weight_ExC: Tensor,
        bias_ExC: Tensor | None,
        n_rows: int,
    ) -> Normed:
        """Layer norm of x + dropout(added); N is `n_rows` sequences."""
        ...

    def norm_backward(
        self,
        grad_ExNxC: Tensor,
        normed: Normed,
        weight_ExC: Tensor,
        stream_ExNxC: Tensor,
        grad_weight_ExC: Tensor,
        grad_bias_ExC: Tensor | None,
        mask: Mask | None,
        n_rows: int,
    ) -> Tensor:
        """Add the gradient of the normed x to the stream's; set the gradients of scale and shift.

        Returns the gradient of what `add_norm` added to x, in the compute dtype: the stream's, dropped.
        """
        ...

    def split_heads(self, joined_ExBxTxSHD: Tensor, n_parts: int, n_head: int) -> Tensor:
        """From [E, B, T, S·H·D] to [S, E·B·H, T, D]."""
        ...

    def join_heads(self, split_SxGxTxD: Tensor, n_members: int, n_head: int) -> Tensor:
        """From [S, E·B·H, T, D] to [E, B, T, S·H·D]."""
        ...

    def softmax(self, scores_GxTxT: Tensor, scale: float, mask: Mask | None, n_rows: int) -> tuple[Tensor, Tensor]:
        """Causal softmax of scaled scores, before and after dropout; G is members, then sequences, then heads."""
        ...

    def softmax_backward(
        self, grad_GxTxT: Tensor, probs_GxTxT: Tensor, scale: float, mask: Mask | None, n_rows: int
    ) -> Tensor:
        """Gradient of the scores from that of the dropped probabilities; may reuse its memory."""
        ...

    def gelu(self, x_ExNxF: Tensor, *, keep: bool) -> tuple[Tensor, Tensor]:
        """Exact GELU, and what its backward pass needs if that is to be kept; may reuse the memory of x."""
        ...

    def gelu_backward(self, grad_ExNxF: Tensor, kept_ExNxF: Tensor) -> Tensor:
        """Gradient of GELU's argument; may reuse the memory of `grad_ExNxF`."""
        ...

    def cross_entropy(
        self, logits_ExNxW: Tensor, targets_ExN: Tensor, vocab_size: int, scale_E: Tensor | None
    ) -> tuple[Tensor, Tensor]:
        """Sum over N of each member's losses, fp32 of shape [E], and the logits' gradient of that times `scale_E`.

        Only the first `vocab_size` columns count; the others get no gradient. Without a scale the second is undefined.
        May reuse the memory of the logits.
        """
        ...

    def adamw(self, update: Update) -> None:
        """One AdamW update of one member in place (Loshchilov & Hutter 2019), and of its low-precision copy."""
        ...


class TorchKernels:
    """The operations in torch, for any device and precision."""

    name = "torch"

    def __init__(self, dtype: torch.dtype) -> None:
        self.dtype = dtype

    def embed(self, tokens_ExBxT: Tensor, wte_ExVxC: Tensor, wpe_ExTxC: Tensor, mask: Mask | None) -> Tensor:
        E, B, T = tokens_ExBxT.shape
        x_ExBxTxC = torch.stack([F.embedding(t, w) for t, w in zip(tokens_ExBxT, wte_ExVxC, strict=True)])
        x_ExBxTxC = x_ExBxTxC + wpe_ExTxC[:, None, :T]
        if mask is not None:
            x_ExBxTxC = x_ExBxTxC * mask.multipliers(tuple(x_ExBxTxC.shape[1:]))
        return x_ExBxTxC.view(E, B * T, -1)

    def embed_backward(
        self, tokens_ExBxT: Tensor, grad_ExNxC: Tensor, mask: Mask | None, wte_ExVxC: Tensor, wpe_ExTxC: Tensor
    ) -> None:
        _, B, T = tokens_ExBxT.shape
        grad_ExNxC = _masked(grad_ExNxC, mask, B)
        for tokens_BxT, grad_NxC, wte_VxC in zip(tokens_ExBxT, grad_ExNxC, wte_ExVxC, strict=True):
            wte_VxC.index_add_(0, tokens_BxT.flatten(), grad_NxC)
        wpe_ExTxC[:, :T] += grad_ExNxC.unflatten(1, (B, T)).sum(dim=1)

    def add_norm(
        self,
        x_ExNxC: Tensor,
        added_ExNxC: Tensor | None,
        mask: Mask | None,
        weight_ExC: Tensor,
        bias_ExC: Tensor | None,
        n_rows: int,
    ) -> Normed:
        if added_ExNxC is not None:
            x_ExNxC = x_ExNxC + _masked(added_ExNxC.float(), mask, n_rows)
        out_ExNxC, mean_ExNx1, rstd_ExNx1 = torch.native_layer_norm(x_ExNxC, x_ExNxC.shape[-1:], None, None, LN_EPS)
        out_ExNxC = out_ExNxC * weight_ExC[:, None]
        if bias_ExC is not None:
            out_ExNxC += bias_ExC[:, None]
        return Normed(x_ExNxC, out_ExNxC.to(self.dtype), mean_ExNx1[..., 0], rstd_ExNx1[..., 0])

    def norm_backward(
        self,
        grad_ExNxC: Tensor,
        normed: Normed,
        weight_ExC: Tensor,
        stream_ExNxC: Tensor,
        grad_weight_ExC: Tensor,
        grad_bias_ExC: Tensor | None,
        mask: Mask | None,
        n_rows: int,
    ) -> Tensor:
        mean_ExNx1, rstd_ExNx1 = normed.mean_ExN[..., None], normed.rstd_ExN[..., None]
        grad_ExNxC = grad_ExNxC.float()
        grad_weight_ExC.copy_((grad_ExNxC * (normed.x_ExNxC - mean_ExNx1) * rstd_ExNx1).sum(dim=1))
        if grad_bias_ExC is not None:
            grad_bias_ExC.copy_(grad_ExNxC.sum(dim=1))
        shape = normed.x_ExNxC.shape[-1:]
        grad_x = grad_ExNxC * weight_ExC[:, None], normed.x_ExNxC, shape, mean_ExNx1, rstd_ExNx1
        stream_ExNxC += torch.ops.aten.native_layer_norm_backward(*grad_x, None, None, [True, False, False])[0]
        return _masked(stream_ExNxC, mask, n_rows).to(self.dtype)

    def split_heads(self, joined_ExBxTxSHD: Tensor, n_parts: int, n_head: int) -> Tensor:
        E, B, T, width = joined_ExBxTxSHD.shape
        split = joined_ExBxTxSHD.view(E, B, T, n_parts, n_head, width // n_parts // n_head).permute(3, 0, 1, 4, 2, 5)
        return split.reshape(n_parts, E * B * n_head, T, -1)

    def join_heads(self, split_SxGxTxD: Tensor, n_members: int, n_head: int) -> Tensor:
        S, G, T, D = split_SxGxTxD.shape
        split = split_SxGxTxD.view(S, n_members, G // n_members // n_head, n_head, T, D).permute(1, 2, 4, 0, 3, 5)
        return split.reshape(n_members, -1, T, S * n_head * D)

    def softmax(self, scores_GxTxT: Tensor, scale: float, mask: Mask | None, n_rows: int) -> tuple[Tensor, Tensor]:
        T = scores_GxTxT.shape[1]
        ahead_TxT = torch.full((T, T), float("-inf"), device=scores_GxTxT.device).triu(1)
        probs_GxTxT = torch.softmax(scores_GxTxT * scale + ahead_TxT, dim=-1, dtype=torch.float32)
        kept_GxTxT = probs_GxTxT.to(self.dtype)
        if mask is None:
            return kept_GxTxT, kept_GxTxT
        return kept_GxTxT, (probs_GxTxT * self._attention_multipliers(mask, probs_GxTxT, n_rows)).to(self.dtype)

    def softmax_backward(
        self, grad_GxTxT: Tensor, probs_GxTxT: Tensor, scale: float, mask: Mask | None, n_rows: int
    ) -> Tensor:
        grad, probs = grad_GxTxT.float(), probs_GxTxT.float()
        if mask is not None:
            grad = grad * self._attention_multipliers(mask, probs, n_rows)
        grad = torch.ops.aten._softmax_backward_data(grad, probs, -1, torch.float32)
        return (grad * scale).to(grad_GxTxT.dtype)

    def _attention_multipliers(self, mask: Mask, probs_GxTxT: Tensor, n_rows: int) -> Tensor:
        T, n_head = probs_GxTxT.shape[1], len(probs_GxTxT) // len(mask.limit_E) // n_rows
        return mask.multipliers((n_rows, n_head, T, T)).view(-1, T, T)

    def gelu(self, x_ExNxF: Tensor, *, keep: bool) -> tuple[Tensor, Tensor]:
        return F.gelu(x_ExNxF), x_ExNxF

    def gelu_backward(self, grad_ExNxF: Tensor, kept_ExNxF: Tensor) -> Tensor:
        return torch.ops.aten.gelu_backward(grad_ExNxF, kept_ExNxF)

    def cross_entropy(
        self, logits_ExNxW: Tensor, targets_ExN: Tensor, vocab_size: int, scale_E: Tensor | None
    ) -> tuple[Tensor, Tensor]:
        logits = logits_ExNxW.float()
        logits[..., vocab_size:] = float("-inf")
        log_probs = torch.log_softmax(logits, dim=-1)
        targets_ExNx1 = targets_ExN[..., None]
        loss_E = -log_probs.gather(2, targets_ExNx1).sum(dim=(1, 2))
        if scale_E is None:
            return loss_E, logits_ExNxW
        grad = log_probs.exp_()
        grad.scatter_add_(2, targets_ExNx1, torch.full_like(targets_ExNx1, -1.0, dtype=grad.dtype))
        return loss_E, (grad * scale_E[:, None, None]).to(logits_ExNxW.dtype)

    def adamw(self, update: Update) -> None:
        parts = ((slice(0, update.decay_end), update.weight_decay), (slice(update.decay_end, None), 0.0))
        for count, (part, decay) in zip(update.counts_2.split(1), parts, strict=True):
            adamw(
                [update.flat_P[part]],
                [update.grad_P[part]],
                [update.exp_avg_P[part]],
                [update.exp_avg_sq_P[part]],
                [],
                [count[0]],
                fused=True,
                grad_scale=update.divisor,
                found_inf=update.skipped,
                amsgrad=False,
                beta1=update.beta1,
                beta2=update.beta2,
                lr=update.lr,
                weight_decay=decay,
                eps=ADAM_EPS,
                maximize=False,
            )
        update.low_M.copy_(update.flat_P[: len(update.low_M)])


def _masked(x_ExNxC: Tensor, mask: Mask | None, n_rows: int) -> Tensor:
    if mask is None:
        return x_ExNxC
    by_row = x_ExNxC.unflatten(1, (n_rows, -1))
    return (by_row * mask.multipliers(tuple(by_row.shape[1:]))).flatten(1, 2)
