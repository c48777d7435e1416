"""Hypotheses from plain values and back, and what is wrong with them in a study."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any, cast

from pydantic import BaseModel, ValidationError
from pydantic_core import ErrorDetails

from isoloss.errors import ConfigError, collect, raise_all
from isoloss.study.config import plain_message
from isoloss.study.hypotheses import (
    EffectStated,
    ExponentStated,
    Hypothesis,
    Level,
    OptimumStated,
    PlateauStated,
    RangeStated,
    RatioStated,
    SpikesStated,
)
from isoloss.study.synonyms import did_you_mean, nearest

_KINDS: dict[str, type[Hypothesis]] = {
    "effect": EffectStated,
    "ratio": RatioStated,
    "plateau": PlateauStated,
    "range": RangeStated,
    "spikes": SpikesStated,
    "exponent": ExponentStated,
    "optimum": OptimumStated,
}


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
    *,
    target: float | None = None,
) -> Iterator[ConfigError]:
    """What is wrong with a hypothesis in a study of these factors: levels that they lack.

    Or a response that needs the study's `target`. A factor that the study holds constant is no mistake: the audit says
    that nothing can be learned about it.
    """
    if getattr(hypothesis, "response", None) == "steps_to_target" and target is None:
        text = "response=steps_to_target: state the study's target, the validation loss to get to, as in target: 1.8"
        yield _complaint(number, "response", text)
    for name, level in getattr(hypothesis, "where", ()):
        known = factors.get(name, ())
        if len(known) > 1 and not any(same_level(level, each) for each in known):
            text = f"where: {name} has no level {level!r}; its levels are {list(known)}"
            yield _complaint(number, "where", text)
    if not isinstance(hypothesis, EffectStated | RatioStated):
        return
    known = factors.get(hypothesis.factor, ())
    for level in hypothesis.levels or ():
        if len(known) > 1 and level not in known:
            text = f"{hypothesis.factor} has no level {level!r}; its levels are {list(known)}"
            yield _complaint(number, "levels", text)


def _complaint(number: int, key: str, message: str) -> ConfigError:
    """An error about a key of a hypothesis; its fields are its places in a study file."""
    place = f"hypotheses {number - 1}"
    return ConfigError(f"hypothesis {number}: {message}", (f"{place} {key}", place, "hypotheses"))
