"""Norms of the residual stream: layer norm (Ba et al. 2016), and RMSNorm (Zhang & Sennrich 2019) without its mean."""

from __future__ import annotations

import torch
from torch import Tensor

from isoloss.model.functions import Step, dropped, read
from isoloss.model.native import AddNorm
from isoloss.model.parts import ForwardPass

EPS = 1e-5


def add_norm(run: ForwardPass, place: int | None, name: str) -> Step:
    """The stream becomes stream + dropout(branch), in fp32; the branch the norm of that, in the compute dtype.

    Without a `place` of dropout there is no branch yet, and the stream stays.
    """
    weight_ExC, bias_ExC = run.weights[f"{name}.weight"], run.weights.get(f"{name}.bias")
    mask = None if place is None else run.mask(place)
    centred = run.config.norm == "layernorm"
    if run.kernels.native:
        vectors = weight_ExC, bias_ExC
        return AddNorm(run.kernels.native, *vectors, mask, run.n_rows, adds=place is not None, centred=centred)

    def plain(stream_ExNxC: Tensor, branch_ExNxC: Tensor) -> tuple[Tensor, Tensor]:
        if place is not None:
            shape = run.n_rows, stream_ExNxC.shape[1] // run.n_rows, stream_ExNxC.shape[2]
            stream_ExNxC = stream_ExNxC + dropped(branch_ExNxC.float(), mask, shape)
        normed_ExNxC = _layer_norm(stream_ExNxC) if centred else rms_norm(stream_ExNxC)
        normed_ExNxC = normed_ExNxC * read(weight_ExC)[:, None]
        if bias_ExC is not None:
            normed_ExNxC = normed_ExNxC + read(bias_ExC)[:, None]
        return stream_ExNxC, normed_ExNxC.to(run.kernels.dtype)

    return plain


def rms_norm(x: Tensor) -> Tensor:
    """x over the root mean square of its last axis."""
    return x * torch.rsqrt(x.square().mean(-1, keepdim=True) + EPS)


def _layer_norm(x: Tensor) -> Tensor:
    return torch.native_layer_norm(x, x.shape[-1:], None, None, EPS)[0]
