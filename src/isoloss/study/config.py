"""RunConfig: everything that defines one run's result, under nanoGPT's names, validated and frozen."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any, Literal, cast, get_args

from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator
from pydantic_core import ErrorDetails, PydanticCustomError

from isoloss.errors import ConfigError, raise_all
from isoloss.study.numbers import number_hint
from isoloss.study.parts import MlpName, NormName, OptimizerName, PositionName, defaults_of, position_of
from isoloss.study.synonyms import did_you_mean
from isoloss.study.tokenizer_names import MAX_VOCAB_SIZE, MEANING, TokenizerName

Precision = Literal["fp32", "bf16", "fp16"]
Schedule = Literal["cosine", "linear", "constant", "wsd", "inverse_sqrt"]
DecayShape = Literal["linear", "1-sqrt", "cosine"]
Parametrization = Literal["standard", "mup", "completep"]
EvalMode = Literal["exact", "sliding", "sampled"]

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
Seed = Annotated[int, Field(ge=0, lt=2**63, strict=True)]


class RunConfig(BaseModel):
    """One run. Defaults are nanoGPT's shakespeare_char recipe at 4 layers, 4 heads, 128 wide and a block of 64.

    Lengths are in tokens, horizons and intervals in optimizer steps. `batch_size` counts sequences in one
    micro-batch; a step sees `gradient_accumulation_steps` micro-batches.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    corpus: str
    val_corpus: str = ""
    corpus_sha256: str
    tokenizer_sha256: str = ""
    vocab_size: Annotated[int, Field(ge=1, le=MAX_VOCAB_SIZE, strict=True)]

    tokenizer: TokenizerName = Field("char", description=MEANING)

    n_layer: Annotated[int, Field(ge=1, le=MAX_LAYERS, strict=True)] = Field(4, description="Transformer blocks.")
    n_head: PositiveInt = Field(4, description="Attention heads per block; n_embd must be a multiple of it.")
    n_embd: PositiveInt = Field(128, description="Width of the model (d_model), in channels.")
    block_size: PositiveInt = Field(64, description="Context length, in tokens.")
    dropout: FractionFloat = Field(0.0, description="Probability of dropping an activation, 0 to below 1.")
    bias: bool = Field(False, description="Use biases in linear layers and layer norms.")
    norm: NormName = Field("layernorm", description="layernorm; rmsnorm: without the mean (Zhang & Sennrich 2019).")
    position: PositionName = Field(
        "learned", description="learned: a table; rope: queries and keys are rotated (Su et al. 2021); none."
    )
    mlp: MlpName = Field(
        "gelu", description="gelu; relu2: its square (So et al. 2021); swiglu (Shazeer 2020), as many parameters."
    )
    n_kv_head: PositiveInt | None = Field(
        None, description="Heads of keys and values, shared by n_head / n_kv_head queries each; None: n_head."
    )
    qk_norm: bool = Field(False, description="Queries and keys of each head are divided by their root mean square.")
    tie_embeddings: bool = Field(True, description="The head is the token embedding; False: a matrix of its own.")
    window: PositiveInt | None = Field(
        None, description="Tokens that attention sees, the last and those before it; None: all of the block."
    )
    parametrization: Parametrization = Field(
        "standard", description="How initialisation, multipliers and rates follow width (mup) and depth (completep)."
    )
    base_n_embd: PositiveInt | None = Field(None, description="Width at which mup and completep are as they are tuned.")
    base_n_layer: PositiveInt | None = Field(None, description="Likewise the depth, of completep.")

    batch_size: PositiveInt = Field(12, description="Sequences in a micro-batch, of block_size tokens each.")
    gradient_accumulation_steps: PositiveInt = Field(1, description="Micro-batches per optimizer step.")
    max_iters: Annotated[PositiveInt, Field(le=MAX_ITERS)] = Field(
        2000, description="Length of training, in optimizer steps."
    )
    learning_rate: PositiveFloat = Field(1e-3, description="Peak learning rate, reached after warmup_iters steps.")
    schedule: Schedule = Field(
        "cosine",
        description="What the learning rate does after warmup: fall by a cosine or linearly, stay constant, stay and "
        "then fall over decay_share of its horizon (wsd), or fall as the inverse square root of the step.",
    )
    decay_lr: bool = Field(True, description="Learning rate by its schedule; False: constant, without warmup.")
    warmup_iters: CountInt = Field(100, description="Steps of linear warmup from 0 to learning_rate.")
    lr_decay_iters: PositiveInt | None = Field(
        None, description="Step at which the learning rate reaches min_lr; None: max_iters."
    )
    decay_share: Annotated[float, Field(gt=0, le=1, allow_inf_nan=False)] = Field(
        0.2, description="Share of its horizon over which the learning rate falls, if schedule is wsd."
    )
    decay_shape: DecayShape = Field(
        "linear", description="How it falls, if schedule is wsd: linear, 1-sqrt (of the part that is behind) or cosine."
    )
    min_lr: RateFloat = Field(1e-4, description="Learning rate at the end of its decay.")
    optimizer: OptimizerName = Field(
        "adamw", description="adamw; muon: for matrices of blocks, AdamW for the rest; lion; sgd: with momentum beta1."
    )
    muon_learning_rate: PositiveFloat | None = Field(
        None, description="Peak learning rate of Muon's matrices, if optimizer is muon; None: 0.02."
    )
    weight_decay: RateFloat = Field(0.1, description="Decoupled weight decay of matrices and embeddings; sgd: coupled.")
    beta1: FractionFloat = Field(
        0.9, description="Decay of the mean gradient, per step; of lion its share in the update, of sgd the momentum."
    )
    beta2: FractionFloat = Field(
        0.99, description="Decay of the mean squared gradient, per step; of lion that of its momentum."
    )
    grad_clip: RateFloat = Field(1.0, description="Norm that the gradient is clipped to; 0: no clipping.")
    ema: FractionFloat = Field(
        0.0,
        description="Decay, per step, of an exponential moving average of the weights, evaluated beside them; 0: none.",
    )

    eval: EvalMode = Field(
        "exact",
        description="exact: the same blocks of each split every time; sliding: blocks that overlap, of which the last "
        "eval_stride tokens count; sampled: eval_iters random batches, as nanoGPT.",
    )
    eval_interval: PositiveInt = Field(200, description="Steps from one evaluation to the next.")
    eval_iters: PositiveInt = Field(200, description="Batches of each split per evaluation, if eval is sampled.")
    eval_train_tokens: PositiveInt = Field(
        16384, description="Tokens of the training split per evaluation, unless eval is sampled."
    )

    eval_val_tokens: CountInt = Field(
        131072, description="Tokens of the validation split per evaluation, unless eval is sampled; 0: all of it."
    )
    eval_stride: PositiveInt | None = Field(
        None, description="Tokens from one block of an evaluation to the next, if eval is sliding; at most block_size."
    )

    precision: Precision = Field("fp32", description="Arithmetic of matrix products in training.")
    init_seed: Seed | None = Field(None, description="Whole number that decides the initial weights; None: seed.")
    data_seed: Seed | None = Field(
        None,
        description="Whole number that decides the noise of training: order of batches, dropout masks and, if eval is "
        "sampled, the batches of evaluations; None: seed.",
    )
    seed: Seed = 1337

    @model_validator(mode="before")
    @classmethod
    def _default_by_optimizer(cls, values: Any) -> Any:
        """Settings that are not stated are the optimizer's own, by its source."""
        if not isinstance(values, dict):
            return values
        given = cast("dict[str, Any]", values)
        own = defaults_of(given.get("optimizer"))
        return given | {name: value for name, value in own.items() if given.get(name) is None}

    @model_validator(mode="after")
    def _fit_together(self) -> RunConfig:
        if self.n_embd % self.n_head:
            raise self._contradiction("{n_embd} is not divisible by {n_head}; choose a multiple", "n_embd", "n_head")
        if self.n_kv_head is not None and self.n_head % self.n_kv_head:
            raise self._contradiction(
                "{n_head} is not divisible by {n_kv_head}; choose a divisor", "n_head", "n_kv_head"
            )
        needed = {"standard": (), "mup": ("base_n_embd",), "completep": ("base_n_embd", "base_n_layer")}
        for name in needed[self.parametrization]:
            if getattr(self, name) is None:
                text = "{parametrization} needs " + name + ", at which its rates are tuned"
                raise self._contradiction(text, "parametrization", name)
        if self.parametrization != "standard" and self.optimizer == "sgd":
            text = "{parametrization} has rates for adamw, lion and muon, and {optimizer} would need others"
            raise self._contradiction(text, "parametrization", "optimizer")
        if not self.decay_lr and self.schedule != "cosine":
            text = "{decay_lr} is a constant rate without warmup, and {schedule} another; leave decay_lr out"
            raise self._contradiction(text, "schedule", "decay_lr")
        if self.schedule == "wsd" and self.warmup_iters > round((1 - self.decay_share) * self.decay_horizon, 6):
            text = (
                "{warmup_iters} and {decay_share} are longer together than the horizon of the rate, {max_iters} steps"
            )
            if self.lr_decay_iters is not None:
                text = text.replace("{max_iters} steps", "{lr_decay_iters}")
            fields = "decay_share", "warmup_iters", "max_iters" if self.lr_decay_iters is None else "lr_decay_iters"
            raise self._contradiction(text, *fields)
        if position_of(self.position).rotation and self.n_embd // self.n_head % 2:
            text = "{position} rotates pairs of channels, and {n_embd} with {n_head} gives a head an odd number of them"
            raise self._contradiction(text, "position", "n_embd", "n_head")
        if self.eval == "sliding" and self.eval_stride is None:
            text = "{eval} needs eval_stride, the tokens from one block to the next, at most block_size"
            raise self._contradiction(text, "eval", "eval_stride")
        if self.eval != "sliding" and self.eval_stride is not None:
            text = "{eval_stride} is of eval: sliding alone, and this is {eval}; leave eval_stride out, or set eval"
            raise self._contradiction(text, "eval_stride", "eval")
        if (self.eval_stride or 0) > self.block_size:
            text = "{eval_stride} is more than {block_size}, so that tokens between two blocks would not count"
            raise self._contradiction(f"{text}; choose at most block_size", "eval_stride", "block_size")
        return self

    def _contradiction(self, text: str, *fields: str) -> PydanticCustomError:
        """An error between settings, which stand in the text as {name}."""
        return PydanticCustomError(
            "contradiction",
            text.format(**{name: f"{name}={getattr(self, name)}" for name in fields}),  # type: ignore[arg-type]
            {"fields": fields},
        )

    @property
    def decay_horizon(self) -> int:
        """Step at which a rate that decays reaches min_lr: lr_decay_iters, by default max_iters."""
        return self.max_iters if self.lr_decay_iters is None else self.lr_decay_iters

    @property
    def eval_scored(self) -> int:
        """Tokens that count in each block of an evaluation, the last ones: eval_stride where it slides, else all."""
        return self.eval_stride or self.block_size

    @property
    def seed_of_weights(self) -> int:
        """The seed of the initial weights: init_seed, by default seed."""
        return self.seed if self.init_seed is None else self.init_seed

    @property
    def seed_of_data(self) -> int:
        """The seed of batches, dropout masks and sampled evaluations: data_seed, by default seed."""
        return self.seed if self.data_seed is None else self.data_seed


