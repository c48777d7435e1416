"""Study files: YAML 1.2 in and out, with file and line in every complaint."""

from __future__ import annotations

import io
import re
from collections.abc import Mapping
from dataclasses import dataclass
from importlib import resources
from pathlib import Path
from typing import Any, cast

from ruamel.yaml import YAML
from ruamel.yaml.scalarstring import DoubleQuotedScalarString

from isoloss.errors import ConfigError
from isoloss.spec.config import TokenizerName, did_you_mean
from isoloss.spec.hypotheses import Hypothesis, hypothesis_place, hypothesis_values, make_hypothesis
from isoloss.spec.plainyaml import MAX_BYTES, Plain, read_yaml
from isoloss.spec.study import ANY_DATA, Scalar, Study, seeds_from

KEYS = ("name", "description", "corpus", "tokenizer", "base", "factors", "seeds", "hypotheses")
SECTIONS = ("factors", "base")
_BARE = re.compile(r"[A-Za-z][A-Za-z0-9 ._/-]*")


@dataclass(frozen=True)
class _Document:
    """A study file as plain values, and the line each key of it stands on, sections' keys before its own."""

    values: Mapping[str, Any]
    lines: Mapping[str, int]
    source: str

    def located(self, error: ConfigError) -> ConfigError:
        """The same complaint, prefixed by source:line of the first of its fields that the file names."""
        line = next((f":{self.lines[name]}" for name in error.fields if name in self.lines), "")
        return ConfigError(f"{self.source}{line}: {error}", error.fields)


def builtin_studies() -> list[str]:
    """Names of the studies that ship with isoloss."""
    folder = resources.files("isoloss.spec") / "studies"
    return sorted(entry.name.removesuffix(".yaml") for entry in folder.iterdir() if entry.name.endswith(".yaml"))


def find_study(reference: str) -> Study:
    """A study by file path or built-in name. Raises ConfigError with file:line."""
    if reference in builtin_studies():
        text = (resources.files("isoloss.spec") / "studies" / f"{reference}.yaml").read_text(encoding="utf-8")
        return parse_study(text, f"{reference} (built in)")
    path = Path(reference)
    try:
        if not path.is_file():
            hint = did_you_mean(reference, builtin_studies())
            raise ConfigError(f"no study file and no built-in study is called '{reference}'; {hint}")
        if path.stat().st_size > MAX_BYTES:
            raise ConfigError(f"{path}: larger than {MAX_BYTES:,} bytes; this is no study file")
        text = path.read_text(encoding="utf-8")
    except (OSError, ValueError) as error:
        raise ConfigError(f"{path}: cannot be read as UTF-8 text: {error}") from error
    return parse_study(text, str(path))


def parse_study(text: str, source: str) -> Study:
    """The study a YAML text states; `source` names it in errors. Raises ConfigError with source:line."""
    document = _load(text, source)
    values = document.values
    try:
        for key in values:
            if key not in KEYS:
                raise ConfigError(f"unknown key '{key}': {did_you_mean(key, KEYS)}", (key,))
        if "name" not in values:
            raise ConfigError("the key 'name' is missing; the study's results are kept under it")
        study = Study(
            name=_text(values, "name", ""),
            description=_text(values, "description", ""),
            corpus=_text(values, "corpus", "tinyshakespeare"),
            tokenizer=cast("TokenizerName", _text(values, "tokenizer", "char")),
            base={key: _scalar(key, value) for key, value in _section(values, "base").items()},
            factors={key: _levels(key, value) for key, value in _section(values, "factors").items()},
            seeds=seeds_from(values.get("seeds", 1)),
            hypotheses=_hypotheses(values.get("hypotheses")),
        )
        study.expand(ANY_DATA)
    except ConfigError as error:
        raise document.located(error) from error
    return study


def parse_scalar(text: str, source: str) -> Scalar:
    """One setting's value as YAML reads it (1e-3 is a number, true a flag). Raises ConfigError naming `source`."""
    return _scalar(source, read_yaml(text, source)[0])


