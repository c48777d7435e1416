"""Study files: YAML 1.2 in and out, with file and line in every complaint."""

from __future__ import annotations

import io
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from importlib import resources
from pathlib import Path
from typing import Any, cast

from ruamel.yaml import YAML
from ruamel.yaml.scalarstring import DoubleQuotedScalarString

from isoloss.errors import MAX_COUNTED, ConfigError, collect, raise_all
from isoloss.files import user_path
from isoloss.study import schema
from isoloss.study.budgets import KINDS, Budgets
from isoloss.study.cell_shapes import cells_values
from isoloss.study.cells import OneAtATime
from isoloss.study.config import SETTINGS, TEXTS, VARIED
from isoloss.study.corpora import Corpus, beside_folder, corpus_at, corpus_values
from isoloss.study.corpus_levels import spelled_out, with_corpora_named
from isoloss.study.datasets import compared_loss
from isoloss.study.hypotheses import Hypothesis
from isoloss.study.plainyaml import MAX_BYTES, Plain, read_yaml
from isoloss.study.plugins import with_plugins
from isoloss.study.schema import StudyFile, read_study_file
from isoloss.study.stated_hypotheses import hypothesis_values
from isoloss.study.study import Scalar, Study
from isoloss.study.synonyms import did_you_mean, meant, nearest
from isoloss.study.texts import ANY_DATA
from isoloss.study.tokenizer_names import FILE

KEYS = tuple(StudyFile.model_fields)
SECTIONS = ("budgets", "factors", "base")
_BARE = re.compile(r"[A-Za-z][A-Za-z0-9 ._/-]*")


@dataclass(frozen=True)
class _Document:
    """A study file as plain values, and the line of each place in it, as 'factors n_embd 2' (indices from 0)."""

    values: Mapping[str, Any]
    lines: Mapping[str, int]
    source: str
    errors: Sequence[ConfigError]
    """What is wrong with corpora among its levels."""

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
    study = parse_study(text, str(path), beside=path.parent)
    beside = study.text.beside(path.parent)
    names = {*study.corpora, *(str(level) for name in TEXTS for level in study.stated.get(name, ()))}
    found = {name: beside_folder(study.corpora.get(name, name), path.parent) for name in sorted(names)}
    corpora = {name: corpus for name, corpus in found.items() if corpus != name}
    return replace(study, corpus=beside.corpus, val_corpus=beside.val_corpus, corpora=corpora)


def parse_study(
    text: str, source: str, unstated: Mapping[str, Scalar] | None = None, beside: Path | None = None
) -> Study:
    """The study a YAML text states; `source` names it in errors, `unstated` what settings are that it does not state.

    Tokenizers' files are looked for `beside` it first.

    Raises ConfigError with source:line, or ConfigErrors with everything that is wrong; of text that is not plain YAML
    the first fault alone.
    """
    document = _load(text, source, beside)
    stated, errors = read_study_file(document.values)
    errors += document.errors
    unsettled = _unsettled(errors)
    more: list[ConfigError] = []

    def study() -> Study:
        made = _study_of(stated, more, unstated or {})
        made.first_runs(ANY_DATA)
        return made

    made = collect(more, study, None)
    # A setting that stands outside base and factors, or with an error, would seem to have its default elsewhere.
    document.raise_all([*errors[:MAX_COUNTED], *(error for error in more if not unsettled.intersection(error.fields))])
    return cast("Study", made)


def _study_of(stated: StudyFile, errors: list[ConfigError], unstated: Mapping[str, Scalar]) -> Study:
    """The study that a file states; `errors` grows by keys that contradict each other. Raises ConfigError."""
    sizes = {key: levels for key, levels in stated.budgets.items() if key not in KINDS}
    budgets = [
        Budgets(kind, cast("tuple[float, ...]", stated.budgets[kind])) for kind in KINDS if kind in stated.budgets
    ]
    for key in sizes.keys() & stated.factors.keys():
        errors.append(ConfigError(f"'{key}' is both in factors and in budgets; keep one", (f"budgets {key}",)))
    design = stated.design
    if isinstance(design, OneAtATime):
        design = OneAtATime(stated.centre)
    elif stated.centre:
        errors.append(ConfigError("centre: only design: one_at_a_time has a centre", ("centre",)))
    factors = {**stated.factors, **sizes}
    known = {*factors, *stated.tuned, *stated.base, *(key for group in (*stated.paired, *stated.runs) for key in group)}
    implied: dict[str, tuple[Scalar, ...]] = {}  # levels that tuned settings have lists for
    for each in stated.tuned.values():
        if each.over in VARIED and each.over not in known:
            implied[each.over] = tuple(dict.fromkeys((*implied.get(each.over, ()), *each.values)))
    for key in ("tokenizer", *TEXTS):
        if key in stated.model_fields_set and key in known:
            errors.append(ConfigError(f"{key} is stated by itself and among the settings; keep one", (key,)))
    same: dict[str, Any] = {key: getattr(stated, key) for key in KEYS if key not in ("factors", "budgets", "centre")}
    base = {**stated.base, **{key: value for key, value in unstated.items() if key not in known}}
    same |= {key: stated.corpora.get(str(same[key]), same[key]) for key in TEXTS}
    same |= {"design": design, "factors": {**implied, **factors}, "budgets": next(iter(budgets), None), "base": base}
    study = Study(**same)
    if (loss := compared_loss(study.datasets)) == "val_loss":
        return study
    return replace(study, hypotheses=tuple(_about(f"best_{loss}", each) for each in study.hypotheses))


