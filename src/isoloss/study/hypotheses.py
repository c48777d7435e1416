"""Hypotheses: what a study's author expects, stated in the study file before anything is trained."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from math import inf
from typing import Annotated, Literal, Self, cast

from pydantic import AfterValidator, BaseModel, BeforeValidator, ConfigDict, Field, WithJsonSchema, model_validator
from pydantic_core import PydanticCustomError

from isoloss.study.config import SEED_SETTINGS, VARIED
from isoloss.study.synonyms import did_you_mean

Positive = Annotated[float, Field(gt=0, allow_inf_nan=False)]
Finite = Annotated[float, Field(allow_inf_nan=False)]
Level = str | int | Finite | bool | None
OneLine = Annotated[
    str,
    Field(min_length=3, max_length=300),
    BeforeValidator(lambda text: " ".join(text.split()) if isinstance(text, str) else text),
]

RESPONSES = (
    "best_val_loss",
    "final_val_loss",
    "best_ema_val_loss",
    "final_ema_val_loss",
    "final_train_loss",
    "best_val_bpb",
    "final_val_bpb",
    "best_ema_val_bpb",
    "final_ema_val_bpb",
    "train_val_gap",
    "best_step",
    "steps_to_target",
    "loss_roughness",
    "median_step_time_s",
    "tokens_per_s",
    "mfu",
    "mfu_a100",
    "train_time_s",
    "eval_time_s",
    "checkpoint_time_s",
    "wall_time_s",
)
"""What is measured of a run: the columns of summary.csv that a hypothesis may be about."""
OF_AVERAGES = ("best_ema_val_loss", "final_ema_val_loss", "best_ema_val_bpb", "final_ema_val_bpb")
"""Those that a run with `ema` alone has."""
TIMED = RESPONSES[RESPONSES.index("median_step_time_s") :]
"""Those that depend on the machine's time."""


def _measured(name: str) -> str:
    if name not in RESPONSES:
        raise PydanticCustomError("response", "not measured of a run: {near}", {"near": did_you_mean(name, RESPONSES)})
    return name


def _setting(name: str) -> str:
    if name not in VARIED:
        raise PydanticCustomError("factor", "not a setting: {near}", {"near": did_you_mean(name, VARIED)})
    return name


Response = Annotated[str, AfterValidator(_measured)]
Factor = Annotated[str, AfterValidator(_setting)]


def _pairs(value: object) -> object:
    """A mapping as pairs, which can be told apart by their hash."""
    return tuple(cast("dict[str, Level]", value).items()) if isinstance(value, dict) else value


Where = Annotated[
    tuple[tuple[Factor, Level], ...],
    BeforeValidator(_pairs),
    WithJsonSchema({"type": "object", "additionalProperties": {"type": ["string", "number", "boolean", "null"]}}),
]
"""Settings and one level of each: the runs that a hypothesis is about."""


class _Stated(BaseModel):
    """What every hypothesis has: the sentence it stands for, in its author's words."""

    model_config = ConfigDict(frozen=True, extra="forbid")
    says: OneLine


class _OfSome(_Stated):
    """A hypothesis that may be about some of the runs alone."""

    where: Where = ()


class _Compared(_OfSome):
    """A hypothesis about two levels of a factor; without `levels` they are the factor's first and last."""

    factor: Factor
    levels: tuple[Level, Level] | None = None

    @model_validator(mode="after")
    def _two_levels(self) -> Self:
        if self.levels is not None and self.levels[0] == self.levels[1]:
            raise PydanticCustomError(
                "levels", "levels: both are {level}; state two", {"level": repr(self.levels[0]), "field": "levels"}
            )
        return self

    def between(self, factors: Mapping[str, tuple[Level, ...]]) -> tuple[Level, Level] | None:
        """The two levels compared in a study with these factors; None where it holds the factor constant."""
        known = factors.get(self.factor, ())
        return None if len(known) < 2 else self.levels or (known[0], known[-1])


class _Bounded(_Stated):
    """A hypothesis that a number lies between `low` and `high`."""

    low: Finite
    high: Finite

    @model_validator(mode="after")
    def _in_order(self) -> Self:
        _check_order(self.low, self.high)
        return self


class EffectStated(_Compared):
    """A response goes `direction` from the first level to the second, averaged over all else.

    With `at_least`, by more than that, in the response's unit: the smallest difference of interest.
    """

    kind: Literal["effect"]
    direction: Literal["up", "down"]
    response: Response = "best_val_loss"
    at_least: Positive | None = None

    @property
    def bound(self) -> float:
        """The difference, second level minus first, that the measured one has to lie beyond."""
        return (self.at_least or 0.0) * (1 if self.direction == "up" else -1)


