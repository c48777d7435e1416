"""What a text consists of, counted in one pass over it and in bounded memory."""

from __future__ import annotations

import hashlib
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from isoloss.data.corpus import Piece, read_corpus
from isoloss.data.tokenizer import Tokenizer, code_points, train_tokenizer
from isoloss.errors import CorpusError
from isoloss.study.mixtures import Parts
from isoloss.study.texts import LINE_END, DataFacts, Text

CODE_POINTS = 0x110000
TOLD_EVERY_S = 5.0


class TextReader:
    """Reads a text, as often as it is iterated over: each piece with the number of its corpus.

    Raises CorpusError for what cannot be read, and where two corpora turn out to be the same text. `hashes` are the
    SHA-256 of the corpora that were read to their end last, `size` the bytes of all. `say` hears now and then how far
    it is, by `doing`.
    """

    def __init__(self, text: Text, *, offline: bool = False, say: Callable[[str], None] = lambda line: None) -> None:
        self.text, self.hashes, self.size, self.doing, self._say = text, list[str](), 0, "read", say
        self._options: dict[str, Any] = {"end": text.document_separator or LINE_END, "offline": offline, "say": say}

    def __iter__(self) -> Iterator[tuple[int, Piece]]:
        self.hashes, size, told = [], 0, time.monotonic()
        for number, corpus in enumerate(self.text.corpora):
            digest = hashlib.sha256()
            for piece in read_corpus(corpus, **self._options):
                digest.update(piece.content)
                size += len(piece.content)
                yield number, piece
                if time.monotonic() - told > TOLD_EVERY_S:
                    far = f"{size / self.size:.0%}" if self.size else f"{size / 1e6:,.0f} MB"
                    self._say(f"{self.doing} {far} of {self.text.name}")
                    told = time.monotonic()
            self.hashes.append(digest.hexdigest())
        self.size = size
        self._check()

    @property
    def sha256(self) -> str:
        """By which runs on this text are named, once it has been read."""
        return self.text.identity(self.hashes)

    def read_through(self) -> str:
        """The same; reads the text for it."""
        for _ in self:
            pass
        return self.sha256

    def _check(self) -> None:
        n_train = len(self.text.shares) or 1
        train, val = self.hashes[:n_train], self.hashes[n_train:]
        if not {*train}.isdisjoint(val):
            text = "a text of corpus is one of val_corpus under another name: what is trained on validates nothing"
            raise CorpusError(f"'{self.text.name}': {text}")
        if len({*self.hashes}) < len(self.hashes):
            raise CorpusError(f"'{self.text.name}': two texts of a mixture are the same; state it once")


class _Characters:
    """The characters of a text that is given part by part: how often each occurs, and where first."""

    def __init__(self) -> None:
        self._counts, self._firsts = (np.zeros(CODE_POINTS, dtype=np.int64) for _ in range(2))

    def add(self, points_N: NDArray[np.uint32], before: int) -> None:
        """The next part, that many characters after the text's beginning."""
        counts = np.bincount(points_N)
        known = self._counts[: len(counts)]
        if new := np.flatnonzero((known == 0) & (counts > 0)).tolist():
            places = np.zeros(len(counts), dtype=np.int64)
            places[points_N[::-1]] = np.arange(len(points_N))[::-1]  # of places given twice the last one stays
            self._firsts[new] = before + places[new]
        known += counts

    @property
    def distinct(self) -> str:
        """All that occur, ascending."""
        return "".join(map(chr, np.flatnonzero(self._counts).tolist()))

    def beginning_from(self, place: int) -> int:
        """How many characters are of a kind that never occurs before a place."""
        return int(self._counts[self._firsts >= place].sum())


def survey(reader: TextReader, name: str) -> tuple[Tokenizer, DataFacts]:
    """The tokenizer that a text defines, and what a study needs to know of it. Raises CorpusError."""
    characters, lengths = _Characters(), [0] * len(reader.text.corpora)
    first, line_ends, end = "", 0, b""
    for number, (content, text) in reader:
        first = first or text[:1]
        line_ends += (end + content).count(b"\r\n")
        end = content[-1:]
        if name == "char":
            points_N = code_points(text)
            characters.add(points_N, sum(lengths))
            lengths[number] += len(points_N)
        else:
            lengths[number] += len(content)
    tokenizer = train_tokenizer(name, characters.distinct)
    train, val = split_lengths(reader.text, lengths)
    apart = name == "char" and (reader.text.val_corpus is not None or not reader.text.shares)  # else they alternate
    unseen = characters.beginning_from(sum(train)) / sum(val) if apart else None
    oddities = tuple(_oddities(first, line_ends))
    facts = facts_of(reader.text, reader.sha256, tokenizer.vocab_size, train, val)
    return tokenizer, replace(facts, unseen_share=unseen, oddities=oddities)


def split_lengths(text: Text, lengths: Sequence[int]) -> tuple[list[int], list[int]]:
    """Tokens for training and for validation of each text, from those of each corpus.

    Raises CorpusError where one has none.
    """
    if text.val_corpus is None:
        train = [text.train_length(length) for length in lengths]
        val = [length - at for length, at in zip(lengths, train, strict=True)]
    else:
        at = len(text.shares) or 1
        train, val = list(lengths[:at]), list(lengths[at:])
    if not all([*train, *val]):
        raise CorpusError(f"'{text.name}' is too short ({min(lengths)} tokens) to split into train and val")
    return train, val


def facts_of(text: Text, sha256: str, vocab_size: int, train: Sequence[int], val: Sequence[int]) -> DataFacts:
    """What a study needs to know of a text with these tokens of each of its corpora."""
    train_parts = Parts(tuple(train), text.shares) if text.shares else None
    val_parts = Parts(tuple(val), text.val_shares) if text.val_shares else None
    val_tokens = val_parts.usable if val_parts else sum(val)
    return DataFacts(sha256, vocab_size, val_tokens, sum(train), train_parts=train_parts, val_parts=val_parts)


def _oddities(first: str, line_ends: int) -> Iterator[str]:
    """What a text has that its author may not know of, and that a model has to learn."""
    if first == "\ufeff":
        yield "It begins with a byte order mark, which counts as a character."
    if line_ends:
        yield f"{line_ends:,} of its lines end as on Windows, in two characters (CRLF)."
