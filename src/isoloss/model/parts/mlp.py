"""The block's MLP: GELU, squared ReLU (So et al. 2021) or SwiGLU (Shazeer 2020) between two projections."""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor

from isoloss.model.functions import Step
from isoloss.model.native import Gelu, SwiGlu
from isoloss.model.parts import ForwardPass
from isoloss.study.parts import function_of, mlp_of


def mlp(run: ForwardPass, block: int) -> list[Step]:
    """Two projections with the activation between them."""
    enter, leave = run.linear(f"h.{block}.mlp.c_fc"), run.linear(f"h.{block}.mlp.c_proj")
    fused = {"gelu": Gelu, "swiglu": SwiGlu}.get(run.config.mlp)
    if fused and run.kernels.native:
        return [enter, fused(run.kernels.native), leave]
    if run.kernels.triton and run.config.mlp in ("gelu", "swiglu"):
        from isoloss.model import triton_operations

        return [enter, triton_operations.Gelu() if run.config.mlp == "gelu" else triton_operations.SwiGlu(), leave]
    activated = function_of(mlp_of(run.config.mlp).activated)
    return [enter, lambda stream, hidden_ExNxF: (stream, activated(hidden_ExNxF)), leave]


def gelu(x_ExNxF: Tensor) -> Tensor:
    """Exact, by the error function."""
    return F.gelu(x_ExNxF)


def relu2(x_ExNxF: Tensor) -> Tensor:
    """Squared."""
    return F.relu(x_ExNxF).square()


def swiglu(x_ExNx2F: Tensor) -> Tensor:
    """From the gate's channels, then the hidden ones."""
    gate_ExNxF, hidden_ExNxF = x_ExNx2F.chunk(2, dim=-1)
    return F.silu(gate_ExNxF) * hidden_ExNxF
