"""The cells of a study in the shapes its file has them in: factors, paired settings, runs, exclusions, the design."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from fractions import Fraction as Ratio
from typing import Annotated, Any, Literal, cast

from pydantic import BaseModel, ConfigDict, Field, ValidationError
from typing_extensions import TypedDict

from isoloss.errors import ConfigError, collect, raise_all
from isoloss.study.budgets import KINDS
from isoloss.study.cells import Cell, Cells, Design, Fraction, OneAtATime, Range, Sampled, Scalar, Tuned
from isoloss.study.config import SETTINGS, plain_message
from isoloss.study.plainyaml import read_yaml
from isoloss.study.synonyms import did_you_mean
from isoloss.wording import level

DESIGNS = "one_at_a_time, {random: 60, seed: 1}, {sobol: 64} or {fraction: 1/2}"
MAX_CELLS = 100_000
Levels = tuple[Any, ...]

SampleSize = Annotated[int, Field(ge=1, le=MAX_CELLS)]
SampleSeed = Annotated[int, Field(ge=0, le=MAX_CELLS)]


class RangeShape(BaseModel):
    """Numbers of which a sampled design draws."""

    model_config = ConfigDict(extra="forbid", strict=True)

    low: int | float = Field(alias="from")
    high: int | float = Field(alias="to")
    scale: Literal["linear", "log"] = "linear"


class RandomShape(BaseModel):
    """Cells drawn independently."""

    model_config = ConfigDict(extra="forbid", strict=True)

    random: SampleSize
    seed: SampleSeed = 0


class SobolShape(BaseModel):
    """Cells of a Sobol sequence."""

    model_config = ConfigDict(extra="forbid", strict=True)

    sobol: SampleSize
    seed: SampleSeed = 0


class FractionShape(TypedDict):
    """One in so many of all combinations of two levels: 1/2, 1/4, 1/8, …"""

    fraction: str | float


SAMPLES: Mapping[str, type[BaseModel]] = {"random": RandomShape, "sobol": SobolShape}
DesignShape = Literal["one_at_a_time", "full"] | RandomShape | SobolShape | FractionShape


def section_of(value: Any) -> dict[str, Any]:
    """The lines under a key. Raises ConfigError."""
    if not isinstance(value, dict):
        raise ConfigError("expected 'setting: value' lines under it")
    return cast("dict[str, Any]", value)


def levels_or_range_of(value: Any) -> dict[str, Levels | Range]:
    """Each factor's levels or range. Raises what is wrong, at its factor."""
    return _each(section_of(value), _levels_or_range, "factor '{}'")


def _levels_of(value: Any, section: str) -> dict[str, Levels]:
    return _each(section_of(value), _levels, f"{section}: {{}}")


def budgets_of(value: Any) -> dict[str, Levels]:
    """The levels of one kind of budget, and of settings. Raises what is wrong, at its key."""
    lines = section_of(value)
    known = (*KINDS, *SETTINGS)
    unknown = [key for key in lines if key not in known]
    raise_all([ConfigError(f"unknown key '{key}' in budgets: {did_you_mean(key, known)}", (key,)) for key in unknown])
    if lines and len(lines.keys() & {*KINDS}) != 1:
        raise ConfigError(f"state levels of one of {', '.join(KINDS)}, and sizes")
    return _levels_of(lines, "budgets")


def paired_of(value: Any) -> tuple[dict[str, Levels], ...]:
    """Groups of settings whose levels go together: one mapping, or a list of them. Raises what is wrong."""
    groups = cast("list[Any]", value if isinstance(value, list) else [value])
    if any(not isinstance(group, dict) or not group for group in groups):
        raise ConfigError("expected lists that go together, like {n_embd: [64, 128], learning_rate: [3e-3, 1e-3]}")
    return tuple(_levels_of(group, "paired") for group in groups)


def tuned_of(value: Any) -> dict[str, Tuned]:
    """What each setting is tried at: one list, or lists by the levels of a factor. Raises what is wrong, at its key."""
    return _each(section_of(value), _tuned, "tuned: {}")


def entries_of(value: Any) -> tuple[Cell, ...]:
    """A list of cells or of parts of them. Raises what is wrong, at its entry."""
    entries = cast("list[Any]", value if isinstance(value, list) else [None])
    faulty = [number for number, entry in enumerate(entries) if not isinstance(entry, dict) or not entry]
    raise_all(
        [ConfigError("expected a list of cells, like [{n_embd: 32, n_head: 4}]", (f"{number}",)) for number in faulty]
    )
    return tuple(entries)


def design_of(value: Any) -> Design | None:
    """The design that combines the factors; None for all combinations. Raises ConfigError."""
    if value is None or value == "full":
        return None
    if value == "one_at_a_time":
        return OneAtATime()
    lines = cast("dict[str, Any]", value) if isinstance(value, dict) else {}
    method = next((key for key in lines if key != "seed"), "")
    if method == "fraction" and len(lines) == 1:
        return Fraction(_denominator(lines["fraction"]))
    if method in ("random", "sobol"):
        try:
            SAMPLES[method].model_validate(lines)
        except ValidationError as error:
            raise_all([_within("design", each) for each in _faults(error, f"expected {DESIGNS}")])
        return Sampled(method, lines[method], lines.get("seed", 0))
    hint = did_you_mean(method or str(cast(object, value)), ["one_at_a_time", "random", "sobol", "fraction"])
    raise ConfigError(f"expected {DESIGNS}; {hint}")


