"""Synthetic texts as a study states them: by a random source and its parameters, of which the text is a function."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any, Literal, Self, TypeGuard

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, ValidationError, model_validator
from pydantic_core import ErrorDetails

from isoloss.errors import ConfigError, raise_all
from isoloss.study.config import MAX_INT, plain_message
from isoloss.study.synonyms import did_you_mean
from isoloss.wording import listed

PREFIX = "synthetic:"
"""A corpus whose name begins so is generated."""
MAX_SYMBOLS = 94
"""Printable ASCII characters but the space."""
MAX_CONTEXTS = 1 << 16


def _whole(value: Any) -> Any:
    return int(value) if isinstance(value, float) and value.is_integer() else value


Whole = Annotated[int, BeforeValidator(_whole)]
"""Takes 5e7 as well, which YAML reads as a float."""


class Synthetic(BaseModel):
    """What every source has. Example: `synthetic_of({"synthetic": "markov", "order": 2, …})`."""

    model_config = ConfigDict(extra="forbid", strict=True, frozen=True)

    symbols: Annotated[Whole, Field(ge=2, le=MAX_SYMBOLS)]
    concentration: Annotated[float, Field(ge=0.1, le=1000)] = 2.0
    """Of the random rows of probabilities: the smaller, the fewer symbols share a row."""
    seed: Annotated[Whole, Field(ge=0, le=MAX_INT)]
    tokens: Annotated[Whole, Field(ge=1000, le=MAX_INT)]

    @property
    def name(self) -> str:
        """The one spelling of these parameters: 'synthetic:markov,order=2,…'."""
        parameters = dict(self)
        kind = parameters.pop("synthetic")
        return f"{PREFIX}{','.join([kind, *(f'{key}={value!r}' for key, value in parameters.items())])}"


class Markov(Synthetic):
    """A Markov chain: the next symbol depends on the last `order` ones."""

    synthetic: Literal["markov"]
    order: Annotated[Whole, Field(ge=1, le=16)]

    @model_validator(mode="after")
    def _few_contexts(self) -> Self:
        if self.symbols**self.order > MAX_CONTEXTS:
            raise ValueError(
                f"{self.symbols}^{self.order} contexts of symbols and order are more than {MAX_CONTEXTS:,}; lower one"
            )
        return self


class HiddenMarkov(Synthetic):
    """A Markov chain of hidden states, each of which emits a symbol."""

    synthetic: Literal["hidden_markov"]
    states: Annotated[Whole, Field(ge=2, le=256)]


KINDS: Mapping[str, type[Markov | HiddenMarkov]] = {"markov": Markov, "hidden_markov": HiddenMarkov}
SyntheticShape = Markov | HiddenMarkov


def is_synthetic(corpus: object) -> TypeGuard[str]:
    """Whether this names a text that is generated."""
    return isinstance(corpus, str) and corpus.startswith(PREFIX)


def synthetic_of(value: Mapping[str, Any]) -> Markov | HiddenMarkov:
    """The source of these parameters. Raises what is wrong, at its key."""
    kind = str(value.get("synthetic"))
    if kind not in KINDS:
        raise ConfigError(f"synthetic={kind!r} is no kind of text; {did_you_mean(kind, KINDS)}", ("synthetic",))
    try:
        return KINDS[kind].model_validate(value)
    except ValidationError as error:
        raise_all([_fault(found, kind) for found in error.errors()])
        raise


def synthetic_named(name: str) -> Markov | HiddenMarkov:
    """The source of a name like 'synthetic:markov,order=2,symbols=32,seed=1,tokens=5e7'. Raises ConfigError."""
    kind, *stated = name.removeprefix(PREFIX).split(",")
    from isoloss.study.plainyaml import read_yaml  # here, for benchmarks/gpu.py does without its library

    values: dict[str, Any] = {"synthetic": kind}
    for each in stated:
        key, _, value = each.partition("=")
        values[key] = read_yaml(value, name)[0]
    return synthetic_of(values)


def _fault(found: ErrorDetails, kind: str) -> ConfigError:
    fields = {name: field for name, field in KINDS[kind].model_fields.items() if name != "synthetic"}
    if not found["loc"]:
        return ConfigError(found["msg"].removeprefix("Value error, "), ("order",))
    key = str(found["loc"][0])
    if found["type"] == "missing":
        needed = listed(name for name, field in fields.items() if field.is_required())
        return ConfigError(f"'{key}' is missing; {kind} needs {needed}", ("synthetic",))
    if found["type"] == "extra_forbidden":
        return ConfigError(f"unknown key '{key}' of {kind}: {did_you_mean(key, fields)}", (key,))
    return ConfigError(f"{key}={found['input']!r}: {plain_message(found)}", (key,))
