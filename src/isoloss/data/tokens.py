"""Token files: memory-mapped uint16 `train.bin` and `val.bin` with a JSON sidecar, shared by all runs of a text."""

from __future__ import annotations

import hashlib
import re
import shutil
import tempfile
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from isoloss.data.corpus import CORPORA, PIECE_BYTES
from isoloss.data.survey import TextReader, split_lengths, survey
from isoloss.data.tokenizer import Tokenizer, tokenizer_from_dict
from isoloss.errors import CorpusError, StoreError
from isoloss.files import cache_dir, read_record, reading, sha256_file, write_record, writing
from isoloss.locks import locked
from isoloss.study.config import RunConfig, TokenizerName
from isoloss.study.texts import DataFacts, Text

FORMAT_VERSION = 1
TOKENIZE_TIMEOUT_S = 600.0


@dataclass(frozen=True)
class Tokens:
    """A tokenized text: train_N and val_N are uint16 memory maps, copy-on-write."""

    sha256: str
    tokenizer: Tokenizer
    train_N: NDArray[np.uint16]
    val_N: NDArray[np.uint16]
    folder: Path
    hashes: tuple[str, ...] = ()
    """SHA-256 of corpus and, where there is one, of val_corpus; `sha256` counts the split too."""

    @property
    def facts(self) -> DataFacts:
        """What a study's expansion needs to know of this text."""
        return DataFacts(self.sha256, self.tokenizer.vocab_size, len(self.val_N), len(self.train_N))


def prepare(
    text: Text | str,
    tokenizer: TokenizerName = "char",
    *,
    offline: bool = False,
    say: Callable[[str], None] = lambda line: None,
) -> Tokens:
    """Fetch a text if need be, tokenize it once into the cache, and map the result. Example: prepare("notes.txt")

    Raises CorpusError when the text cannot be fetched, verified, decoded or split.
    """
    reader = TextReader(Text(text) if isinstance(text, str) else text, offline=offline, say=say)
    sha256, hashes = reader.read_through(), tuple(reader.hashes)
    folder = cache_dir() / "tokens" / f"{sha256[:16]}-{tokenizer}"
    in_use = f"{folder} is being written by another process"
    with locked(folder.with_suffix(".lock"), TOKENIZE_TIMEOUT_S, lambda: in_use):
        try:
            tokens = open_tokens(folder)
        except StoreError:
            _tokenize(reader, tokenizer, sha256, folder)
            tokens = open_tokens(folder)
    return replace(tokens, hashes=hashes)


def open_tokens(folder: Path) -> Tokens:
    """Map the token files of a folder written by `prepare`. Raises StoreError when they are missing or damaged."""
    meta = read_record(folder / "meta.json")
    if meta.get("format_version") != FORMAT_VERSION:
        raise StoreError(f"{folder}: token format {meta.get('format_version')}, this isoloss reads {FORMAT_VERSION}")
    splits: dict[str, NDArray[np.uint16]] = {}
    largest: dict[str, int] = {}
    for split in ("train", "val"):
        path = folder / f"{split}.bin"
        sha256, largest[split] = _read_through(path) if path.is_file() else ("", 0)
        if sha256 != meta.get(f"{split}_sha256"):
            raise StoreError(f"{path}: missing, or its SHA-256 is not the one in meta.json")
        size = path.stat().st_size
        if size == 0 or size % 2 or size // 2 != meta.get(f"{split}_tokens"):
            raise StoreError(f"{path}: its size is not that of the tokens in meta.json")
        splits[split] = np.memmap(path, dtype="<u2", mode="c")
    tokenizer = tokenizer_from_dict(meta)
    sha256, vocab_size = str(meta.get("corpus_sha256")), meta.get("vocab_size")
    if not re.fullmatch("[0-9a-f]{64}", sha256) or vocab_size != tokenizer.vocab_size:
        raise StoreError(f"{folder}: its meta.json lacks the text's SHA-256, or vocab_size is not its vocabulary's")
    if max(largest.values()) >= tokenizer.vocab_size:
        raise StoreError(f"{folder}: holds tokens outside its vocabulary of {tokenizer.vocab_size}")
    return Tokens(sha256, tokenizer, splits["train"], splits["val"], folder)


def _read_through(path: Path) -> tuple[str, int]:
    """SHA-256 of a file of tokens and its largest token, read in pieces: pages of a map would all stay in memory."""
    digest, largest = hashlib.sha256(), 0
    with reading(path), path.open("rb") as stream:
        while content := stream.read(PIECE_BYTES):
            digest.update(content)
            largest = max(largest, int(np.frombuffer(content, "<u2", len(content) // 2).max(initial=0)))
    return digest.hexdigest(), largest


def corpus_facts(text: Text, tokenizer: TokenizerName) -> DataFacts:
    """What a study needs to know of a text, without fetching or writing anything.

    Raises CorpusError when a local text cannot be read, decoded or split, or a known one that is read with others is
    not in the cache.
    """
    known = CORPORA.get(text.corpus) if isinstance(text.corpus, str) and text.val_corpus is None else None
    if known is None:
        return survey(TextReader(text, offline=True), tokenizer)[1]
    vocab_size = known.vocab_size if tokenizer == "char" else Tokenizer("byte").vocab_size
    train_tokens, val_tokens = split_lengths(text, [known.characters])
    return DataFacts(text.identity([known.sha256]), vocab_size, val_tokens, train_tokens)


def check_length(config: RunConfig, train_tokens: int, val_tokens: int) -> None:
    """Refuse a text whose splits cannot fill one block and its target. Raises CorpusError."""
    for split, length in (("train", train_tokens), ("val", val_tokens)):
        if length < config.block_size + 1:
            raise CorpusError(
                f"the {split} split of '{config.corpus}' has {length:,} tokens, block_size={config.block_size} "
                f"needs at least {config.block_size + 1:,}; take a longer text or a shorter block"
            )


def _tokenize(reader: TextReader, name: TokenizerName, sha256: str, folder: Path) -> None:
    tokenizer, facts = survey(reader, name)
    with writing(folder):
        folder.parent.mkdir(parents=True, exist_ok=True)
        for leftover in folder.parent.glob(f".{folder.name}.*"):  # of a process that was killed
            shutil.rmtree(leftover)
        temporary = Path(tempfile.mkdtemp(dir=folder.parent, prefix=f".{folder.name}."))
        try:
            left = facts.train_tokens or 0
            with (temporary / "train.bin").open("wb") as train, (temporary / "val.bin").open("wb") as val:
                for _, piece in reader:
                    tokens_N = tokenizer.encode(piece.text).astype("<u2")
                    train.write(tokens_N[:left].tobytes())
                    val.write(tokens_N[left:].tobytes())
                    left = max(0, left - len(tokens_N))
            if not facts.sha256 == reader.sha256 == sha256:
                raise CorpusError(f"'{reader.text.name}' changed while it was read; take a copy of it")
            meta = {
                "format_version": FORMAT_VERSION,
                "corpus": reader.text.name,
                "corpus_sha256": sha256,
                **tokenizer.as_dict(),
                "vocab_size": tokenizer.vocab_size,
                "train_tokens": facts.train_tokens,
                "val_tokens": facts.val_tokens,
                "train_sha256": sha256_file(temporary / "train.bin"),
                "val_sha256": sha256_file(temporary / "val.bin"),
            }
            write_record(temporary / "meta.json", meta)
            if folder.exists():
                shutil.rmtree(folder)
            temporary.rename(folder)
        finally:
            shutil.rmtree(temporary, ignore_errors=True)
