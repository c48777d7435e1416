"""Parts of a model and optimizers that are levels of a setting: each one object, with all that is known of it.

What is asked before anything trains (shapes, state, defaults) is data. The code is a function, or names one that is
imported when something computes with it, so that studies can be read without torch.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from functools import cache
from pkgutil import resolve_name
from typing import Annotated, Any, ClassVar, TypeVar

from pydantic import AfterValidator, WithJsonSchema
from pydantic_core import PydanticCustomError

from isoloss.errors import ConfigError
from isoloss.study.synonyms import did_you_mean

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
class Position:
    """What tells a model where a token stands; each of these that is given.

    `learned` is a table of weights, [block_size, C], added to the embedding, and `rows` takes positions_T and C to fp32
    rows [T, C] that are. `rotation` takes positions_T and D to the cosines and sines, [2, T, D/2], by which queries and
    keys are rotated. `bias` takes how far each key is behind each query, [T, T], and n_head to fp32 [H, T, T], which is
    added to the scaled scores of attention.
    """

    setting: ClassVar = "position"
    learned: bool = False
    rows: Code | None = None
    rotation: Code | None = None
    bias: Code | None = None


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


Part = Norm | Mlp | Position | Optimizer
SETTINGS = Norm.setting, Mlp.setting, Position.setting, Optimizer.setting
P = TypeVar("P", Norm, Mlp, Position, Optimizer)

NORMS: Mapping[str, Norm] = {
    "layernorm": Norm("isoloss.model.parts.norm:layer_norm"),
    "rmsnorm": Norm("isoloss.model.parts.norm:rms_norm"),
}
MLPS: Mapping[str, Mlp] = {
    "gelu": Mlp("isoloss.model.parts.mlp:gelu"),
    "relu2": Mlp("isoloss.model.parts.mlp:relu2"),
    "swiglu": Mlp("isoloss.model.parts.mlp:swiglu", gated=True),
}
POSITIONS: Mapping[str, Position] = {
    "learned": Position(learned=True),
    "rope": Position(rotation="isoloss.model.parts.rotation:rope"),
    "none": Position(),
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


_OWN: dict[str, Part] = {}
"""Parts of one's own, by what configurations call them: those of study/plugins.py, and what directories say of such."""


def know(value: str, part: Part) -> None:
    """Let configurations name a part of one's own by this value."""
    _OWN[value] = part


def known(value: str) -> Part | None:
    """The part of one's own that a value stands for, if any."""
    return _OWN.get(value)


def norm_of(name: str) -> Norm:
    """The norm of this name. Raises ConfigError."""
    return _of(Norm, NORMS, name)


def mlp_of(name: str) -> Mlp:
    """The MLP of this name. Raises ConfigError."""
    return _of(Mlp, MLPS, name)


def position_of(name: str) -> Position:
    """The positions of this name. Raises ConfigError."""
    return _of(Position, POSITIONS, name)


def optimizer_of(name: str) -> Optimizer:
    """The optimizer of this name. Raises ConfigError."""
    return _of(Optimizer, OPTIMIZERS, name)


def _of(kind: type[P], built_in: Mapping[str, P], name: str) -> P:
    part = built_in.get(name) or _OWN.get(name)
    if isinstance(part, kind):
        return part
    bare, _, digest = name.partition("@")
    others = [value for value in _OWN if value.startswith(f"{bare}@")]
    if digest and others:
        raise ConfigError(f"its source is another than that of {others[-1]}", (kind.setting,))
    own = f"; one of your own takes --plugin FILE.py:{bare}" if bare[:1].isupper() else ""
    raise ConfigError(f"{did_you_mean(name, built_in)}{own}", (kind.setting,))


@cache
def function_of(code: Code) -> Callable[..., Any]:
    """The function that a part's code is or names."""
    return resolve_name(code) if isinstance(code, str) else code


def defaults_of(optimizer: object) -> Mapping[str, Any]:
    """What settings are that a run with this optimizer does not state, where that differs from AdamW's."""
    part = OPTIMIZERS.get(optimizer) or _OWN.get(optimizer) if isinstance(optimizer, str) else None
    return part.defaults if isinstance(part, Optimizer) else {}


def _levels(built_in: Iterable[str]) -> WithJsonSchema:
    """What an editor takes for a level of a setting: a part that is built in, or a name such as one's own have."""
    own = {"type": "string", "pattern": "^[A-Z][A-Za-z0-9_]*(@[0-9a-f]{12})?$"}
    return WithJsonSchema({"anyOf": [{"enum": [*built_in]}, own]})


def _names(find: Callable[[str], object]) -> AfterValidator:
    def checked(name: str) -> str:
        try:
            find(name)
        except ConfigError as error:
            raise PydanticCustomError("part", "{why}", {"why": str(error)}) from error
        return name

    return AfterValidator(checked)


NormName = Annotated[str, _names(norm_of), _levels(NORMS)]
MlpName = Annotated[str, _names(mlp_of), _levels(MLPS)]
PositionName = Annotated[str, _names(position_of), _levels(POSITIONS)]
OptimizerName = Annotated[str, _names(optimizer_of), _levels(OPTIMIZERS)]
