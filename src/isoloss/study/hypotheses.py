"""Hypotheses: what a study's author expects, stated in the study file before anything is trained."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from math import inf
from types import MappingProxyType
from typing import Annotated, Any, Literal, Self, cast

from pydantic import (
    AfterValidator,
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    ValidationError,
    WithJsonSchema,
    model_validator,
)
from pydantic_core import ErrorDetails, PydanticCustomError

from isoloss.errors import ConfigError, collect, raise_all
from isoloss.study.config import SEED_SETTINGS, SETTINGS, plain_message
from isoloss.study.synonyms import did_you_mean, nearest

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
    "final_train_loss",
    "train_val_gap",
    "best_step",
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
TIMED = RESPONSES[RESPONSES.index("median_step_time_s") :]
"""Those that depend on the machine's time."""


def _measured(name: str) -> str:
    if name not in RESPONSES:
        raise PydanticCustomError("response", "not measured of a run: {near}", {"near": did_you_mean(name, RESPONSES)})
    return name


def _setting(name: str) -> str:
    if name not in SETTINGS:
        raise PydanticCustomError("factor", "not a setting: {near}", {"near": did_you_mean(name, SETTINGS)})
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
_KINDS: dict[str, type[Hypothesis]] = {
    "effect": EffectStated,
    "ratio": RatioStated,
    "plateau": PlateauStated,
    "range": RangeStated,
    "spikes": SpikesStated,
    "exponent": ExponentStated,
    "optimum": OptimumStated,
}


def claims_time(hypotheses: Iterable[Hypothesis]) -> bool:
    """Whether a hypothesis is about a time: then runs are trained in shuffled order."""
    return any(getattr(hypothesis, "response", None) in TIMED for hypothesis in hypotheses)


def hypotheses_of(value: Any) -> tuple[Hypothesis, ...]:
    """Hypotheses from a list of plain values, or as they are. Raises ConfigError, or all of them."""
    if not isinstance(value, list | tuple) or value == []:
        raise ConfigError("expected a list, each entry with 'says' and 'kind'")
    errors: list[ConfigError] = []
    made = [collect(errors, lambda n=n, each=each: _hypothesis(each, n), None) for n, each in enumerate(value, 1)]  # type: ignore[misc]
    raise_all(errors)
    return tuple(each for each in made if each is not None)


def _hypothesis(value: Any, number: int) -> Hypothesis:
    if isinstance(value, BaseModel):
        return cast("Hypothesis", value)
    if not isinstance(value, dict):
        raise _complaint(number, "", "expected 'says', 'kind' and what the kind needs")
    return make_hypothesis(cast("dict[str, Any]", value), number)


def make_hypothesis(values: Mapping[str, Any], number: int) -> Hypothesis:
    """A hypothesis from plain values.

    Raises a ConfigError, or all of them, that name it by its number in the file, from 1: one for each key at fault.
    """
    kind = values.get("kind")
    stated = _KINDS.get(kind) if isinstance(kind, str) else None
    if stated is None:
        what = "the key 'kind' is missing" if kind is None else f"kind={kind!r}"
        raise _complaint(number, "kind", f"{what}: {did_you_mean(str(kind), _KINDS)}")
    try:
        return stated.model_validate(dict(values))
    except ValidationError as error:
        unknown = [key for key in values if key not in stated.model_fields]
        misspelt = {nearest(key, stated.model_fields) for key in unknown}
        messages = {key: f"unknown key '{key}': {did_you_mean(key, stated.model_fields)}" for key in unknown}
        for found in error.errors():
            key = str(found["loc"][0]) if found["loc"] else str(found.get("ctx", {})["field"])
            if key not in misspelt:
                messages.setdefault(key, _message(found, key, values))
        raise_all([_complaint(number, key, message) for key, message in messages.items()])
        raise AssertionError from error


def _message(found: ErrorDetails, key: str, values: Mapping[str, Any]) -> str:
    if not found["loc"]:
        return found["msg"]
    if found["type"] == "missing" and key not in values:
        return f"the key '{key}' is missing"
    return f"{key}={values[key]!r}: {plain_message(found)}"


def hypothesis_values(hypothesis: Hypothesis) -> dict[str, Any]:
    """Plain values from which make_hypothesis makes the same hypothesis, defaults written out: they may change."""
    values: dict[str, Any] = {"says": hypothesis.says, "kind": hypothesis.kind}
    values |= hypothesis.model_dump(exclude_none=True)
    where: dict[str, Level] = dict(getattr(hypothesis, "where", ()))
    plain = {key: list(value) if key == "levels" else value for key, value in values.items() if key != "where"}
    return plain | ({"where": where} if where else {})


def same_level(a: object, b: object) -> bool:
    """Whether two values are the same level: 1 and 1.0 are, true and 1 are not."""
    return a == b and isinstance(a, bool) == isinstance(b, bool)


def hypothesis_faults(
    hypothesis: Hypothesis,
    number: int,
    factors: Mapping[str, tuple[Level, ...]],
    constants: Mapping[str, Level] = MappingProxyType({}),
) -> Iterator[ConfigError]:
    """What is wrong with a hypothesis in a study of these factors and constants: levels that they lack.

    A factor that the study holds constant is no mistake: the audit says that nothing can be learned about it.
    """
    for name, level in getattr(hypothesis, "where", ()):
        known = factors.get(name) or ((constants[name],) if name in constants else ())
        if known and not any(same_level(level, each) for each in known):
            text = f"where: {name} has no level {level!r}; its levels are {list(known)}"
            yield _complaint(number, "where", text)
    if not isinstance(hypothesis, EffectStated | RatioStated):
        return
    known = factors.get(hypothesis.factor, ())
    for level in hypothesis.levels or ():
        if len(known) > 1 and level not in known:
            text = f"{hypothesis.factor} has no level {level!r}; its levels are {list(known)}"
            yield _complaint(number, "levels", text)


def _check_order(low: float, high: float) -> None:
    if not low < high:
        raise PydanticCustomError(
            "bounds", "low={low} is not below high={high}", {"low": low, "high": high, "field": "low"}
        )


def _complaint(number: int, key: str, message: str) -> ConfigError:
    """An error about a key of a hypothesis; its fields are its places in a study file."""
    place = f"hypotheses {number - 1}"
    return ConfigError(f"hypothesis {number}: {message}", (f"{place} {key}", place, "hypotheses"))
