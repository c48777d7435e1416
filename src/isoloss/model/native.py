"""The operations between the matrix products in C++ (kernels.cpp), fused, for one thread of a CPU."""

from __future__ import annotations

from pathlib import Path

import torch
from torch import Tensor

from isoloss.model.dropout import Mask
from isoloss.model.kernels import ADAM_EPS, Normed, Update
from isoloss.model.library import SIGNATURES, SUFFIXES, library


def _at(tensor: Tensor | None, e: int) -> int | None:
    """Address of one member's part."""
    if tensor is None:
        return None
    return tensor.data_ptr() + (e * tensor.stride(0) * tensor.element_size() if e else 0)


def _mask(mask: Mask | None, e: int, row_elements: int) -> tuple[int | None, int | None, int | None, int]:
    if mask is None:
        return None, None, None, 0
    return _at(mask.key_Ex2, e), _at(mask.limit_E, e), _at(mask.scale_E, e), mask.first_row * row_elements


class NativeKernels:
    """The operations in C++; arrays are on the CPU and each member's part is contiguous."""

    def __init__(self, dtype: torch.dtype) -> None:
        self.dtype = dtype
        loaded = library()
        self.name = f"native {Path(loaded._name).stem}"
        self._call = {
            name: getattr(loaded, f"{name}_{SUFFIXES[dtype]}") for name in SIGNATURES if not name.startswith("embed")
        }
        self._call |= {name: getattr(loaded, f"{name}_fp32") for name in ("embed", "embed_backward")}

    def embed(self, tokens_ExBxT: Tensor, wte_ExVxC: Tensor, wpe_ExTxC: Tensor, mask: Mask | None) -> Tensor:
        tokens_ExBxT = tokens_ExBxT.contiguous()
        E, B, T = tokens_ExBxT.shape
        C = wte_ExVxC.shape[2]
        x_ExNxC = torch.empty(E, B * T, C)
        for e in range(E):
            tables = _at(tokens_ExBxT, e), _at(wte_ExVxC, e), _at(wpe_ExTxC, e)
            self._call["embed"](B, T, C, *tables, *_mask(mask, e, T * C), _at(x_ExNxC, e))
        return x_ExNxC

    def embed_backward(
        self, tokens_ExBxT: Tensor, grad_ExNxC: Tensor, mask: Mask | None, wte_ExVxC: Tensor, wpe_ExTxC: Tensor
    ) -> None:
        tokens_ExBxT = tokens_ExBxT.contiguous()
        E, B, T = tokens_ExBxT.shape
        C = wte_ExVxC.shape[2]
        for e in range(E):
            grads = _at(wte_ExVxC, e), _at(wpe_ExTxC, e)
            arrays = _at(tokens_ExBxT, e), _at(grad_ExNxC, e)
            self._call["embed_backward"](B, T, C, *arrays, *_mask(mask, e, T * C), *grads)

    def add_norm(
        self,
        x_ExNxC: Tensor,
        added_ExNxC: Tensor | None,
        mask: Mask | None,
        weight_ExC: Tensor,
        bias_ExC: Tensor | None,
        n_rows: int,
    ) -> Normed:
        E, N, C = x_ExNxC.shape
        sum_ExNxC = x_ExNxC if added_ExNxC is None else torch.empty_like(x_ExNxC)
        out_ExNxC, statistics_2xExN = torch.empty(E, N, C, dtype=self.dtype), torch.empty(2, E, N)
        mean_ExN, rstd_ExN = statistics_2xExN
        for e in range(E):
            self._call["add_norm"](
                N, C, _at(x_ExNxC, e), _at(added_ExNxC, e), *_mask(mask, e, N // n_rows * C), _at(weight_ExC, e),
                _at(bias_ExC, e), _at(sum_ExNxC, e), _at(out_ExNxC, e), _at(mean_ExN, e), _at(rstd_ExN, e),
            )  # fmt: skip
        return Normed(sum_ExNxC, out_ExNxC, mean_ExN, rstd_ExN)

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
        E, N, C = stream_ExNxC.shape
        dropped_ExNxC = torch.empty(E, N, C, dtype=self.dtype)
        for e in range(E):
            self._call["norm_backward"](
                N, C, _at(grad_ExNxC, e), _at(normed.x_ExNxC, e), _at(normed.mean_ExN, e), _at(normed.rstd_ExN, e),
                _at(weight_ExC, e), _at(stream_ExNxC, e), _at(grad_weight_ExC, e), _at(grad_bias_ExC, e),
                _at(dropped_ExNxC, e), *_mask(mask, e, N // n_rows * C),
            )  # fmt: skip
        return dropped_ExNxC

    def split_heads(self, joined_ExBxTxSHD: Tensor, n_parts: int, n_head: int) -> Tensor:
        E, B, T, width = joined_ExBxTxSHD.shape
        head_size = width // n_parts // n_head
        split_SxGxTxD = torch.empty(n_parts, E * B * n_head, T, head_size, dtype=self.dtype)
        arrays = joined_ExBxTxSHD.data_ptr(), split_SxGxTxD.data_ptr()
        self._call["split_heads"](E * B, T, n_parts, n_head, head_size, *arrays, False)
        return split_SxGxTxD

    def join_heads(self, split_SxGxTxD: Tensor, n_members: int, n_head: int) -> Tensor:
        S, G, T, D = split_SxGxTxD.shape
        joined_ExBxTxSHD = torch.empty(n_members, G // n_members // n_head, T, S * n_head * D, dtype=self.dtype)
        arrays = split_SxGxTxD.data_ptr(), joined_ExBxTxSHD.data_ptr()
        self._call["split_heads"](G // n_head, T, S, n_head, D, *arrays, True)
        return joined_ExBxTxSHD

    def softmax(self, scores_GxTxT: Tensor, scale: float, mask: Mask | None, n_rows: int) -> tuple[Tensor, Tensor]:
        G, T, _ = scores_GxTxT.shape
        probs_GxTxT = torch.empty_like(scores_GxTxT)
        dropped_GxTxT = probs_GxTxT if mask is None else torch.empty_like(scores_GxTxT)
        for e, part in enumerate(_parts(mask, G)):
            arrays = (tensor[part].data_ptr() for tensor in (scores_GxTxT, probs_GxTxT, dropped_GxTxT))
            scores, probs, dropped = arrays
            members_mask = _mask(mask, e, (part.stop - part.start) // n_rows * T * T)
            self._call["softmax"](part.stop - part.start, T, scores, scale, probs, dropped, *members_mask)
        return probs_GxTxT, dropped_GxTxT

    def softmax_backward(
        self, grad_GxTxT: Tensor, probs_GxTxT: Tensor, scale: float, mask: Mask | None, n_rows: int
    ) -> Tensor:
        G, T, _ = grad_GxTxT.shape
        for e, part in enumerate(_parts(mask, G)):
            grad, probs = grad_GxTxT[part].data_ptr(), probs_GxTxT[part].data_ptr()
            members_mask = _mask(mask, e, (part.stop - part.start) // n_rows * T * T)
            self._call["softmax_backward"](part.stop - part.start, T, grad, probs, scale, *members_mask)
        return grad_GxTxT

    def gelu(self, x_ExNxF: Tensor, *, keep: bool) -> tuple[Tensor, Tensor]:
        out_ExNxF, address = torch.empty_like(x_ExNxF), x_ExNxF.data_ptr()
        self._call["gelu"](x_ExNxF.numel(), address, out_ExNxF.data_ptr(), address if keep else None)
        return out_ExNxF, x_ExNxF

    def gelu_backward(self, grad_ExNxF: Tensor, kept_ExNxF: Tensor) -> Tensor:
        self._call["multiply"](kept_ExNxF.numel(), kept_ExNxF.data_ptr(), grad_ExNxF.data_ptr())
        return grad_ExNxF

    def cross_entropy(
        self, logits_ExNxW: Tensor, targets_ExN: Tensor, vocab_size: int, scale_E: Tensor | None
    ) -> tuple[Tensor, Tensor]:
        E, N, W = logits_ExNxW.shape
        targets_ExN = targets_ExN.contiguous()
        call = self._call["cross_entropy"]
        losses = [call(N, W, vocab_size, _at(logits_ExNxW, e), _at(targets_ExN, e), _at(scale_E, e)) for e in range(E)]
        return torch.tensor(losses), logits_ExNxW

    def adamw(self, update: Update) -> None:
        if update.skipped.item():
            return
        update.counts_2.add_(1)
        ends = [len(update.low_M), update.decay_end, len(update.flat_P)]
        tensors = (update.flat_P, update.exp_avg_P, update.exp_avg_sq_P, update.grad_P)
        numbers = update.divisor.item(), update.lr.item(), update.beta1, update.beta2, ADAM_EPS
        for first, last in zip([0, *ends[:-1]], ends, strict=True):
            arrays = [tensor[first:last].data_ptr() for tensor in tensors]
            low = update.low_M.data_ptr() if first < len(update.low_M) else None
            decay = update.weight_decay if first < update.decay_end else 0.0
            self._call["adamw"](last - first, *arrays, low, *numbers, decay, update.counts_2[0].item())


def _parts(mask: Mask | None, length: int) -> list[slice]:
    """A slice for each member of a mask, or one for all."""
    n = 1 if mask is None else len(mask.limit_E)
    return [slice(e * length // n, (e + 1) * length // n) for e in range(n)]
