"""RunConfig: everything that defines one run's result, under nanoGPT's names, validated and frozen."""

from __future__ import annotations

import difflib
from collections.abc import Iterable, Mapping
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator
from pydantic_core import PydanticCustomError

from isoloss.errors import ConfigError

Precision = Literal["fp32", "bf16", "fp16"]
EvalMode = Literal["exact", "sampled"]
TokenizerName = Literal["char", "byte"]

MAX_INT = 2**31 - 1
"""Steps, sequences and lengths are counted in 32 bits where batches are drawn."""
MAX_LAYERS = 10_000
MAX_ITERS = 2_000_000
"""Every step is a row of a file that is read whole."""

PositiveInt = Annotated[int, Field(ge=1, le=MAX_INT, strict=True)]
CountInt = Annotated[int, Field(ge=0, le=MAX_INT, strict=True)]
PositiveFloat = Annotated[float, Field(gt=0, allow_inf_nan=False)]
RateFloat = Annotated[float, Field(ge=0, allow_inf_nan=False)]
FractionFloat = Annotated[float, Field(ge=0, lt=1, allow_inf_nan=False)]


class RunConfig(BaseModel):
    """One run. Defaults are nanoGPT's shakespeare_char recipe at 4 layers, 4 heads, 128 wide and a block of 64.

    Lengths are in tokens, horizons and intervals in optimizer steps. `batch_size` counts sequences in one
    micro-batch; a step sees `gradient_accumulation_steps` micro-batches.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    corpus: str
    corpus_sha256: str
    tokenizer: TokenizerName = "char"
    vocab_size: Annotated[int, Field(ge=1, le=65536, strict=True)]

    n_layer: Annotated[int, Field(ge=1, le=MAX_LAYERS, strict=True)] = 4
    n_head: PositiveInt = 4
    n_embd: PositiveInt = 128
    block_size: PositiveInt = 64
    dropout: FractionFloat = 0.0
    bias: bool = False

    batch_size: PositiveInt = 12
    gradient_accumulation_steps: PositiveInt = 1
    max_iters: Annotated[PositiveInt, Field(le=MAX_ITERS)] = 2000
    learning_rate: PositiveFloat = 1e-3
    decay_lr: bool = True
    warmup_iters: CountInt = 100
    lr_decay_iters: PositiveInt | None = None
    min_lr: RateFloat = 1e-4
    weight_decay: RateFloat = 0.1
    beta1: FractionFloat = 0.9
    beta2: FractionFloat = 0.99
    grad_clip: RateFloat = 1.0

    eval: EvalMode = "exact"
    eval_interval: PositiveInt = 200
    eval_iters: PositiveInt = 200
    eval_train_tokens: PositiveInt = 16384

    precision: Precision = "fp32"
    seed: Annotated[int, Field(ge=0, lt=2**63, strict=True)] = 1337

    @model_validator(mode="after")
    def _heads_divide_width(self) -> RunConfig:
        if self.n_embd % self.n_head:
            raise PydanticCustomError(
                "heads",
                "n_embd={n_embd} is not divisible by n_head={n_head}; choose a multiple",
                {"n_embd": self.n_embd, "n_head": self.n_head, "fields": ("n_embd", "n_head")},
            )
        return self

    @property
    def decay_horizon(self) -> int:
        """Step at which the cosine reaches min_lr: lr_decay_iters, by default max_iters."""
        return self.max_iters if self.lr_decay_iters is None else self.lr_decay_iters


RESOLVED_FIELDS = frozenset({"corpus", "corpus_sha256", "tokenizer", "vocab_size", "seed"})
"""Fields a study states elsewhere than among its settings (`base` and `factors`)."""

SETTINGS: tuple[str, ...] = tuple(name for name in RunConfig.model_fields if name not in RESOLVED_FIELDS)
"""Names a study may set in `base`, vary in `factors` and override with --set."""

MEMBER_FIELDS = frozenset(
    {
        "n_head",
        "dropout",
        "max_iters",
        "learning_rate",
        "decay_lr",
        "warmup_iters",
        "lr_decay_iters",
        "min_lr",
        "weight_decay",
        "grad_clip",
        "seed",
    }
)
"""Fields in which the members of one stack may differ; all others must be equal to train together."""


def shape_key(config: RunConfig) -> tuple[tuple[str, Any], ...]:
    """What runs must share to be members of one stack: every field that is not in MEMBER_FIELDS."""
    return tuple((name, getattr(config, name)) for name in RunConfig.model_fields if name not in MEMBER_FIELDS)


def did_you_mean(name: str, known: Iterable[str]) -> str:
    """A hint at the nearest known name, or the list of all when none is near."""
    known = list(known)
    near = difflib.get_close_matches(name, known, n=1)
    return f"did you mean '{near[0]}'?" if near else f"known: {', '.join(known)}"


def make_config(values: Mapping[str, Any]) -> RunConfig:
    """A RunConfig from plain values. Raises ConfigError: one line, with the fields it concerns."""
    for name in values:
        if name not in RunConfig.model_fields:
            raise ConfigError(f"unknown setting '{name}': {did_you_mean(name, SETTINGS)}", (name,))
    try:
        return RunConfig(**values)
    except ValidationError as error:
        first = error.errors()[0]
        context = first.get("ctx", {})
        fields = tuple(context["fields"]) if "fields" in context else tuple(str(part) for part in first["loc"][:1])
        message = first["msg"] if not first["loc"] else f"{fields[0]}={first['input']!r}: {first['msg']}"
        raise ConfigError(message, fields) from error
