"""Text to tokens and back: characters (nanoGPT's sorted vocabulary), bytes, or a byte-level BPE."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from isoloss.data.byte_level import ByteLevel
from isoloss.data.vocabularies import MAX_FILE_BYTES, TRAINING_RULE
from isoloss.errors import ConfigError, CorpusError, StoreError
from isoloss.files import read_bytes
from isoloss.study.tokenizer_names import BYTES, MAX_VOCAB_SIZE, bpe_size, is_of_library

TokenArray = NDArray[np.unsignedinteger[Any]]


def token_dtype(vocab_size: int) -> np.dtype[np.unsignedinteger[Any]]:
    """How tokens are stored: in two bytes where their vocabulary fits, else in four."""
    return np.dtype("<u2") if vocab_size <= 1 << 16 else np.dtype("<u4")


@dataclass(frozen=True)
class Tokenizer:
    """A vocabulary. `characters` lists those of `char` by token; `byte_level` is that of a byte-level BPE."""

    name: str
    characters: str = ""
    byte_level: ByteLevel | None = None

    @property
    def vocab_size(self) -> int:
        """Number of distinct tokens."""
        if self.byte_level:
            return len(self.byte_level.token_bytes)
        return len(self.characters) if self.name == "char" else BYTES

    def bytes_of_tokens(self) -> NDArray[np.int64]:
        """How many bytes of UTF-8 each token stands for, shape [V]."""
        if self.byte_level:
            return np.array([*map(len, self.byte_level.token_bytes)], dtype=np.int64)
        if self.name == "byte":
            return np.ones(BYTES, dtype=np.int64)
        points_V = code_points(self.characters)
        return 1 + np.searchsorted(np.array([0x80, 0x800, 0x10000]), points_V, side="right")

    def encode(self, text: str) -> TokenArray:
        """Tokens of a text, shape [n]. Raises ConfigError naming characters the vocabulary lacks."""
        if self.byte_level:
            return self.byte_level.encode(text).astype(token_dtype(self.vocab_size))
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
        return tokens_N.astype(token_dtype(self.vocab_size))

    def spells(self, text: str) -> bool:
        """Whether the vocabulary has all of a text."""
        return self.name != "char" or {*text} <= {*self.characters}

    def to_bytes(self, tokens: NDArray[np.integer[Any]]) -> bytes:
        """The bytes that tokens stand for, shape [n]."""
        if self.byte_level:
            return self.byte_level.to_bytes(tokens.tolist())
        return tokens.astype(np.uint8).tobytes() if self.name == "byte" else self.decode(tokens).encode()

    def decode(self, tokens: NDArray[np.integer[Any]]) -> str:
        """Text of tokens, shape [n]. Bytes that are no UTF-8 are shown as the replacement character."""
        if self.name != "char":
            return self.to_bytes(tokens).decode(errors="replace")
        return code_points(self.characters)[tokens].tobytes().decode("utf-32-le", "surrogatepass")

    @property
    def sha256(self) -> str:
        """What a byte-level BPE is, by which runs are named; empty of those that the text alone decides."""
        return self.byte_level.sha256 if self.byte_level else ""

    def as_dict(self) -> dict[str, Any]:
        """A JSON object from which, with its definition in a file, `tokenizer_from_dict` makes the same tokenizer."""
        found: dict[str, Any] = {"tokenizer": self.name, "characters": self.characters}
        if self.byte_level:
            found |= {"tokenizer_sha256": self.sha256}
        return found | ({"training_rule": TRAINING_RULE} if bpe_size(self.name) else {})


def code_points(text: str) -> NDArray[np.uint32]:
    """The Unicode code points of a text, shape [n]."""
    return np.frombuffer(text.encode("utf-32-le", "surrogatepass"), dtype="<u4")


def train_tokenizer(name: str, text: str) -> Tokenizer:
    """The tokenizer a text defines: its sorted distinct characters, or all bytes. Raises CorpusError."""
    if name == "byte":
        return Tokenizer("byte")
    characters = "".join(sorted(set(text)))
    if len(characters) > MAX_VOCAB_SIZE:
        raise CorpusError(f"the text has {len(characters):,} distinct characters; use tokenizer 'byte'")
    return Tokenizer("char", characters)


def tokenizer_from_dict(value: Mapping[str, Any], definition: Path | None = None) -> Tokenizer:
    """Inverse of Tokenizer.as_dict. Raises StoreError when the object is no tokenizer, or its definition another."""
    name, characters = value.get("tokenizer"), value.get("characters")
    if not isinstance(name, str) or not isinstance(characters, str):
        raise StoreError("not a tokenizer: expected the keys 'tokenizer' and 'characters'")
    if is_of_library(name) and definition is not None:
        return Tokenizer(name, byte_level=_read_definition(definition, value.get("tokenizer_sha256")))
    if name not in ("char", "byte"):
        raise StoreError("not a tokenizer: expected char, byte, or a definition")
    if len(set(characters)) < len(characters) or len(characters) > MAX_VOCAB_SIZE:
        raise StoreError("not a tokenizer: its characters repeat, or are too many")
    if any("\ud800" <= character <= "\udfff" for character in characters):
        raise StoreError("not a tokenizer: half of a surrogate pair is no character")
    return Tokenizer(name, characters)


def _read_definition(path: Path, sha256: object) -> ByteLevel:
    try:
        found = ByteLevel(read_bytes(path, MAX_FILE_BYTES).decode())
        if found.sha256 != sha256 or not found.token_bytes:
            raise ValueError("its SHA-256 is not that of the study's tokenizer")
    except ValueError as error:
        raise StoreError(f"cannot read {path}: {error}") from error
    return found
