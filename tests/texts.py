"""What is read of a corpus, whole."""

from __future__ import annotations

from typing import Any

from isoloss.data.corpus import read_corpus
from isoloss.study.corpora import Corpus


def load_corpus(corpus: Corpus, **options: Any) -> bytes:
    return b"".join(piece.content for piece in read_corpus(corpus, **options))
