"""Norms of the residual stream."""

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
    if run.kernels.native:
        return AddNorm(run.kernels.native, weight_ExC, bias_ExC, mask, run.n_rows, adds=place is not None)

    def plain(stream_ExNxC: Tensor, branch_ExNxC: Tensor) -> tuple[Tensor, Tensor]:
        if place is not None:
            shape = run.n_rows, stream_ExNxC.shape[1] // run.n_rows, stream_ExNxC.shape[2]
            stream_ExNxC = stream_ExNxC + dropped(branch_ExNxC.float(), mask, shape)
        normed_ExNxC = torch.native_layer_norm(stream_ExNxC, stream_ExNxC.shape[-1:], None, None, EPS)[0]
        normed_ExNxC = normed_ExNxC * read(weight_ExC)[:, None]
        if bias_ExC is not None:
            normed_ExNxC = normed_ExNxC + read(bias_ExC)[:, None]
        return stream_ExNxC, normed_ExNxC.to(run.kernels.dtype)

    return plain