RESOLVED_FIELDS = frozenset({"corpus", "val_corpus", "corpus_sha256", "tokenizer_sha256", "vocab_size", "seed"})
"""Fields a study states elsewhere than among its settings (`base` and `factors`)."""

_FIELDS = frozenset(RunConfig.model_fields)

SETTINGS: tuple[str, ...] = tuple(name for name in RunConfig.model_fields if name not in RESOLVED_FIELDS)
"""Names a study may set in `base`, vary in `factors` and override with --set."""

TEXTS = ("corpus", "val_corpus")
"""Names of texts, which a study states beside its settings or varies as it does these."""
VARIED = (*SETTINGS, *TEXTS)
"""All that a study may vary."""


def is_whole(name: str) -> bool:
    """Whether a setting's numbers are whole ones."""
    annotation: Any = RunConfig.model_fields[name].annotation
    return (
        annotation is int or int in get_args(annotation) or any(int in get_args(each) for each in get_args(annotation))
    )


SEED_SETTINGS = ("init_seed", "data_seed")
"""Settings that stand in for `seed` in a part of what it decides. Their values are labels, without order."""


BEFORE_THEY_WERE_SETTINGS: Mapping[str, Any] = {"eval_val_tokens": 0}
"""What runs did that were recorded before these were settings."""

