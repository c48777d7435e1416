"""Norms of the residual stream: layer norm (Ba et al. 2016), and RMSNorm (Zhang & Sennrich 2019) without its mean."""

from __future__ import annotations

import torch
from torch import Tensor

from isoloss.model.functions import Step, dropped, read
from isoloss.model.native import AddNorm
from isoloss.model.parts import ForwardPass
from isoloss.study.parts import function_of, norm_of

EPS = 1e-5
FUSED = ("layernorm", "rmsnorm")
"""Norms that the native library has; others are plain torch there too."""


MAX_TRITON_WIDTH = 2048
"""Channels that one program in Triton holds without spilling registers; wider streams are torch's."""


def add_norm(run: ForwardPass, place: int | None, name: str) -> Step:
    """The stream becomes stream + dropout(branch), in fp32; the branch the norm of that, in the compute dtype.

    Without a `place` of dropout there is no branch yet, and the stream stays.
    """
    weight_ExC, bias_ExC = run.weights[f"{name}.weight"], run.weights.get(f"{name}.bias")
    mask = None if place is None else run.mask(place)
    if run.kernels.native and run.config.norm in FUSED:
        options = {"adds": place is not None, "centred": run.config.norm == "layernorm"}
        return AddNorm(run.kernels.native, weight_ExC, bias_ExC, mask, run.n_rows, **options)
    if run.kernels.triton and run.config.norm in FUSED and run.config.n_embd <= MAX_TRITON_WIDTH:
        from isoloss.model import triton_operations

        options = {"adds": place is not None, "centred": run.config.norm == "layernorm"}
        return triton_operations.AddNorm(run.kernels.dtype, weight_ExC, bias_ExC, mask, run.n_rows, EPS, **options)
    normed = function_of(norm_of(run.config.norm).normed)

    def plain(stream_ExNxC: Tensor, branch_ExNxC: Tensor) -> tuple[Tensor, Tensor]:
        if place is not None:
            shape = run.n_rows, stream_ExNxC.shape[1] // run.n_rows, stream_ExNxC.shape[2]
            stream_ExNxC = stream_ExNxC + dropped(branch_ExNxC.float(), mask, shape)
        normed_ExNxC = normed(stream_ExNxC)
        normed_ExNxC = normed_ExNxC * read(weight_ExC)[:, None]
        if bias_ExC is not None:
            normed_ExNxC = normed_ExNxC + read(bias_ExC)[:, None]
        return stream_ExNxC, normed_ExNxC.to(run.kernels.dtype)

    return plain


def rms_norm(x: Tensor) -> Tensor:
    """x over the root mean square of its last axis."""
    return x * torch.rsqrt(x.square().mean(-1, keepdim=True) + EPS)


def layer_norm(x: Tensor) -> Tensor:
    """x without the mean of its last axis, over its standard deviation."""
    return torch.native_layer_norm(x, x.shape[-1:], None, None, EPS)[0]
