"""Study files: YAML 1.2 in and out, with file and line in every complaint."""

from __future__ import annotations

import io
from collections.abc import Mapping
from importlib import resources
from pathlib import Path
from typing import Any, cast

from ruamel.yaml import YAML
from ruamel.yaml.comments import CommentedMap
from ruamel.yaml.error import MarkedYAMLError, YAMLError

from isoloss.errors import ConfigError
from isoloss.spec.config import TokenizerName, did_you_mean
from isoloss.spec.study import DataFacts, Scalar, Study, seeds_from

KEYS = ("name", "description", "corpus", "tokenizer", "base", "factors", "seeds")
MAX_BYTES = 1_000_000
ANY_DATA = DataFacts(sha256="", vocab_size=1)
"""Stands in for the corpus while a file is read: every cell is validated before anything is fetched."""


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
    if not path.is_file():
        hint = did_you_mean(reference, builtin_studies())
        raise ConfigError(f"no study file and no built-in study is called '{reference}'; {hint}")
    try:
        if path.stat().st_size > MAX_BYTES:
            raise ConfigError(f"{path}: larger than {MAX_BYTES:,} bytes; this is no study file")
        return parse_study(path.read_text(encoding="utf-8"), str(path))
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(f"{path}: cannot be read as UTF-8 text: {error}") from error


def parse_study(text: str, source: str) -> Study:
    """The study a YAML text states; `source` names it in errors. Raises ConfigError with source:line."""
    document = _load(text, source)
    try:
        _check_keys(document)
        seeds = document.get("seeds", 1)
        study = Study(
            name=_text(document, "name", ""),
            description=_text(document, "description", ""),
            corpus=_text(document, "corpus", "tinyshakespeare"),
            tokenizer=cast("TokenizerName", _text(document, "tokenizer", "char")),
            base={key: _scalar(key, value) for key, value in _mapping(document, "base").items()},
            factors={key: _levels(key, value) for key, value in _mapping(document, "factors").items()},
            seeds=seeds_from(list(seeds) if isinstance(seeds, list) else seeds),
        )
        study.expand(ANY_DATA)
        return study
    except ConfigError as error:
        raise located(error, document, source) from error


def dump_study(study: Study) -> str:
    """The study as YAML, one key a line, readable back by parse_study."""
    document = {
        "name": study.name,
        "description": study.description,
        "corpus": study.corpus,
        "tokenizer": study.tokenizer,
        "base": dict(study.base),
        "factors": {key: list(levels) for key, levels in study.factors.items()},
        "seeds": list(study.seeds),
    }
    yaml = YAML()
    yaml.default_flow_style = None
    yaml.width = 110
    stream = io.StringIO()
    yaml.dump(document, stream)
    return stream.getvalue()


def parse_scalar(text: str, source: str) -> Scalar:
    """One setting's value as YAML reads it (1e-3 is a number, true a flag). Raises ConfigError naming `source`."""
    try:
        return _scalar(source, YAML(typ="safe").load(text))
    except YAMLError as error:
        raise ConfigError(f"{source}: not a value") from error


def located(error: ConfigError, document: CommentedMap, source: str) -> ConfigError:
    """The same complaint, prefixed by source:line of the first of its fields that stands in the document."""
    for name in error.fields:
        for section in (document, document.get("factors"), document.get("base")):
            if isinstance(section, CommentedMap) and name in section:
                return ConfigError(f"{source}:{section.lc.key(name)[0] + 1}: {error}", error.fields)
    return ConfigError(f"{source}: {error}", error.fields)


def _load(text: str, source: str) -> CommentedMap:
    yaml = YAML(typ="rt")
    try:
        document = yaml.load(text)
    except MarkedYAMLError as error:
        line = f":{error.problem_mark.line + 1}" if error.problem_mark else ""
        raise ConfigError(f"{source}{line}: not valid YAML: {error.problem or error.context}") from error
    except (YAMLError, ValueError, RecursionError) as error:
        raise ConfigError(f"{source}: not valid YAML: {str(error).splitlines()[0]}") from error
    if not isinstance(document, CommentedMap):
        raise ConfigError(f"{source}: expected the keys {', '.join(KEYS)}")
    return document


def _check_keys(document: CommentedMap) -> None:
    for key in document:
        if key not in KEYS:
            raise ConfigError(f"unknown key '{key}': {did_you_mean(str(key), KEYS)}", (key,))
    if "name" not in document:
        raise ConfigError("the key 'name' is missing; the study's results are kept under it")


def _text(document: CommentedMap, key: str, default: str) -> str:
    value = document.get(key, default)
    if not isinstance(value, str):
        raise ConfigError(f"{key}={value!r}: expected text", (key,))
    return str(value).strip()


def _mapping(document: CommentedMap, key: str) -> Mapping[str, Any]:
    value = document.get(key)
    if value is None:
        return {}
    if not isinstance(value, CommentedMap) or not all(isinstance(name, str) for name in value):
        raise ConfigError(f"{key}: expected 'setting: value' lines under it", (key,))
    return value


def _scalar(key: str, value: Any) -> Scalar:
    if isinstance(value, bool) or value is None:
        return value
    for plain in (int, float, str):
        if isinstance(value, plain):
            return plain(value)
    raise ConfigError(f"{key}: expected one value, got {type(value).__name__}; lists belong under factors", (key,))


def _levels(key: str, value: Any) -> tuple[Scalar, ...]:
    if not isinstance(value, list):
        raise ConfigError(f"factor '{key}': expected a list of levels, like [4, 8]", (key,))
    return tuple(_scalar(key, level) for level in value)
