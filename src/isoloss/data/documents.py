"""Where the documents of a text end, so that no block of tokens crosses from one into the next."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from itertools import groupby
from operator import itemgetter
from typing import AnyStr

import numpy as np
from numpy.typing import NDArray

from isoloss.data.byte_level import ByteLevel
from isoloss.data.survey import TextReader
from isoloss.study.texts import DataFacts, Text

Ends = NDArray[np.int64]
"""Places after the last unit of each document, ascending, from the beginning of a text on; the last is its length."""
SPLITS = ("train", "val")


def ends_of_texts(reader: TextReader, facts: DataFacts, *, in_bytes: bool) -> dict[str, list[Ends]]:
    """By split, where the documents of each of its texts end, in characters or bytes, as `facts` counts.

    They end after each separator and where a split does. Without a separator a text is one document.
    """
    train, val = (facts.documents_of(split) for split in range(len(SPLITS)))
    found = {split: [np.array([*of]) for of in texts] for split, texts in zip(SPLITS, (train, val), strict=True)}
    separator = reader.text.document_separator or ""
    for number, group in groupby(reader if separator else (), key=lambda numbered: numbered[0]):
        pieces = (piece for _, piece in group)
        if in_bytes:
            places = _places((piece.content for piece in pieces), separator.encode())
        else:
            places = _places((piece.text for piece in pieces), separator)
        place_D, first = np.fromiter(places, dtype=np.int64), 0
        for split in SPLITS:
            if (text := text_number(reader.text, number, split)) is None:
                continue
            length = int(found[split][text][-1])
            within_D = place_D[(place_D > first) & (place_D < first + length)] - first
            found[split][text], first = np.append(within_D, length), first + length
    return found


def text_number(text: Text, number: int, split: str) -> int | None:
    """Which text of a split a corpus is, or ends with, of all corpora that are read; None where it is none."""
    n_train = len(text.shares) or 1
    if split == "train":
        return number if number < n_train else None
    if text.val_corpus is None:
        return number
    return number - n_train if number >= n_train else None


def one_behind_the_other(texts: Sequence[Ends]) -> Ends:
    """Where documents end in a split that consists of these texts."""
    before = np.cumsum([0, *(ends_D[-1] for ends_D in texts)])
    return np.concatenate([ends_D + first for ends_D, first in zip(texts, before, strict=False)])


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


def parts_of_documents(byte_level: ByteLevel, texts: Iterable[str], ends: Ends) -> Iterator[tuple[int, str]]:
    """The parts that a split which comes in pieces is tokenized in, each within a document, with its number.

    What comes after the last document is left out.
    """

    def numbered() -> Iterator[tuple[int, str]]:
        number = place = 0
        for text in texts:
            first = 0
            while first < len(text) and number < len(ends):
                last = min(len(text), int(ends[number]) - place)
                yield number, text[first:last]
                number, first = number + (place + last == ends[number]), last
            place += len(text)

    for number, group in groupby(numbered(), key=itemgetter(0)):
        for part in byte_level.parts(text for _, text in group):
            yield number, part
