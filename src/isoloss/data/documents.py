"""Where the documents of a text end, so that no block of tokens crosses from one into the next."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from itertools import groupby, tee
from typing import AnyStr

import numpy as np
from numpy.typing import NDArray

from isoloss.data.byte_level import ByteLevel
from isoloss.data.survey import TextReader
from isoloss.study.texts import DataFacts

Ends = NDArray[np.int64]
"""Places after the last unit of each document, ascending, from the beginning of a split on; the last is its length."""


def ends_of_splits(reader: TextReader, facts: DataFacts, *, in_bytes: bool) -> tuple[Ends, Ends]:
    """Where documents end in the train and the val split, in characters or bytes, as `facts` counts.

    They end after each separator and where a split does. Without a separator a split is one document.
    """
    cut, length = facts.train_tokens or 0, (facts.train_tokens or 0) + (facts.val_tokens or 0)

    def places(separator: str) -> Iterator[int]:
        before = 0
        for _, group in groupby(reader, key=lambda numbered: numbered[0]):
            pieces = (piece for _, piece in group)
            if in_bytes:
                found = _places((piece.content for piece in pieces), separator.encode())
            else:
                found = _places((piece.text for piece in pieces), separator)
            yield from (before + place for place in found)
            before = cut  # of val_corpus

    separator = reader.text.document_separator
    found_N = np.fromiter(places(separator) if separator else (), dtype=np.int64)
    of_train, of_val = found_N[found_N < cut], found_N[(found_N > cut) & (found_N < length)]
    return np.append(of_train, cut), np.append(of_val, length) - cut


def _places(pieces: Iterable[AnyStr], separator: AnyStr) -> Iterator[int]:
    """The place after each separator of a text that comes in pieces."""
    left, before = separator[:0], 0
    for piece in pieces:
        text, place = left + piece, 0
        while (found := text.find(separator, place)) >= 0:
            place = found + len(separator)
            yield before + place
        kept = max(place, len(text) - len(separator) + 1)  # a separator may begin in what follows
        left, before = text[kept:], before + kept


def encode_documents(
    byte_level: ByteLevel, texts: Iterable[str], ends: Ends
) -> Iterator[tuple[NDArray[np.uint32], int]]:
    """Tokens of a split that comes in pieces, each document by itself, in arrays; each with its document's number."""

    def numbered() -> Iterator[tuple[int, str]]:
        number = place = 0
        for text in texts:
            first = 0
            while first < len(text):
                last = min(len(text), int(ends[number]) - place)
                yield number, text[first:last]
                number, first = number + (place + last == ends[number]), last
            place += len(text)

    parts = (
        (number, part)
        for number, group in groupby(numbered(), key=lambda each: each[0])
        for part in byte_level.parts(text for _, text in group)
    )
    once, again = tee(parts)
    yield from zip(byte_level.encode_parts(part for _, part in once), (number for number, _ in again), strict=True)