class RatioStated(_Compared):
    """A response at the second level over that at the first lies between `low` and `high`; either may be left out."""

    kind: Literal["ratio"]
    response: Response
    low: Annotated[float, Field(ge=0, allow_inf_nan=False)] = 0.0
    high: Annotated[float, Field(gt=0)] = inf

    @model_validator(mode="after")
    def _in_order(self) -> Self:
        if (self.low, self.high) == (0.0, inf):
            raise PydanticCustomError("bounds", "low: state low, high or both; any ratio would do", {"field": "low"})
        _check_order(self.low, self.high)
        return self


class PlateauStated(_Stated):
    """More than `share` of the runs have plateaued by step `by_step`, at `tolerance` nats per doubling of steps."""

    kind: Literal["plateau"]
    by_step: Annotated[int, Field(ge=1, strict=True)]
    tolerance: Positive = 0.02
    share: Annotated[float, Field(gt=0, lt=1)] = 0.5


class RangeStated(_Bounded):
    """The mean of a response lies between `low` and `high`; with `device`, of runs trained on such a device."""

    kind: Literal["range"]
    response: Response
    device: Literal["cpu", "cuda", "mps"] | None = None


class SpikesStated(_Stated):
    """Most steps that take longer than `times` the run's median come right after an evaluation."""

    kind: Literal["spikes"]
    times: Annotated[float, Field(gt=1, allow_inf_nan=False)] = 2.0


class ExponentStated(_Bounded):
    """An exponent of the scaling law of this form lies between `low` and `high`."""

    kind: Literal["exponent"]
    form: Literal["LND", "LN", "LD", "LC"] = "LND"
    parameter: Literal["alpha", "beta"]

    @model_validator(mode="after")
    def _has_parameter(self) -> Self:
        known = {"LND": ("alpha", "beta"), "LD": ("beta",)}.get(self.form, ("alpha",))
        if self.parameter not in known:
            raise PydanticCustomError(
                "parameter",
                "form {form} has no exponent {parameter}; it has {known}",
                {"form": self.form, "parameter": self.parameter, "known": " and ".join(known), "field": "parameter"},
            )
        return self


class OptimumStated(_OfSome):
    """The value of a factor at which a response is best lies between `low` and `high` (either may be left out).

    Or, with `moved_by` and `tolerance`, does not move with another factor by more than so many doublings per doubling.
    """

    kind: Literal["optimum"]
    factor: Factor
    response: Response = "best_val_loss"
    low: Finite | None = None
    high: Finite | None = None
    moved_by: Factor | None = None
    tolerance: Positive | None = None

    @model_validator(mode="after")
    def _one_statement(self) -> Self:
        between = self.low is not None or self.high is not None
        if (self.moved_by is None) != (self.tolerance is None):
            text, field = "moved_by and tolerance: state both or neither", "tolerance" if self.moved_by else "moved_by"
            raise PydanticCustomError("optimum", text, {"field": field})
        if between == (self.moved_by is not None):
            text = "low: state low, high or both, or moved_by with tolerance, but not low or high with moved_by"
            raise PydanticCustomError("optimum", text, {"field": "low"})
        for field in ("factor", "moved_by"):
            if getattr(self, field) in SEED_SETTINGS:
                text = "{field}={name}: seeds are labels without order; nothing lies best among them or moves with them"
                raise PydanticCustomError("optimum", text, {"field": field, "name": getattr(self, field)})
        if self.moved_by == self.factor:
            raise PydanticCustomError("optimum", "moved_by: it is the factor itself", {"field": "moved_by"})
        if self.low is not None and self.high is not None:
            _check_order(self.low, self.high)
        return self


Hypothesis = EffectStated | RatioStated | PlateauStated | RangeStated | SpikesStated | ExponentStated | OptimumStated


def claims_time(hypotheses: Iterable[Hypothesis]) -> bool:
    """Whether a hypothesis is about a time: then runs are trained in shuffled order."""
    return any(getattr(hypothesis, "response", None) in TIMED for hypothesis in hypotheses)


def _check_order(low: float, high: float) -> None:
    if not low < high:
        raise PydanticCustomError(
            "bounds", "low={low} is not below high={high}", {"low": low, "high": high, "field": "low"}
        )
