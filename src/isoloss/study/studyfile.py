"""Study files: YAML 1.2 in and out, with file and line in every complaint."""

from __future__ import annotations

import io
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from importlib import resources
from typing import Any, cast

from ruamel.yaml import YAML
from ruamel.yaml.scalarstring import DoubleQuotedScalarString

from isoloss.errors import MAX_COUNTED, ConfigError, collect, raise_all
from isoloss.files import user_path
from isoloss.study.cell_faults import STUDY_KEYS
from isoloss.study.cells_of_file import budgets_of, cells_values, design_of, entries_of, factors_of, paired_of, section
from isoloss.study.config import SETTINGS, TokenizerName
from isoloss.study.hypotheses import Hypothesis, SpikesStated, hypothesis_values, make_hypothesis
from isoloss.study.numbers import byte_count
from isoloss.study.plainyaml import MAX_BYTES, Plain, read_yaml
from isoloss.study.study import FIRST_SEED, Order, Scalar, Study, seeds_from
from isoloss.study.synonyms import did_you_mean, meant, nearest
from isoloss.study.texts import ANY_DATA, Corpus, corpus_from, share_from

KEYS = STUDY_KEYS
SECTIONS = ("budgets", "factors", "base")
_FAULTY = SpikesStated(says="has errors", kind="spikes")
"""Stands for a hypothesis with errors, so that those after it keep their numbers."""
_BARE = re.compile(r"[A-Za-z][A-Za-z0-9 ._/-]*")


@dataclass(frozen=True)
class _Document:
    """A study file as plain values, and the line of each place in it, as 'factors n_embd 2' (indices from 0)."""

    values: Mapping[str, Any]
    unknown: Sequence[str]
    lines: Mapping[str, int]
    source: str

    def raise_all(self, errors: Sequence[ConfigError]) -> None:
        """Raises what is wrong, from top to bottom, each with source:line of the first of its fields that is here."""
        lines = {error: next((self.lines[at] for at in error.fields if at in self.lines), 0) for error in errors}
        raise_all(
            [
                ConfigError(f"{self.source}{f':{line}' if line else ''}: {error.args[0]}", error.fields)
                for error, line in sorted(lines.items(), key=lambda pair: pair[1])
            ]
        )


def builtin_studies() -> list[str]:
    """Names of the studies that ship with isoloss."""
    folder = resources.files("isoloss.study") / "studies"
    return sorted(entry.name.removesuffix(".yaml") for entry in folder.iterdir() if entry.name.endswith(".yaml"))


def find_study(reference: str) -> Study:
    """A study by file path or built-in name; its text is looked for beside the file first. Raises ConfigError."""
    if reference in builtin_studies():
        text = (resources.files("isoloss.study") / "studies" / f"{reference}.yaml").read_text(encoding="utf-8")
        return parse_study(text, f"{reference} (built in)")
    path = user_path(reference)
    try:
        if not path.is_file():
            hint = did_you_mean(reference, builtin_studies())
            raise ConfigError(f"no study file and no built-in study is called '{reference}'; {hint}")
        if path.stat().st_size > MAX_BYTES:
            raise ConfigError(f"{path}: larger than {MAX_BYTES:,} bytes; this is no study file")
        text = path.read_text(encoding="utf-8")
    except (OSError, ValueError) as error:
        raise ConfigError(f"{path}: cannot be read as UTF-8 text: {error}") from error
    study = parse_study(text, str(path))
    beside = study.text.beside(path.parent)
    return study if beside == study.text else replace(study, corpus=beside.corpus, val_corpus=beside.val_corpus)


def parse_study(text: str, source: str) -> Study:
    """The study a YAML text states; `source` names it in errors.

    Raises ConfigError with source:line, or ConfigErrors with everything that is wrong; of text that is not plain YAML
    the first fault alone.
    """
    document = _load(text, source)
    values = document.values
    errors: list[ConfigError] = []
    if "name" not in values:
        errors.append(ConfigError("the key 'name' is missing; the study's results are kept under it"))

    def study() -> Study:
        made = Study(
            name=collect(errors, lambda: _text(values, "name", "study"), "study"),
            description=collect(errors, lambda: _text(values, "description", ""), ""),
            corpus=collect(errors, lambda: corpus_from(values, "corpus", "tinyshakespeare"), "tinyshakespeare") or "",
            val_corpus=collect(errors, lambda: corpus_from(values, "val_corpus", None), None),
            val_share=collect(errors, lambda: share_from(values), None),
            tokenizer=cast("TokenizerName", collect(errors, lambda: _text(values, "tokenizer", "char"), "char")),
            base=collect(errors, lambda: section(values, "base"), {}),
            factors=factors_of(values, errors),
            budgets=budgets_of(values, errors),
            paired=tuple(paired_of(values, errors)),
            runs=tuple(entries_of(values, "runs", errors)),
            exclude=tuple(entries_of(values, "exclude", errors)),
            design=collect(errors, lambda: design_of(values), None),
            order=cast("Order", collect(errors, lambda: _text(values, "order", "longest_first"), "longest_first")),
            disk=collect(errors, lambda: _disk(values.get("disk")), None),
            seeds=collect(errors, lambda: seeds_from(values.get("seeds", 1)), (FIRST_SEED,)),
            hypotheses=tuple(_hypotheses(values.get("hypotheses"), errors)),
        )
        made.expand(ANY_DATA)
        return made

    made = collect(errors, study, None)
    # A setting that stands outside base and factors would seem to have its default beside those that are inside.
    misplaced = {meant(key, SETTINGS) for key in document.unknown}
    errors = [error for error in errors if not misplaced.intersection(error.fields)]
    document.raise_all([*map(_unknown_key, document.unknown), *errors])
    return cast("Study", made)