def dump_study(study: Study) -> str:
    """The study as YAML, readable back by parse_study."""
    document: dict[str, Any] = {
        "name": study.name,
        "description": study.description,
        "corpus": study.corpus,
        "tokenizer": study.tokenizer,
        "base": dict(study.base),
        "factors": {key: list(levels) for key, levels in study.factors.items()},
        "seeds": list(study.seeds),
    }
    if study.hypotheses:
        document["hypotheses"] = [hypothesis_values(hypothesis) for hypothesis in study.hypotheses]
    yaml = cast("Any", YAML())
    yaml.default_flow_style = None
    yaml.width = MAX_BYTES  # a line that is folded between two spaces loses one
    stream = io.StringIO()
    yaml.dump(_quoted(document), stream)
    return stream.getvalue()


def _quoted(value: Any) -> Any:
    """The value with every text but the plainest in quotes: not all that the library leaves bare can be read again."""
    if isinstance(value, dict):
        return {key: _quoted(entry) for key, entry in cast("dict[str, Any]", value).items()}
    if isinstance(value, list):
        return [_quoted(item) for item in cast("list[Any]", value)]
    bare = not isinstance(value, str) or _BARE.fullmatch(value)
    return value if bare else DoubleQuotedScalarString(value)


def _load(text: str, source: str) -> _Document:
    values, found = read_yaml(text, source)
    if not isinstance(values, dict):
        raise ConfigError(f"{source}: expected the keys {', '.join(KEYS)}")
    lines: dict[str, int] = {}
    for depth, section in ((1, None), *((2, section) for section in SECTIONS)):
        lines |= {str(at[-1]): n for at, n in found.items() if len(at) == depth and section in (None, at[0])}
    for place, line in found.items():
        match place:
            case ("hypotheses", int(index), *keys) if len(keys) < 2:
                lines[" ".join([hypothesis_place(index + 1), *map(str, keys)])] = line
            case _:
                pass
    return _Document(cast("dict[str, Any]", values), lines, source)


def _text(values: Mapping[str, Any], key: str, default: str) -> str:
    value = values.get(key, default)
    if not isinstance(value, str):
        raise ConfigError(f"{key}={value!r}: expected text", (key,))
    return value.strip()


def _section(values: Mapping[str, Any], key: str) -> dict[str, Any]:
    value = values.get(key)
    if value is None:
        return {}
    if not isinstance(value, dict):
        raise ConfigError(f"{key}: expected 'setting: value' lines under it", (key,))
    return {str(name): level for name, level in cast("dict[Any, Any]", value).items()}


def _hypotheses(value: Any) -> tuple[Hypothesis, ...]:
    if value is None:
        return ()
    if not isinstance(value, list) or not value:
        raise ConfigError("hypotheses: expected a list, each entry with 'says' and 'kind'", ("hypotheses",))
    return tuple(_hypothesis(stated, number) for number, stated in enumerate(cast("list[Any]", value), 1))


def _hypothesis(value: Any, number: int) -> Hypothesis:
    place = hypothesis_place(number)
    if not isinstance(value, dict):
        raise ConfigError(f"{place}: expected 'says', 'kind' and what the kind needs", (place, "hypotheses"))
    values: dict[str, Any] = {}
    for key, entry in cast("dict[Any, Any]", value).items():
        items = cast("list[Any]", entry) if isinstance(entry, list) else None
        name = f"{place} {key}"
        values[str(key)] = _scalar(name, entry) if items is None else [_scalar(name, item) for item in items]
    return make_hypothesis(values, number)


def _scalar(key: str, value: Any) -> Scalar:
    if isinstance(value, Plain):
        return value
    raise ConfigError(f"{key}: expected one value, got {type(value).__name__}; lists belong under factors", (key,))


def _levels(key: str, value: Any) -> tuple[Scalar, ...]:
    if not isinstance(value, list):
        raise ConfigError(f"factor '{key}': expected a list of levels, like [4, 8]", (key,))
    return tuple(_scalar(key, level) for level in cast("list[Any]", value))
