"""Text to tokens and back: characters (nanoGPT's sorted vocabulary) or bytes."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, cast

import numpy as np
from numpy.typing import NDArray

from isoloss.errors import ConfigError, CorpusError, StoreError
from isoloss.study.config import TokenizerName

MAX_VOCAB_SIZE = 65536
"""Tokens are stored as uint16."""


@dataclass(frozen=True)
class Tokenizer:
    """A vocabulary. `characters` lists the characters by token for `char`, and is empty for `byte`."""

    name: TokenizerName
    characters: str = ""

    @property
    def vocab_size(self) -> int:
        """Number of distinct tokens."""
        return len(self.characters) if self.name == "char" else 256

    def encode(self, text: str) -> NDArray[np.uint16]:
        """Tokens of a text, shape [n]. Raises ConfigError naming characters the vocabulary lacks."""
        if self.name == "byte":
            return np.frombuffer(text.encode(), dtype=np.uint8).astype(np.uint16)
        points_N, spelled_V = code_points(text), code_points(self.characters)
        table = np.full(int(points_N.max(initial=0)) + 1, -1, dtype=np.int32)
        within = spelled_V < len(table)
        table[spelled_V[within]] = np.flatnonzero(within)
        tokens_N = table[points_N]
        if (tokens_N < 0).any():
            unknown = sorted(map(chr, set(points_N[tokens_N < 0].tolist())))
            names = ", ".join(repr(character) for character in unknown[:10])
            more = f" and {len(unknown) - 10} more" if len(unknown) > 10 else ""
            raise ConfigError(f"the vocabulary has no {names}{more}; it was built from the training text")
        return tokens_N.astype(np.uint16)

    def decode(self, tokens: NDArray[np.integer[Any]]) -> str:
        """Text of tokens, shape [n]. Bytes that are no UTF-8 are shown as the replacement character."""
        if self.name == "byte":
            return tokens.astype(np.uint8).tobytes().decode(errors="replace")
        return code_points(self.characters)[tokens].tobytes().decode("utf-32-le", "surrogatepass")

    def as_dict(self) -> dict[str, Any]:
        """A JSON object from which `tokenizer_from_dict` makes the same tokenizer."""
        return {"tokenizer": self.name, "characters": self.characters}


def code_points(text: str) -> NDArray[np.uint32]:
    """The Unicode code points of a text, shape [n]."""
    return np.frombuffer(text.encode("utf-32-le", "surrogatepass"), dtype="<u4")


def train_tokenizer(name: TokenizerName, text: str) -> Tokenizer:
    """The tokenizer a text defines: its sorted distinct characters, or all bytes. Raises CorpusError."""
    if name == "byte":
        return Tokenizer("byte")
    characters = "".join(sorted(set(text)))
    if len(characters) > MAX_VOCAB_SIZE:
        raise CorpusError(f"the text has {len(characters):,} distinct characters; use tokenizer 'byte'")
    return Tokenizer("char", characters)


def tokenizer_from_dict(value: dict[str, Any]) -> Tokenizer:
    """Inverse of Tokenizer.as_dict. Raises StoreError when the object is no tokenizer."""
    name, characters = value.get("tokenizer"), value.get("characters")
    if name not in ("char", "byte") or not isinstance(characters, str):
        raise StoreError("not a tokenizer: expected the keys 'tokenizer' and 'characters'")
    if len(set(characters)) < len(characters) or len(characters) > MAX_VOCAB_SIZE:
        raise StoreError("not a tokenizer: its characters repeat, or are too many")
    if any("\ud800" <= character <= "\udfff" for character in characters):
        raise StoreError("not a tokenizer: half of a surrogate pair is no character")
    return Tokenizer(cast("TokenizerName", name), characters)