ANY_TEXT: Mapping[str, Any] = {"corpus": "", "corpus_sha256": "", "vocab_size": 65}  # tiny Shakespeare's
"""Stands in for a text that is not at hand, where settings alone are checked."""


def make_config(values: Mapping[str, Any]) -> RunConfig:
    """A RunConfig from plain values. Raises a ConfigError, or all of them, with the fields each concerns."""
    raise_all([_unknown_setting(str(name)) for name in values if name not in _FIELDS])
    try:
        return RunConfig(**values)
    except ValidationError as error:
        raise_all([_as_config_error(found) for found in error.errors()])
        raise AssertionError from error


def recorded_config(values: Mapping[str, Any]) -> RunConfig:
    """A RunConfig as a run's files have it, in which settings may be missing that were added since. Raises likewise."""
    return make_config({**BEFORE_THEY_WERE_SETTINGS, **values})


def check_setting(name: str, value: object) -> None:
    """Raises ConfigError when a setting cannot have this value, whatever the others are."""
    try:
        make_config({**ANY_TEXT, name: value})
    except ConfigError as error:
        raise_all([found for found in error.each if found.fields == (name,)])


def _unknown_setting(name: str) -> ConfigError:
    return ConfigError(f"unknown setting '{name}': {did_you_mean(name, SETTINGS)}", (name,))


def _as_config_error(found: ErrorDetails) -> ConfigError:
    if not found["loc"]:
        return ConfigError(found["msg"], tuple(found.get("ctx", {})["fields"]))
    name = str(found["loc"][0])
    return ConfigError(f"{name}={found['input']!r}: {plain_message(found)}", (name,))


def plain_message(found: ErrorDetails) -> str:
    """What pydantic says of a value, or how to write the number that it was meant for."""
    wanted = {"int": int, "float": float}.get(found["type"].partition("_")[0])
    return (wanted and number_hint(found["input"], wanted)) or found["msg"]
