"""The texts of a study as it states them, and what is known of them: what runs are trained and validated on."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field, replace
from pathlib import Path

from isoloss.errors import ConfigError
from isoloss.files import sha256_bytes, user_path
from isoloss.study.config import ANY_TEXT
from isoloss.study.corpora import Corpus, beside_folder, corpus_name, corpus_names
from isoloss.study.datasets import Dataset
from isoloss.study.file_patterns import (
    is_pattern,
    matching,
    pattern_and_field,
)
from isoloss.study.mixtures import Mixture, Parts, Unmixed
from isoloss.study.synthetic import is_synthetic, synthetic_named

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
    def stated(self) -> tuple[Corpus, ...]:
        """Both corpora, or the one that there is."""
        return (self.corpus,) if self.val_corpus is None else (self.corpus, self.val_corpus)

    @property
    def corpora(self) -> tuple[Unmixed, ...]:
        """All that is read, in order; those of mixtures one by one."""
        return tuple(each for stated in self.stated for each in _parts(stated))

    @property
    def shares(self) -> tuple[float, ...]:
        """Of training rows, those that begin in each corpus of a mixture; none where nothing is mixed."""
        return self.corpus.shares if isinstance(self.corpus, Mixture) else ()

    @property
    def val_shares(self) -> tuple[float, ...]:
        """The same of what is validated on."""
        return self.stated[-1].shares if isinstance(self.stated[-1], Mixture) else ()

    @property
    def name(self) -> str:
        """All texts, for messages and records."""
        return ", ".join(map(corpus_name, self.stated))

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
        left = iter(hashes)
        hashes = [
            each.identity([next(left) for _ in each.corpora]) if isinstance(each, Mixture) else next(left)
            for each in self.stated
        ]
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
        found = [beside_folder(corpus, folder) for corpus in self.stated]
        return replace(self, corpus=found[0], val_corpus=found[1] if found[1:] else None)


Lengths = tuple[Mapping[int, int], ...]
"""Of each text of a mixture, or of the one that there is, how many documents have each length in tokens."""


@dataclass(frozen=True)
class DataFacts:
    """What a run must know of its text: content hash, and what its tokenizer makes of it."""

    sha256: str
    vocab_size: int
    val_tokens: int | None = None
    """Tokens of the validation split, where known: no setting asks for more. Of a mixture those that shares allow."""
    train_tokens: int | None = None
    unseen_share: float | None = None
    """Of the validation split's characters, those that never occur in the training split."""
    oddities: tuple[str, ...] = ()
    """Sentences about what its author may not know of the text."""
    tokenizer_sha256: str = ""
    """Of a tokenizer that the text alone does not decide, what it is."""
    train_parts: Parts | None = None
    """Of a mixture, the training splits of its texts."""
    val_parts: Parts | None = None
    """The same of what is validated on."""
    documents: tuple[Lengths, Lengths] | None = None
    """Of each text in training and in validation, how many documents there are of each length; None: each is one."""
    others: Mapping[Dataset, DataFacts] = field(default_factory=dict["Dataset", "DataFacts"])
    """Of a study of several texts or tokenizers, the same of each pair."""

    def of(self, dataset: Dataset) -> DataFacts:
        """What is known of one of the study's texts by one of its tokenizers."""
        return self.others[dataset] if self.others else self

    @property
    def each(self) -> list[DataFacts]:
        """Those of every text and tokenizer."""
        return [*self.others.values()] or [self]

    def documents_of(self, split: int) -> Lengths:
        """Of each text, how many documents there are of each length in the training split, 0, or in validation, 1."""
        if self.documents is not None:
            return self.documents[split]
        parts, alone = (self.val_parts, self.val_tokens) if split else (self.train_parts, self.train_tokens)
        return tuple({length: 1} for length in (parts.lengths if parts else (alone or 0,)))


def joined_facts(facts: Mapping[Dataset, DataFacts]) -> DataFacts:
    """What is known of each text by each tokenizer, or of one by one; about what they share the first speaks."""
    first, *more = facts.values()
    return replace(first, others=facts) if more else first


ANY_DATA = DataFacts(sha256="", vocab_size=ANY_TEXT["vocab_size"])
"""Stands in for a text that is not at hand: every cell can be validated before anything is fetched."""


def _parts(corpus: Corpus) -> tuple[Unmixed, ...]:
    return corpus.corpora if isinstance(corpus, Mixture) else (corpus,)


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
