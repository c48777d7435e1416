"""Token files as they are opened: memory-mapped `train.bin` and `val.bin` with what their JSON sidecar says of them."""

from __future__ import annotations

import hashlib
import re
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from isoloss.data.batches import Layout
from isoloss.data.corpus import PIECE_BYTES
from isoloss.data.documents import SPLITS, Ends
from isoloss.data.tokenizer import TokenArray, Tokenizer, token_dtype, tokenizer_from_dict
from isoloss.errors import StoreError
from isoloss.files import read_bytes, read_record, reading, sha256_bytes
from isoloss.study.config import MAX_INT
from isoloss.study.mixtures import Parts
from isoloss.study.texts import DataFacts

FORMAT_VERSION = 1


@dataclass(frozen=True)
class Tokens:
    """A tokenized text: train_N and val_N are memory maps, copy-on-write, of uint16 or of a large vocabulary uint32."""

    sha256: str
    tokenizer: Tokenizer
    train_N: TokenArray
    val_N: TokenArray
    folder: Path
    hashes: tuple[str, ...] = ()
    """SHA-256 of corpus and, where there is one, of val_corpus; `sha256` counts the split too."""
    documents: tuple[Ends, Ends] | None = None
    """Where documents end in both splits; None: where their texts do."""
    train_parts: Parts | None = None
    """Of a mixture, the training splits of its texts, one behind the other."""
    val_parts: Parts | None = None
    """The same of what is validated on."""

    @property
    def layouts(self) -> tuple[Layout, Layout]:
        """How the training split and that of validation are divided."""
        parts = self.train_parts, self.val_parts
        whole = ([len(self.train_N)], [len(self.val_N)])
        ends = self.documents or tuple(
            np.cumsum(of.lengths if of else length) for of, length in zip(parts, whole, strict=True)
        )
        return Layout(ends[0], parts[0]), Layout(ends[1], parts[1])

    @property
    def facts(self) -> DataFacts:
        """What a study's expansion needs to know of this text."""
        val_tokens = self.val_parts.usable if self.val_parts else len(self.val_N)
        of_train, of_val = (tuple(map(by_length, layout.texts)) for layout in self.layouts)
        return DataFacts(
            self.sha256,
            self.tokenizer.vocab_size,
            val_tokens,
            len(self.train_N),
            tokenizer_sha256=self.tokenizer.sha256,
            train_parts=self.train_parts,
            val_parts=self.val_parts,
            documents=None if self.documents is None else (of_train, of_val),
        )


def by_length(ends_D: Ends) -> Mapping[int, int]:
    """How many documents there are of each length."""
    return Counter[int](np.diff(ends_D, prepend=0).tolist())


def open_tokens(folder: Path) -> Tokens:
    """Map the token files of a folder written by `prepare`. Raises StoreError when they are missing or damaged."""
    meta = read_record(folder / "meta.json")
    if meta.get("format_version") != FORMAT_VERSION:
        raise StoreError(f"{folder}: token format {meta.get('format_version')}, this isoloss reads {FORMAT_VERSION}")
    tokenizer = tokenizer_from_dict(meta, folder / "tokenizer.json")
    dtype = token_dtype(tokenizer.vocab_size)
    splits: dict[str, TokenArray] = {}
    largest: dict[str, int] = {}
    for split in SPLITS:
        path = folder / f"{split}.bin"
        sha256, largest[split] = _read_through(path, dtype) if path.is_file() else ("", 0)
        if sha256 != meta.get(f"{split}_sha256"):
            raise StoreError(f"{path}: missing, or its SHA-256 is not the one in meta.json")
        size = path.stat().st_size
        if size == 0 or size % dtype.itemsize or size // dtype.itemsize != meta.get(f"{split}_tokens"):
            raise StoreError(f"{path}: its size is not that of the tokens in meta.json")
        splits[split] = np.memmap(path, dtype=dtype, mode="c")
    sha256, vocab_size = str(meta.get("corpus_sha256")), meta.get("vocab_size")
    if not re.fullmatch("[0-9a-f]{64}", sha256) or vocab_size != tokenizer.vocab_size:
        raise StoreError(f"{folder}: its meta.json lacks the text's SHA-256, or vocab_size is not its vocabulary's")
    if max(largest.values()) >= tokenizer.vocab_size:
        raise StoreError(f"{folder}: holds tokens outside its vocabulary of {tokenizer.vocab_size}")
    parts = {split: _parts_in(meta, split, len(tokens_N), folder) for split, tokens_N in splits.items()}
    found = Tokens(sha256, tokenizer, splits["train"], splits["val"], folder, documents=_read_ends(folder, meta))
    return replace(found, train_parts=parts["train"], val_parts=parts["val"])


def _read_ends(folder: Path, meta: Mapping[str, Any]) -> tuple[Ends, Ends] | None:
    """Where documents end, of a text that has any. Raises StoreError."""
    stated = [meta.get(f"{split}_ends_sha256") for split in SPLITS]
    if stated == [None, None]:
        return None
    contents = [read_bytes(folder / f"{split}_ends.bin", 8 * MAX_INT) for split in SPLITS]
    if [*map(sha256_bytes, contents)] != stated:
        raise StoreError(f"{folder}: the ends of its documents are not those of meta.json")
    of_train, of_val = (np.frombuffer(content, "<i8").astype(np.int64) for content in contents)
    return of_train, of_val


def _parts_in(meta: Mapping[str, Any], split: str, n_tokens: int, folder: Path) -> Parts | None:
    """The texts of a split of a mixture. Raises StoreError where they are not as we write them."""
    stated = meta.get(f"{split}_parts")
    if stated is None:
        return None
    try:
        found = Parts(tuple(map(int, stated["lengths"])), tuple(map(float, stated["shares"])))
        whole = sum(found.lengths) == n_tokens and min(found.lengths) > 0 and min(found.shares) > 0
    except (LookupError, TypeError, ValueError):
        found, whole = Parts((), ()), False
    if not whole or len(found.lengths) != len(found.shares):
        raise StoreError(f"{folder}: the parts of its {split} split in meta.json are not those of a mixture")
    return found


def _read_through(path: Path, dtype: np.dtype[Any]) -> tuple[str, int]:
    """SHA-256 of a file of tokens and its largest token, read in pieces: pages of a map would all stay in memory."""
    digest, largest = hashlib.sha256(), 0
    with reading(path), path.open("rb") as stream:
        while content := stream.read(PIECE_BYTES):
            digest.update(content)
            largest = max(largest, int(np.frombuffer(content, dtype, len(content) // dtype.itemsize).max(initial=0)))
    return digest.hexdigest(), largest
