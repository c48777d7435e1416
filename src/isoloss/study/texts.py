"""The texts of a study as it states them, and what is known of them: what runs are trained and validated on."""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, cast

from isoloss.errors import ConfigError, raise_all
from isoloss.files import sha256_bytes, user_path
from isoloss.study.config import ANY_TEXT
from isoloss.study.file_patterns import (
    FIELD,
    TOKENS,
    is_pattern,
    matching,
    pattern_and_field,
    pattern_beside,
    row_files_of,
    token_files_of,
)
from isoloss.study.hub_datasets import hub_dataset_named, hub_dataset_of, is_hub_dataset
from isoloss.study.synthetic import is_synthetic, synthetic_named, synthetic_of

Corpus = str | tuple[str, ...]
"""A known name, a text file, a folder of them, files of rows or a synthetic text; or several, read in this order."""
VAL_SHARE = 0.1
LINE_END = "\n"
"""What files of a list, and rows, end in where no document_separator is stated."""
MAX_SEPARATOR = 100


@dataclass(frozen=True)
class Text:
    """What is trained on and validated on, before anything is read: the last `val_share` of a corpus is validation.

    With `val_corpus` that is all of it, and all of `corpus` is for training. Example: Text(("a.txt", "b.txt"), "c.txt")
    """

    corpus: Corpus
    val_corpus: Corpus | None = None
    val_share: float | None = None
    """None: VAL_SHARE, or all of `val_corpus`."""
    document_separator: str | None = None
    """What each document ends in, where no block crosses from one into the next."""

    @property
    def corpora(self) -> tuple[Corpus, ...]:
        """All that is read, in order."""
        return (self.corpus,) if self.val_corpus is None else (self.corpus, self.val_corpus)

    @property
    def name(self) -> str:
        """All texts, for messages and records."""
        return ", ".join(map(corpus_name, self.corpora))

    def train_length(self, length: int) -> int:
        """How many of a corpus's tokens are for training, where its end is validation."""
        return int(length * (1 - (VAL_SHARE if self.val_share is None else self.val_share)))

    def identity(self, hashes: Sequence[str]) -> str:
        """The SHA-256 by which runs are named, from those of `corpora`: another split is as another text.

        Split by default and undivided it is the text's own, as it was before splits could be stated.
        """
        if self.document_separator is not None:
            undivided = replace(self, document_separator=None).identity(hashes)
            return sha256_bytes(f"{undivided} document_separator {self.document_separator!r}".encode())
        if self.val_corpus is not None:
            return sha256_bytes(" ".join(hashes).encode())
        if self.val_share in (None, VAL_SHARE):
            return hashes[0]
        return sha256_bytes(f"{hashes[0]} val_share {self.val_share!r}".encode())

    def faults(self) -> Iterator[ConfigError]:
        """What cannot be meant; `fields` begins with the place in a study file."""
        if self.val_corpus is not None:
            if self.val_share is not None:
                text = "val_share and val_corpus both say what is validated on; state one"
                yield ConfigError(text, ("val_share", "val_corpus"))
            for shared in sorted(filter(self._trained_on, corpus_names(self.val_corpus))):
                text = f"'{shared}' is in corpus and in val_corpus: what runs are trained on validates nothing"
                yield ConfigError(text, ("val_corpus", "corpus"))

    def _trained_on(self, name: str) -> bool:
        """Whether a text is one of `corpus`, or lies in a folder that is."""
        known = {path for each in corpus_names(self.corpus) for path in _resolved(each)}
        return any(not known.isdisjoint((path, *path.parents)) for path in _resolved(name))

    def beside(self, folder: Path) -> Text:
        """The same with every path that exists from a folder on given from there."""
        found = [beside_folder(corpus, folder) for corpus in self.corpora]
        return replace(self, corpus=found[0], val_corpus=found[1] if found[1:] else None)