def _about(response: str, hypothesis: Hypothesis) -> Hypothesis:
    """The hypothesis, about a response where it states none of its own."""
    if "response" not in type(hypothesis).model_fields or "response" in hypothesis.model_fields_set:
        return hypothesis
    return hypothesis.model_copy(update={"response": response})


def _unsettled(errors: Sequence[ConfigError]) -> set[str]:
    """Settings of which something is wrong, by their names."""
    named = (place.rpartition(" ")[2] for error in errors for place in error.fields[:1])
    return {name for typed in named if (name := meant(typed, SETTINGS)) is not None}


def parse_scalar(text: str, source: str) -> Scalar:
    """One setting's value as YAML reads it (1e-3 is a number, true a flag). Raises ConfigError naming `source`."""
    value = read_yaml(text, source)[0]
    if isinstance(value, Plain):
        return value
    raise ConfigError(f"{source}: expected one value, got {type(value).__name__}; lists belong under factors")


def corpus_in_words(words: Sequence[str], source: str, named: Mapping[str, Corpus] | None = None) -> Corpus:
    """The corpus that options of a command line state: names, or one as a study file has it in braces.

    A mixture may name corpora that are `named`.
    Example: corpus_in_words(["{mix: {a.txt: 0.7, b.txt: 0.3}}"], "--corpus"). Raises ConfigError naming `source`.
    """
    braces = [each[:1] for each in words] == ["{"]
    stated = read_yaml(words[0], source)[0] if braces else words[0] if len(words) == 1 else [*words]
    return corpus_at(source, spelled_out(stated, named or {}))


def dump_study(study: Study) -> str:
    """The study as YAML, readable back by parse_study."""
    corpora = {_quoted(name): corpus_values(corpus, study.corpora) for name, corpus in study.corpora.items()}
    document: dict[str, Any] = {
        "name": study.name,
        "description": study.description,
        **({} if study.states("corpus") else {"corpus": corpus_values(study.corpus, study.corpora)}),
        **({"val_corpus": corpus_values(study.val_corpus, study.corpora)} if study.val_corpus is not None else {}),
        **({"corpora": corpora} if corpora else {}),
        **({"val_share": study.val_share} if study.val_share is not None else {}),
        **({"document_separator": study.document_separator} if study.document_separator is not None else {}),
        **({} if study.states("tokenizer") else {"tokenizer": study.tokenizer}),
        "base": dict(study.base),
        **cells_values(study.cells),
        **({"budgets": {study.budgets.kind: list(study.budgets.levels)}} if study.budgets else {}),
        "seeds": list(study.seeds),
    }
    if study.target is not None:
        document["target"] = study.target
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


_WORDS = ("name", "description", "says", "corpus", "val_corpus", "corpora")
"""Keys whose texts name no tokenizer."""


def _with_files_named(value: Any, folder: Path | None) -> Any:
    """The value with file:PATH for each {file: PATH}, and paths that exist from a folder on given from there."""
    if isinstance(value, dict):
        entries = cast("dict[str, Any]", value)
        if list(entries) == ["file"] and isinstance(entries["file"], str):
            return _with_files_named(FILE + entries["file"], folder)
        return {key: entry if key in _WORDS else _with_files_named(entry, folder) for key, entry in entries.items()}
    if isinstance(value, list):
        return [_with_files_named(item, folder) for item in cast("list[Any]", value)]
    if folder is None or not isinstance(value, str) or not value.startswith(FILE):
        return value
    return FILE + cast("str", beside_folder(value.removeprefix(FILE), folder))


def _quoted(value: Any) -> Any:
    """The value with every text but the plainest in quotes: not all that the library leaves bare can be read again."""
    if isinstance(value, dict):
        return {key: _quoted(entry) for key, entry in cast("dict[str, Any]", value).items()}
    if isinstance(value, list):
        return [_quoted(item) for item in cast("list[Any]", value)]
    bare = not isinstance(value, str) or _BARE.fullmatch(value)
    return value if bare else DoubleQuotedScalarString(value)


def _load(text: str, source: str, beside: Path | None) -> _Document:
    read, found = read_yaml(text, source)
    read = _with_files_named(read, beside)
    if not isinstance(read, dict):
        raise ConfigError(f"{source}: expected the keys {', '.join(KEYS)}")
    stated = cast("dict[str, Any]", read)
    values = {key: with_plugins(value) if key in schema.SECTIONS else value for key, value in stated.items()}
    for typed in [key for key in values if key not in KEYS][:MAX_COUNTED]:
        known = None if meant(typed, SETTINGS) else nearest(typed, KEYS)
        if known is not None and known not in values:  # read as what it stands for, to find what else is wrong
            values[known] = values[typed]
            found |= {(known, *place[1:]): line for place, line in found.items() if place[0] == typed}
    lines: dict[str, int] = {}
    for part in SECTIONS:  # an error between settings names them alone
        lines |= {str(place[1]): line for place, line in found.items() if len(place) == 2 and place[0] == part}
    lines |= {" ".join(map(str, place)): line for place, line in found.items()}
    values, errors = with_corpora_named(values)
    return _Document(values, lines, source, errors)
