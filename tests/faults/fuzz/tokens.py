"""Token files: false values in their sidecar, with valid digests; arbitrary bytes; wrong digests."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

from isoloss.data.token_files import FORMAT_VERSION, open_tokens
from isoloss.errors import IsolossError, printable
from isoloss.files import sha256_bytes
from tests.faults.fuzz.false_values import insert_false_values
from tests.faults.fuzz.record_bytes import Slot, record_bytes

WORDS = [b"\x00\x00", b"\x01\x00", b"\x02\x00", b"\xff\xff", b"\x00\x01", b'{"', b'":', b"null", b"\x80\x01\x03"]


def seeds() -> list[bytes]:
    return [
        b"\x00\x03\x00\x00\x01\x00\x02\x00\x00\x00",
        b"\x01\x02",
        b"\x02\x06\x01\x01\x01\x00\x00\x00\x00",
        b"\x00\x03\x40\x41\x42",
    ]


def reader(folder: Path) -> Callable[[bytes], None]:
    """Opens a folder of tokens; tokens that are opened must be text."""
    in_meta, in_train, in_val = (Slot(folder / name) for name in ("meta.json", "train.bin", "val.bin"))

    def read(content: bytes) -> None:
        how, size = content[:2].ljust(2, b"\0")
        body = content[2:]
        choices, train = body[: size % 32], body[size % 32 :]
        if how & 16:  # the tokens are those of a text of three characters
            train = bytes(byte % 3 if place % 2 == 0 else 0 for place, byte in enumerate(train))
        val = train[: 2 + how % 4]
        meta: dict[str, Any] = {
            "format_version": FORMAT_VERSION,
            "corpus": "x",
            "corpus_sha256": "ab" * 32,
            "tokenizer": "byte" if how & 32 else "char",
            "characters": "" if how & 32 else "abé",
            "vocab_size": 256 if how & 32 else 3,
            "train_tokens": len(train) // 2,
            "val_tokens": len(val) // 2,
            "train_sha256": sha256_bytes(train),
            "val_sha256": sha256_bytes(val),
        }
        insert_false_values(meta, choices)
        in_train.put(train)
        in_val.put(val)
        in_meta.put(body if how & 192 == 192 else record_bytes(meta, broken=how & 15 == 15))
        try:
            tokens = open_tokens(folder)
        except IsolossError as error:
            assert str(error) == printable(str(error)), repr(error)
            return
        assert len(tokens.facts.sha256) == 64
        for split in (tokens.train_N, tokens.val_N):
            text = tokens.tokenizer.decode(split)
            assert text.encode()
            assert tokens.tokenizer.name == "byte" or (tokens.tokenizer.encode(text) == split).all()

    return read