@dataclass(frozen=True)
class DataFacts:
    """What a run must know of its text: content hash, and what its tokenizer makes of it."""

    sha256: str
    vocab_size: int
    val_tokens: int | None = None
    """Tokens of the validation split, where known: no setting asks for more."""
    train_tokens: int | None = None
    unseen_share: float | None = None
    """Of the validation split's characters, those that never occur in the training split."""
    oddities: tuple[str, ...] = ()
    """Sentences about what its author may not know of the text."""
    tokenizer_sha256: str = ""
    """Of a tokenizer that the text alone does not decide, what it is."""
    documents: tuple[Mapping[int, int], Mapping[int, int]] | None = None
    """How many documents there are of each length in tokens, in training and in validation; None: one each."""
    others: Mapping[str, DataFacts] = field(default_factory=dict["str", "DataFacts"])
    """Of a study of several tokenizers, the same by the name of each."""

    def of(self, tokenizer: str) -> DataFacts:
        """What one of the study's tokenizers makes of the text."""
        return self.others[tokenizer] if self.others else self

    def documents_of(self, split: int) -> Mapping[int, int]:
        """How many documents there are of each length in the training split, 0, or that of validation, 1."""
        if self.documents is None:
            return {(self.val_tokens if split else self.train_tokens) or 0: 1}
        return self.documents[split]


def joined_facts(facts: Mapping[str, DataFacts]) -> DataFacts:
    """What is known of a text by several tokenizers, or by one; about what they share the first speaks."""
    first, *more = facts.values()
    return replace(first, others=facts) if more else first


ANY_DATA = DataFacts(sha256="", vocab_size=ANY_TEXT["vocab_size"])
"""Stands in for a text that is not at hand: every cell can be validated before anything is fetched."""


def as_corpus(names: Sequence[str]) -> Corpus:
    """The corpus of these names; one alone is as if it stood in no list."""
    return names[0] if len(names) == 1 else tuple(names)


def corpus_names(corpus: Corpus) -> tuple[str, ...]:
    """The names and paths of a corpus."""
    return (corpus,) if isinstance(corpus, str) else corpus


def corpus_name(corpus: Corpus) -> str:
    """All of a corpus, for messages and records."""
    return ", ".join(corpus_names(corpus))


def corpus_of(value: Any) -> Corpus:
    """The corpus that a study states: a text, or a list of them. Raises ConfigError."""
    if is_synthetic(value):
        return synthetic_named(value).name
    if isinstance(value, dict) and "synthetic" in value:
        return synthetic_of(cast("dict[str, Any]", value)).name
    if isinstance(value, dict) and "files" in value:
        return as_corpus(row_files_of(cast("dict[str, Any]", value)))
    if isinstance(value, dict) and "tokens" in value and "synthetic" not in value:
        return token_files_of(cast("dict[str, Any]", value))
    if isinstance(value, dict) and "dataset" in value:
        return hub_dataset_of(cast("dict[str, Any]", value)).name
    if isinstance(value, str) and value.strip():
        if is_hub_dataset(value):
            return hub_dataset_named(value).name
        if is_pattern(value):
            pattern_and_field(value)
        return value.strip()
    if isinstance(value, str) or not isinstance(value, list | tuple) or not value:
        raise ConfigError(
            "expected a known name, a path, a list of them, {files: …, field: …} or {synthetic: markov, …}"
        )
    stated = cast("Sequence[Any]", value)
    raise_all(
        [
            ConfigError(f"{each!r} is {wrong}", (f"{index}",))
            for index, each in enumerate(stated)
            if (wrong := _wrong_in_list(each))
        ]
    )
    return as_corpus([each.strip() for each in stated])


def _wrong_in_list(name: Any) -> str | None:
    if is_synthetic(name):
        return "a synthetic text, which stands in no list"
    if is_pattern(name) and not name.startswith(TOKENS):
        return None if FIELD in name else f"without {FIELD}NAME, which says what is read"
    return None if isinstance(name, str) and name.strip() else "no name or path of a text"


def _resolved(name: str) -> list[Path]:
    """The paths a name stands for; of rows, their field within the path of their file."""
    if is_synthetic(name):  # a longer one begins with the shorter
        return [Path(synthetic_named(name).model_copy(update={"tokens": 0}).name)]
    with suppress(OSError, ValueError, RuntimeError):  # a name that no file can have
        if is_pattern(name):
            pattern, field = pattern_and_field(name)
            return [each.resolve() / field for each in matching(pattern) or [user_path(pattern)]]
        return [user_path(name).resolve()]
    return [Path(name)]


def beside_folder(corpus: Corpus, folder: Path) -> Corpus:
    """Names or paths, of which those that exist from a folder on are given from there."""
    if isinstance(corpus, tuple):
        return tuple(cast("str", beside_folder(each, folder)) for each in corpus)
    with suppress(OSError, ValueError):  # a name that no file can have
        if is_pattern(corpus):
            return pattern_beside(corpus, folder)
        path = os.path.normpath(folder / user_path(corpus))  # an absolute path replaces the folder
        return path if corpus and Path(path).exists() else corpus
    return corpus
