"""Synthetic texts: made once into the cache, and verified there as fetched ones are."""

from __future__ import annotations

from collections.abc import Callable
from functools import lru_cache
from pathlib import Path
from string import printable

import numpy as np

from isoloss.data.sources import Source
from isoloss.errors import StoreError
from isoloss.files import cache_dir, read_record, sha256_bytes, sha256_file, write_atomically, write_record
from isoloss.locks import locked
from isoloss.study.synthetic import MAX_SYMBOLS, Grammar, HiddenMarkov, Hierarchy, Markov, synthetic_named

GENERATOR_VERSION = 1
"""Raised when the same parameters give another text."""
GENERATE_TIMEOUT_S = 600.0
CHARACTERS = printable[:MAX_SYMBOLS]
"""Of symbols, in their order: digits, letters, the rest of printable ASCII."""


@lru_cache(maxsize=2)
def source_named(name: str) -> Source:
    """The source of a text by the text's name. Raises ConfigError."""
    from isoloss.data.grammar import GrammarSource  # these load scipy, which no other text needs
    from isoloss.data.hidden_markov import HiddenMarkovSource
    from isoloss.data.hierarchy import HierarchySource
    from isoloss.data.markov import MarkovSource

    match synthetic_named(name):
        case Markov() as stated:
            return MarkovSource(stated)
        case HiddenMarkov() as stated:
            return HiddenMarkovSource(stated)
        case Grammar() as stated:
            return GrammarSource(stated)
        case Hierarchy() as stated:
            return HierarchySource(stated)


def synthetic_text(name: str, say: Callable[[str], None]) -> Path:
    """The file of a text by its name, written if it is not in the cache or not what was written there.

    Raises ConfigError for parameters that make no source, and StoreError.
    """
    stated = synthetic_named(name)
    key = sha256_bytes(f"{GENERATOR_VERSION} {stated.name}".encode())[:16]
    path = cache_dir() / "corpora" / f"synthetic-{key}.txt"
    record = path.with_suffix(".json")
    with locked(path.with_suffix(".lock"), GENERATE_TIMEOUT_S, lambda: f"{path} is being written by another process"):
        try:
            if sha256_file(path) == read_record(record).get("sha256"):
                return path
        except StoreError:
            pass
        say(f"writing {stated.tokens:,} symbols of {stated.name}")
        source, characters = source_named(stated.name), np.frombuffer(CHARACTERS.encode(), dtype=np.uint8)

        def write(temporary: Path) -> None:
            with temporary.open("wb") as stream:
                for symbols_N in source.text(stated.seed, stated.tokens):
                    stream.write(characters[symbols_N].tobytes())

        write_atomically(path, write)
        write_record(record, {"corpus": stated.name, "sha256": sha256_file(path)})
    return path