def cells_values(cells: Cells) -> dict[str, Any]:
    """Plain values under the keys of a study file, without those that state nothing."""
    factors = {
        key: {"from": levels.low, "to": levels.high, "scale": levels.scale}
        if isinstance(levels, Range)
        else list(levels)
        for key, levels in cells.factors.items()
    }
    paired = [{key: list(levels) for key, levels in group.items()} for group in cells.paired]
    entries = {key: list(map(dict[str, Scalar], getattr(cells, key))) for key in ("runs", "exclude")}
    match cells.design:
        case OneAtATime(centre):
            design: dict[str, Any] = {"design": "one_at_a_time", "centre": dict(centre)}
        case Sampled(method, n, seed):
            design = {"design": {method: n, "seed": seed}}
        case Fraction(denominator):
            design = {"design": {"fraction": f"1/{denominator}"}}
        case None:
            design = {}
    tuned = {
        name: list(each.values[None])
        if each.over is None
        else {"over": each.over} | {level(key): list(values) for key, values in each.values.items()}
        for name, each in cells.tuned.items()
    }
    stated = {"paired": paired, **entries, **design, "tuned": tuned}
    return {"factors": factors, **{key: value for key, value in stated.items() if value}}


def _each(lines: Mapping[str, Any], parse: Callable[[Any], Any], named: str) -> dict[str, Any]:
    """What `parse` makes of the value of each key. Raises what is wrong, at its key, by what `named` calls it."""
    errors: list[ConfigError] = []

    def parsed(key: str) -> Any:
        try:
            return parse(lines[key])
        except ConfigError as error:
            places = [(f"{key} {field}", key) for each in error.each for field in (each.fields[:1] or ("",))]
            said = [f"{named.format(key)}: {each.args[0]}" for each in error.each]
            raise_all([ConfigError(text, place) for text, place in zip(said, places, strict=True)])

    made = {key: collect(errors, lambda key=key: parsed(key), None) for key in lines}
    raise_all(errors)
    return made


def _levels(value: Any, more: str = "") -> Levels:
    if not isinstance(value, list):
        raise ConfigError(f"expected a list of levels, like [4, 8]{more}")
    return tuple(cast("list[Any]", value))


def _levels_or_range(value: Any) -> Levels | Range:
    if not isinstance(value, dict):
        return _levels(value, ", or a range, like {from: 1e-4, to: 1e-2, scale: log}")
    try:
        span = RangeShape.model_validate(value)
    except ValidationError as error:
        raise_all(_faults(error, "expected a range, like {from: 1e-4, to: 1e-2, scale: log}"))
        raise AssertionError from error
    return Range(span.low, span.high, span.scale)


def _tuned(value: Any) -> Tuned:
    expected = "expected values, like [1e-3, 2e-3], or {over: optimizer, adamw: [1e-3, 2e-3], lion: [1e-4, 2e-4]}"
    if isinstance(value, list) and value:
        return Tuned({None: tuple(cast("list[Any]", value))})
    lines: dict[str, Any] = dict(cast("dict[str, Any]", value)) if isinstance(value, dict) else {}
    over = lines.pop("over", None)
    if not isinstance(over, str) or not lines:
        raise ConfigError(expected)
    values = _each(lines, _levels, "{}")
    by_level = {None if text == "None" else read_yaml(text, "tuned")[0]: each for text, each in values.items()}
    if len(by_level) < len(values):
        raise ConfigError(f"two of {', '.join(values)} are the same level of {over}")
    return Tuned(by_level, over)


def _faults(error: ValidationError, expected: str) -> list[ConfigError]:
    """What pydantic found in a mapping, each with its key, or what was expected where keys are missing or unknown."""
    return [
        ConfigError(expected, (str(found["loc"][0]),))
        if found["type"] in ("missing", "extra_forbidden")
        else ConfigError(f"{found['loc'][0]}={found['input']!r}: {plain_message(found)}", (str(found["loc"][0]),))
        for found in error.errors()
    ]


def _within(key: str, error: ConfigError) -> ConfigError:
    return ConfigError(f"{key}: {error.args[0]}", error.fields)


def _denominator(given: Any) -> int:
    """Of 1/2 as text, or 0.5 as a number."""
    text = str(given).strip()
    share = Ratio(text) if re.fullmatch(r"1/[1-9][0-9]{0,3}|0\.[0-9]{1,6}", text) else Ratio(0)
    if share.numerator != 1 or share.denominator < 2 or share.denominator & (share.denominator - 1):
        text = f"design: fraction={given!r}: expected 1/2, 1/4, 1/8 or a smaller power of two"
        raise ConfigError(text, ("fraction",))
    return share.denominator
