"""Parts of a model and optimizers that are levels of a setting: each one object, with all that is known of it.

What is asked before anything trains (shapes, state, defaults) is data. The code is a function, or names one that is
imported when something computes with it, so that studies can be read without torch.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import cache
from pkgutil import resolve_name
from typing import Any, ClassVar

Code = Callable[..., Any] | str
"""A function, or 'module:name' of one."""


@dataclass(frozen=True)
class Norm:
    """A norm of the residual stream: `normed` takes fp32 x of shape [..., C] to its like, before scale and bias."""

    setting: ClassVar = "norm"
    normed: Code


@dataclass(frozen=True)
class Mlp:
    """What lies between the two projections of an MLP.

    `activated` takes [E, N, F] to its like; or, `gated`, [E, N, 2F] to [E, N, F], the gate's channels first. A gated
    one has 8/3·n_embd hidden channels, others 4·n_embd, so that their parameters match.
    """

    setting: ClassVar = "mlp"
    activated: Code
    gated: bool = False


@dataclass(frozen=True)
class Optimizer:
    """An optimizer: `step` takes one Update of a stack's flat parameters (training/optimizers/update.py), in place.

    `moments` are names of what it keeps beside the weights, each as large as they are and 0 at first, as checkpoints
    have them. `defaults` are those of settings that are not AdamW's, by the optimizer's source.
    """

    setting: ClassVar = "optimizer"
    step: Code
    moments: tuple[str, ...]
    defaults: Mapping[str, Any] = field(default_factory=dict[str, Any])


Part = Norm | Mlp | Optimizer

NORMS: Mapping[str, Norm] = {
    "layernorm": Norm("isoloss.model.parts.norm:layer_norm"),
    "rmsnorm": Norm("isoloss.model.parts.norm:rms_norm"),
}
MLPS: Mapping[str, Mlp] = {
    "gelu": Mlp("isoloss.model.parts.mlp:gelu"),
    "relu2": Mlp("isoloss.model.parts.mlp:relu2"),
    "swiglu": Mlp("isoloss.model.parts.mlp:swiglu", gated=True),
}
_ADAM = ("exp_avg", "exp_avg_sq")
OPTIMIZERS: Mapping[str, Optimizer] = {
    "adamw": Optimizer("isoloss.training.optimizers.adamw:step", _ADAM),
    "muon": Optimizer("isoloss.training.optimizers.muon:step", _ADAM, {"muon_learning_rate": 0.02}),
    "lion": Optimizer("isoloss.training.optimizers.lion:step", ("exp_avg",), {"learning_rate": 1e-4, "min_lr": 1e-5}),
    "sgd": Optimizer(
        "isoloss.training.optimizers.sgd:step", ("momentum_buffer",), {"learning_rate": 1e-3, "weight_decay": 0.0}
    ),
}
"""Defaults are those of Keller Jordan's Muon, of lion-pytorch and of torch's SGD."""


def norm_of(name: str) -> Norm:
    """The norm of this name."""
    return NORMS[name]


def mlp_of(name: str) -> Mlp:
    """The MLP of this name."""
    return MLPS[name]


def optimizer_of(name: str) -> Optimizer:
    """The optimizer of this name."""
    return OPTIMIZERS[name]


@cache
def function_of(code: Code) -> Callable[..., Any]:
    """The function that a part's code is or names."""
    return resolve_name(code) if isinstance(code, str) else code


def defaults_of(optimizer: object) -> Mapping[str, Any]:
    """What settings are that a run with this optimizer does not state, where that differs from AdamW's."""
    return OPTIMIZERS[optimizer].defaults if isinstance(optimizer, str) and optimizer in OPTIMIZERS else {}
