"""Corpora as a study states them: names and paths, several, rows, shards, synthetic texts and mixtures."""

from __future__ import annotations

import os
from collections.abc import Container, Sequence
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import Any, cast

from isoloss.errors import ConfigError, collect, raise_all
from isoloss.files import user_path
from isoloss.study.file_patterns import (
    FIELD,
    TOKENS,
    is_pattern,
    pattern_and_field,
    pattern_beside,
    row_files_of,
    token_files_of,
)
from isoloss.study.hub_datasets import KNOWN, hub_dataset_named, hub_dataset_of, is_hub_dataset
from isoloss.study.mixtures import Mixture, Unmixed, mixture_of
from isoloss.study.synthetic import is_synthetic, synthetic_named, synthetic_of

Corpus = Unmixed | Mixture
"""A name or path of a text, a folder of such, files of rows or a synthetic text; several, in this order; a mixture."""

KNOWN_TEXTS = ("tinyshakespeare", "shakespeare", "brown", "webster", "text8", "enwik8")
"""Names of texts that are fetched. A file of such a name is stated with its folder: `./text8`."""
EXPECTED = (
    "expected a known name, a path, a list of them, {files: …, field: …}, {synthetic: markov, …} or "
    "{mix: {a.txt: 0.7, …}}"
)


def as_corpus(names: Sequence[str]) -> Corpus:
    """The corpus of these names; one alone is as if it stood in no list."""
    return names[0] if len(names) == 1 else tuple(names)


def corpus_names(corpus: Corpus) -> tuple[str, ...]:
    """The names and paths of a corpus."""
    if isinstance(corpus, Mixture):
        return tuple(name for each in corpus.corpora for name in corpus_names(each))
    return (corpus,) if isinstance(corpus, str) else corpus


def corpus_name(corpus: Corpus) -> str:
    """All of a corpus, for messages and records."""
    return corpus.named(corpus_name) if isinstance(corpus, Mixture) else ", ".join(corpus_names(corpus))


def corpus_values(corpus: Corpus, names: Container[str] = ()) -> Any:
    """A corpus as a study file states it. A file of a mixture that is called as another corpus stands in a list."""
    if isinstance(corpus, Mixture):
        parts = zip(corpus.corpora, corpus.shares, strict=True)
        stated = (
            ([each] if isinstance(each, str) and each in names else corpus_values(each), share) for each, share in parts
        )
        return {"mix": [{"corpus": each, "share": share} for each, share in stated]}
    return corpus if isinstance(corpus, str) else list(corpus)


def corpus_of(value: Any) -> Corpus:
    """The corpus that a study states: a text, a list of them, or a mixture. Raises ConfigError."""
    if isinstance(value, str):
        value = value.strip()
    if isinstance(value, Mixture):
        return value
    if isinstance(value, dict):
        return _described(cast("dict[str, Any]", value))
    if isinstance(value, str) and value:
        return _spelled(value)
    if isinstance(value, str) or not isinstance(value, list | tuple) or not value:
        raise ConfigError(EXPECTED)
    stated = cast("Sequence[Any]", value)
    raise_all(
        [
            ConfigError(f"{each!r} is {wrong}", (f"{index}",))
            for index, each in enumerate(stated)
            if (wrong := _wrong_in_list(each))
        ]
    )
    return as_corpus([cast("str", corpus_of(each)) for each in stated])


def _described(value: dict[str, Any]) -> Corpus:
    """A corpus that is stated by its parts."""
    if "mix" in value:
        if len(value) > 1:
            raise ConfigError(f"unknown key '{next(key for key in value if key != 'mix')}' beside mix")
        return mixture_of(value["mix"], corpus_of)
    if "synthetic" in value:
        return synthetic_of(value).name
    if "files" in value:
        return as_corpus(row_files_of(value))
    if "tokens" in value:
        return token_files_of(value)
    if "dataset" in value:
        return hub_dataset_of(value).name
    raise ConfigError(EXPECTED)


def _spelled(value: str) -> str:
    """A corpus that is stated by its name, in the spelling that all of it has."""
    if is_synthetic(value):
        return synthetic_named(value).name
    if value in KNOWN:
        return hub_dataset_of(KNOWN[value]).name
    if is_hub_dataset(value):
        return hub_dataset_named(value).name
    if is_pattern(value):
        pattern_and_field(value)
    return value


def corpora_of(value: Any) -> dict[str, Corpus]:
    """Corpora by the names that a study gives them. Raises what is wrong, at its name."""
    if not isinstance(value, dict):
        raise ConfigError("expected names with the corpus that each stands for")
    stated, errors = cast("dict[str, Any]", value), list[ConfigError]()
    made = {
        name: collect(errors, lambda name=name, of=of: corpus_at(f"corpora: {name}", of, name), None)
        for name, of in stated.items()
    }
    raise_all(errors)
    return cast("dict[str, Corpus]", made)


def corpus_at(place: str, value: Any, *fields: str) -> Corpus:
    """The corpus of a value. Raises ConfigErrors that begin with the place where it stands."""
    try:
        return corpus_of(value)
    except ConfigError as error:
        raise_all([ConfigError(f"{place}: {each.args[0]}", fields) for each in error.each])
        raise


def _wrong_in_list(name: Any) -> str | None:
    if is_synthetic(name):
        return "a synthetic text, which stands in no list"
    if is_pattern(name) and not name.startswith(TOKENS):
        return None if FIELD in name else f"without {FIELD}NAME, which says what is read"
    return None if isinstance(name, str) and name.strip() else "no name or path of a text"


def beside_folder(corpus: Corpus, folder: Path) -> Corpus:
    """Names or paths, of which those that exist from a folder on are given from there. Known names are no paths."""
    if isinstance(corpus, Mixture):
        return replace(corpus, corpora=tuple(cast("Unmixed", beside_folder(each, folder)) for each in corpus.corpora))
    if isinstance(corpus, tuple):
        return tuple(cast("str", beside_folder(each, folder)) for each in corpus)
    with suppress(OSError, ValueError):  # a name that no file can have
        if is_pattern(corpus):
            return pattern_beside(corpus, folder)
        path = os.path.normpath(folder / user_path(corpus))  # an absolute path replaces the folder
        if corpus and corpus not in KNOWN_TEXTS and Path(path).exists():
            return f"./{path}" if path in KNOWN_TEXTS else path
    return corpus
