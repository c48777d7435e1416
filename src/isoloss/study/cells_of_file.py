"""The cells of a study as its file states them: factors, paired settings, runs, what is excluded and the design."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from fractions import Fraction as Ratio
from typing import Any, cast

from isoloss.errors import ConfigError, collect
from isoloss.study.budgets import KINDS, Budgets, Kind
from isoloss.study.cells import Cells, Design, Fraction, OneAtATime, Range, Sampled, Scalar
from isoloss.study.config import SETTINGS
from isoloss.study.synonyms import did_you_mean

DESIGNS = "one_at_a_time, {random: 60, seed: 1}, {sobol: 64} or {fraction: 1/2}"
MAX_CELLS = 100_000


def section(values: Mapping[str, Any], key: str) -> dict[str, Any]:
    """The lines under a key. Raises ConfigError where it has none."""
    value = values.get(key)
    if value is None:
        return {}
    if not isinstance(value, dict):
        raise ConfigError(f"{key}: expected 'setting: value' lines under it", (key,))
    return cast("dict[str, Any]", value)


def factors_of(values: Mapping[str, Any], errors: list[ConfigError]) -> dict[str, tuple[Scalar, ...] | Range]:
    """Each factor's levels or range, of `factors` and `budgets`; `errors` grows by what is wrong."""
    found: dict[str, tuple[Scalar, ...] | Range] = {}
    stated = [(part, collect(errors, lambda part=part: section(values, part), {})) for part in ("factors", "budgets")]
    for part, key, value in ((part, key, value) for part, lines in stated for key, value in lines.items()):
        if part == "budgets" and key in KINDS:
            continue
        if part == "budgets" and key not in SETTINGS:
            hint = did_you_mean(key, (*KINDS, *SETTINGS))
            errors.append(ConfigError(f"unknown key '{key}' in budgets: {hint}", (f"budgets {key}",)))
            continue
        if key in found:
            errors.append(ConfigError(f"'{key}' is both in factors and in budgets; keep one", (f"budgets {key}",)))
        if isinstance(value, dict):
            lines = cast("dict[str, Any]", value)
            found[key] = collect(errors, lambda lines=lines, key=key: _range(key, lines), Range(0, 1))
        else:
            found[key] = _levels(part, key, value, errors)
    return found


def budgets_of(values: Mapping[str, Any], errors: list[ConfigError]) -> Budgets | None:
    """What runs may cost; `errors` grows by what is wrong."""
    stated = collect(errors, lambda: section(values, "budgets"), {})
    kinds: list[Kind] = [kind for kind in KINDS if kind in stated]
    if len(kinds) == 1:
        return Budgets(kinds[0], _levels("budgets", kinds[0], stated[kinds[0]], errors))
    if stated:
        errors.append(ConfigError(f"budgets: state levels of one of {', '.join(KINDS)}, and sizes", ("budgets",)))
    return None


def paired_of(values: Mapping[str, Any], errors: list[ConfigError]) -> Iterator[dict[str, tuple[Scalar, ...]]]:
    """Groups of settings whose levels go together: one mapping, or a list of them."""
    stated: Any = values.get("paired") or []
    groups = cast("list[Any]", stated if isinstance(stated, list) else [stated])
    for group in groups:
        if isinstance(group, dict) and group:
            lines = cast("dict[str, Any]", group)
            yield {key: _levels("paired", key, value, errors) for key, value in lines.items()}
        else:
            text = "paired: expected lists that go together, like {n_embd: [64, 128], learning_rate: [3e-3, 1e-3]}"
            errors.append(ConfigError(text, ("paired",)))


