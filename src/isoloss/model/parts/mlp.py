"""The block's MLP."""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor

from isoloss.model.functions import Step
from isoloss.model.native import Gelu
from isoloss.model.parts import ForwardPass


def mlp(run: ForwardPass, block: int) -> list[Step]:
    """Two projections with the activation between them."""
    enter, leave = run.linear(f"h.{block}.mlp.c_fc"), run.linear(f"h.{block}.mlp.c_proj")
    return [enter, Gelu(run.kernels.native) if run.kernels.native else _gelu, leave]


def _gelu(stream: Tensor, x_ExNxF: Tensor) -> tuple[Tensor, Tensor]:
    return stream, F.gelu(x_ExNxF)