def parse_scalar(text: str, source: str) -> Scalar:
    """One setting's value as YAML reads it (1e-3 is a number, true a flag). Raises ConfigError naming `source`."""
    value = read_yaml(text, source)[0]
    if isinstance(value, Plain):
        return value
    raise ConfigError(f"{source}: expected one value, got {type(value).__name__}; lists belong under factors")


def dump_study(study: Study) -> str:
    """The study as YAML, readable back by parse_study."""
    document: dict[str, Any] = {
        "name": study.name,
        "description": study.description,
        "corpus": _stated(study.corpus),
        **({"val_corpus": _stated(study.val_corpus)} if study.val_corpus is not None else {}),
        **({"val_share": study.val_share} if study.val_share is not None else {}),
        "tokenizer": study.tokenizer,
        "base": dict(study.base),
        **cells_values(study.cells),
        **({"budgets": {study.budgets.kind: list(study.budgets.levels)}} if study.budgets else {}),
        "seeds": list(study.seeds),
    }
    if study.order != "longest_first":
        document["order"] = study.order
    if study.disk is not None:
        document["disk"] = study.disk
    if study.hypotheses:
        document["hypotheses"] = [hypothesis_values(hypothesis) for hypothesis in study.hypotheses]
    yaml = cast("Any", YAML())
    yaml.default_flow_style = None
    yaml.width = MAX_BYTES  # a line that is folded between two spaces loses one
    stream = io.StringIO()
    yaml.dump(_quoted(document), stream)
    return stream.getvalue()


def _stated(corpus: Corpus) -> str | list[str]:
    return corpus if isinstance(corpus, str) else list(corpus)


def _quoted(value: Any) -> Any:
    """The value with every text but the plainest in quotes: not all that the library leaves bare can be read again."""
    if isinstance(value, dict):
        return {key: _quoted(entry) for key, entry in cast("dict[str, Any]", value).items()}
    if isinstance(value, list):
        return [_quoted(item) for item in cast("list[Any]", value)]
    bare = not isinstance(value, str) or _BARE.fullmatch(value)
    return value if bare else DoubleQuotedScalarString(value)


def _load(text: str, source: str) -> _Document:
    read, found = read_yaml(text, source)
    if not isinstance(read, dict):
        raise ConfigError(f"{source}: expected the keys {', '.join(KEYS)}")
    values = cast("dict[str, Any]", read)
    unknown = [key for key in values if key not in KEYS][:MAX_COUNTED]
    for typed in unknown:  # read as what it stands for, to find what else is wrong
        known = None if meant(typed, SETTINGS) else nearest(typed, KEYS)
        if known is not None and known not in values:
            values[known] = values[typed]
            found |= {(known, *place[1:]): line for place, line in found.items() if place[0] == typed}
    lines: dict[str, int] = {}
    for part in SECTIONS:  # an error between settings names them alone
        lines |= {str(place[1]): line for place, line in found.items() if len(place) == 2 and place[0] == part}
    lines |= {" ".join(map(str, place)): line for place, line in found.items()}
    return _Document(values, unknown, lines, source)


def _unknown_key(key: str) -> ConfigError:
    setting = meant(key, SETTINGS)
    if setting is None:
        hint = did_you_mean(key, KEYS)
    else:
        hint = f"settings stand under base, or with a list of levels under factors: use {setting} there"
    return ConfigError(f"unknown key '{key}': {hint}", (key,))


def _text(values: Mapping[str, Any], key: str, default: str) -> str:
    value = values.get(key, default)
    if not isinstance(value, str):
        raise ConfigError(f"{key}={value!r}: expected text", (key,))
    return value.strip()


def _disk(value: Any) -> int | None:
    found = byte_count(value)
    if found is None and value is not None:
        hint = "expected an amount such as 500MB, 2GB or 1.5GiB, or a whole number of bytes"
        raise ConfigError(f"disk={value!r}: {hint}", ("disk",))
    return found


def _hypotheses(value: Any, errors: list[ConfigError]) -> Iterator[Hypothesis]:
    if value is None:
        return
    if not isinstance(value, list) or not value:
        expected = "hypotheses: expected a list, each entry with 'says' and 'kind'"
        errors.append(ConfigError(expected, ("hypotheses",)))
        return
    for number, stated in enumerate(cast("list[Any]", value), 1):
        yield collect(errors, lambda stated=stated, number=number: _hypothesis(stated, number), _FAULTY)


def _hypothesis(value: Any, number: int) -> Hypothesis:
    if not isinstance(value, dict):
        expected = f"hypothesis {number}: expected 'says', 'kind' and what the kind needs"
        raise ConfigError(expected, (f"hypotheses {number - 1}", "hypotheses"))
    return make_hypothesis(cast("dict[str, Any]", value), number)