def entries_of(values: Mapping[str, Any], key: str, errors: list[ConfigError]) -> Iterator[dict[str, Scalar]]:
    """A list of cells or of parts of them."""
    stated: Any = values.get(key)
    if stated is None:
        return
    entries = cast("list[Any]", stated if isinstance(stated, list) else [None])
    for number, entry in enumerate(entries):
        if isinstance(entry, dict) and entry:
            yield cast("dict[str, Scalar]", entry)
        else:
            text = f"{key}: expected a list of cells, like [{{n_embd: 32, n_head: 4}}]"
            errors.append(ConfigError(text, (f"{key} {number}", key)))


def design_of(values: Mapping[str, Any]) -> Design | None:
    """The design that combines the factors; None for all combinations. Raises ConfigError."""
    stated: Any = values.get("design")
    centre = section(values, "centre")
    if stated == "one_at_a_time":
        return OneAtATime(centre)
    if centre:
        raise ConfigError("centre: only design: one_at_a_time has a centre", ("centre",))
    if stated is None or stated == "full":
        return None
    lines = cast("dict[str, Any]", stated) if isinstance(stated, dict) else {}
    method = next((key for key in lines if key != "seed"), "")
    if method == "fraction" and len(lines) == 1:
        return Fraction(_denominator(lines["fraction"]))
    if method in ("random", "sobol") and lines.keys() <= {method, "seed"}:
        for key, least in ((method, 1), ("seed", 0)):
            value = lines.get(key, 0)
            if isinstance(value, bool) or not isinstance(value, int) or not least <= value <= MAX_CELLS:
                text = f"design: {key}={value!r}: expected a whole number from {least} to {MAX_CELLS:,}"
                raise ConfigError(text, (f"design {key}", "design"))
        return Sampled(method, lines[method], lines.get("seed", 0))
    hint = did_you_mean(method or str(cast(object, stated)), ["one_at_a_time", "random", "sobol", "fraction"])
    raise ConfigError(f"design: {stated!r} is none of {DESIGNS}; {hint}", ("design",))


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
    stated = {"paired": paired, **entries, **design}
    return {"factors": factors, **{key: value for key, value in stated.items() if value}}


def _levels(part: str, key: str, value: Any, errors: list[ConfigError]) -> tuple[Any, ...]:
    if isinstance(value, list):
        return tuple(cast("list[Any]", value))
    text = f"factor '{key}': expected a list of levels, like [4, 8]"
    if part == "factors":
        text += ", or a range, like {from: 1e-4, to: 1e-2, scale: log}"
    errors.append(ConfigError(text, (f"{part} {key}",)))
    return (value,)


def _range(key: str, lines: dict[str, Any]) -> Range:
    place = (f"factors {key}",)
    unknown = next((each for each in lines if each not in ("from", "to", "scale")), None)
    if unknown is not None or not {"from", "to"} <= lines.keys():
        text = f"factor '{key}': expected a range, like {{from: 1e-4, to: 1e-2, scale: log}}"
        raise ConfigError(text, (f"factors {key} {unknown}", *place))
    if (scale := lines.get("scale", "linear")) not in ("linear", "log"):
        raise ConfigError(f"factor '{key}': scale={scale!r}: expected linear or log", (f"factors {key} scale", *place))
    for end in ("from", "to"):
        if isinstance(lines[end], bool) or not isinstance(lines[end], int | float):
            text = f"factor '{key}': {end}={lines[end]!r}: expected a number"
            raise ConfigError(text, (f"factors {key} {end}", *place))
    return Range(lines["from"], lines["to"], scale)


def _denominator(given: Any) -> int:
    """Of 1/2 as text, or 0.5 as a number."""
    text = str(given).strip()
    share = Ratio(text) if re.fullmatch(r"1/[1-9][0-9]{0,3}|0\.[0-9]{1,6}", text) else Ratio(0)
    if share.numerator != 1 or share.denominator < 2 or share.denominator & (share.denominator - 1):
        text = f"design: fraction={given!r}: expected 1/2, 1/4, 1/8 or a smaller power of two"
        raise ConfigError(text, ("design fraction", "design"))
    return share.denominator
