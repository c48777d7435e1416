"""What is wrong with the settings that a study states, and with their levels, one by one."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping, Sequence
from itertools import chain
from typing import Any

from isoloss.errors import ConfigError, collect
from isoloss.study.cells import Cells, Range, Scalar, Tuned
from isoloss.study.config import SEED_SETTINGS, SETTINGS, TEXTS, VARIED, RunConfig, check_setting
from isoloss.study.formula import check_formula, is_formula
from isoloss.study.schema import StudyFile
from isoloss.study.synonyms import did_you_mean
from isoloss.wording import level as in_words


def cell_faults(cells: Cells, base: Mapping[str, Scalar]) -> Iterator[ConfigError]:
    """What is wrong with each part alone; `fields` begins with the place in a study file."""
    for key, levels in cells.factors.items():
        yield from _range_faults(key, levels) if isinstance(levels, Range) else _factor_faults("factors", key, levels)
    for group in cells.paired:
        for key, levels in group.items():
            yield from _factor_faults("paired", key, levels, repeats=True)
        if len({len(levels) for levels in group.values()}) > 1:
            sizes = ", ".join(f"{key} {len(levels)}" for key, levels in group.items())
            yield ConfigError(f"paired settings need equally many levels, one for each cell: {sizes}", ("paired",))
    for number, run in enumerate(cells.runs):
        for key, value in run.items():
            yield from setting_faults(f"runs {number}", key, value)
        if run.keys() != cells.runs[0].keys():
            odd = next(iter(run.keys() ^ cells.runs[0].keys()))
            text = f"runs: {odd} stands in some entries and not in others; state it in all, or under base"
            yield ConfigError(text, (f"runs {number} {odd}", f"runs {number}"))
    yield from _stated_twice(cells, base)
    factors = {*cells.factors, *chain(*cells.paired), *chain(*cells.runs[:1])}
    for key, tuned in cells.tuned.items():
        yield from _tuned_faults(key, tuned, cells, factors)
    varied = {*factors, *cells.tuned}
    for number, entry in enumerate(cells.exclude):
        for key in (key for key in entry if key not in varied):
            text = f"exclude: {key} is no factor of this study: {did_you_mean(key, varied)}"
            yield ConfigError(text, (f"exclude {number} {key}", "exclude"))


def setting_faults(
    section: str, key: str, value: object, level: str = "", *, formula: bool = False
) -> Iterator[ConfigError]:
    """What is wrong with a setting in `section`, or with one level of it; some sections may hold formulas."""
    place = (f"{section} {key}{level}", f"{section} {key}")
    if key not in (SETTINGS if section == "base" else VARIED):
        hint = did_you_mean(key, SETTINGS)
        if key == "seed" or key in StudyFile.model_fields:
            hint = f"{key} is stated beside base and factors, not in them"
        elif key.isdigit():
            hint = f"write a number such as 0,{key} with a point: 0.{key}"
        yield ConfigError(f"unknown setting '{key}' in {section.split()[0]}: {hint}", place)
    elif not isinstance(value, Scalar):
        got = type(value).__name__
        yield ConfigError(f"{key}: expected one value, got {got}; lists belong under factors", place)
    elif is_formula(value) and not formula:
        yield ConfigError(f"{key}: {value!r} is a formula, which stands under base; levels are values", place)
    else:
        errors: list[ConfigError] = []
        check = check_formula if is_formula(value) else check_setting
        collect(errors, lambda: check(key, value), None)  # type: ignore[arg-type]
        yield from (ConfigError(error.args[0], place) for error in errors)


def _stated_twice(cells: Cells, base: Mapping[str, Scalar]) -> Iterator[ConfigError]:
    sections: list[tuple[str, Sequence[str]]] = [("base", [*base]), ("factors", [*cells.factors])]
    sections += [("paired", [*group]) for group in cells.paired]
    sections += [("runs", [*cells.runs[0]])] if cells.runs else []
    sections += [("tuned", [*cells.tuned])]
    first: dict[str, str] = {}
    for section, keys in sections:
        for key in keys:
            if key in first:
                text = f"'{key}' is both in {first[key]} and {'a factor' if section == 'factors' else f'in {section}'}"
                yield ConfigError(f"{text}; keep one", (f"{first[key]} {key}",))
            first.setdefault(key, section)


def _factor_faults(
    section: str, key: str, levels: tuple[Any, ...], within: str = "", *, repeats: bool = False
) -> Iterator[ConfigError]:
    place = (f"{section} {key}{within}", f"{section} {key}")
    if key not in VARIED:
        yield from setting_faults(section, key, None)
    elif not levels:
        yield ConfigError(f"factor '{key}' has no levels; list at least one value", place)
    elif len(set(map(repr, levels))) < len(levels) and not repeats:
        yield ConfigError(f"factor '{key}' repeats a level: {list(levels)}; list each once", place)
    else:
        for index, level in enumerate(levels):
            yield from setting_faults(section, key, level, f"{within} {index}")


def _tuned_faults(key: str, tuned: Tuned, cells: Cells, factors: Collection[str]) -> Iterator[ConfigError]:
    place, over = f"tuned {key}", tuned.over
    if key in SEED_SETTINGS:
        yield ConfigError(f"tuned: {key}: seeds are labels, of which none is best; list them under factors", (place,))
        return
    if key in ("tokenizer", *TEXTS):
        text = f"tuned: {key}: losses per token do not compare between its levels; list it under factors"
        yield ConfigError(text, (place,))
        return
    if over in (*SEED_SETTINGS, *cells.tuned):
        why = "tuned itself" if over in cells.tuned else "a seed, over which values are averaged"
        yield ConfigError(f"tuned: {key}: over={over!r} is {why}; name a factor", (f"{place} over", place))
        return
    if over is not None and over not in factors:
        hint = did_you_mean(over, factors if over in VARIED else SETTINGS)
        text = f"tuned: {key}: {over} is no factor of this study: {hint}"
        yield ConfigError(text, (f"{place} over", place))
        return
    for level, values in tuned.values.items():
        within = "" if over is None else f" {in_words(level)}"
        if over is not None and level not in cells.stated[over]:
            text = f"tuned: {key}: {over} has no level {level!r}; its levels are {list(cells.stated[over])}"
            yield ConfigError(text, (f"{place}{within}", place))
        else:
            yield from _factor_faults("tuned", key, values, within)


def _range_faults(key: str, span: Range) -> Iterator[ConfigError]:
    place = (f"factors {key}",)
    if key not in VARIED:
        yield from setting_faults("factors", key, None)
        return
    default = RunConfig.model_fields[key].default
    if isinstance(default, bool | str) or key in TEXTS:
        yield ConfigError(f"factor '{key}' is no number, so it has no range; list its levels", place)
        return
    ends = [each for end in (span.low, span.high) for each in setting_faults("factors", key, end)]
    yield from ends
    if not ends and not span.low < span.high:
        yield ConfigError(f"factor '{key}': from {span.low:g} is not below to {span.high:g}", place)
    elif not ends and span.scale == "log" and span.low <= 0:
        yield ConfigError(f"factor '{key}': a log scale begins above 0, not at {span.low:g}", place)
