"""Token files: memory-mapped uint16 `train.bin` and `val.bin` with a JSON sidecar, shared by all runs of a text."""

from __future__ import annotations

import re
import shutil
import tempfile
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from isoloss.data.corpus import CORPORA, decoded, load_corpus
from isoloss.data.tokenizer import Tokenizer, tokenizer_from_dict, train_tokenizer
from isoloss.errors import CorpusError, StoreError
from isoloss.files import cache_dir, locked, read_record, sha256_bytes, sha256_file, write_record, writing
from isoloss.study.config import RunConfig, TokenizerName
from isoloss.study.study import DataFacts

FORMAT_VERSION = 1
TRAIN_SHARE = 0.9
TOKENIZE_TIMEOUT_S = 600.0


@dataclass(frozen=True)
class Tokens:
    """A tokenized text: train_N and val_N are uint16 memory maps, copy-on-write."""

    sha256: str
    tokenizer: Tokenizer
    train_N: NDArray[np.uint16]
    val_N: NDArray[np.uint16]
    folder: Path

    @property
    def facts(self) -> DataFacts:
        """What a study's expansion needs to know of this text."""
        return DataFacts(self.sha256, self.tokenizer.vocab_size, len(self.val_N), len(self.train_N))


def prepare(
    corpus: str,
    tokenizer: TokenizerName = "char",
    *,
    offline: bool = False,
    say: Callable[[str], None] = lambda line: None,
) -> Tokens:
    """Fetch a corpus if need be, tokenize it once into the cache, and map the result.

    Raises CorpusError when the text cannot be fetched, verified, decoded or split.
    """
    content = load_corpus(corpus, offline=offline, say=say)
    sha256 = sha256_bytes(content)
    folder = cache_dir() / "tokens" / f"{sha256[:16]}-{tokenizer}"
    in_use = f"{folder} is being written by another process"
    with locked(folder.with_suffix(".lock"), TOKENIZE_TIMEOUT_S, lambda: in_use):
        try:
            return open_tokens(folder)
        except StoreError:
            _tokenize(content, corpus, tokenizer, folder)
        return open_tokens(folder)


def open_tokens(folder: Path) -> Tokens:
    """Map the token files of a folder written by `prepare`. Raises StoreError when they are missing or damaged."""
    meta = read_record(folder / "meta.json")
    if meta.get("format_version") != FORMAT_VERSION:
        raise StoreError(f"{folder}: token format {meta.get('format_version')}, this isoloss reads {FORMAT_VERSION}")
    splits: dict[str, NDArray[np.uint16]] = {}
    for split in ("train", "val"):
        path = folder / f"{split}.bin"
        if not path.is_file() or sha256_file(path) != meta.get(f"{split}_sha256"):
            raise StoreError(f"{path}: missing, or its SHA-256 is not the one in meta.json")
        size = path.stat().st_size
        if size == 0 or size % 2 or size // 2 != meta.get(f"{split}_tokens"):
            raise StoreError(f"{path}: its size is not that of the tokens in meta.json")
        splits[split] = np.memmap(path, dtype="<u2", mode="c")
    tokenizer = tokenizer_from_dict(meta)
    sha256, vocab_size = str(meta.get("corpus_sha256")), meta.get("vocab_size")
    if not re.fullmatch("[0-9a-f]{64}", sha256) or vocab_size != tokenizer.vocab_size:
        raise StoreError(f"{folder}: its meta.json lacks the text's SHA-256, or vocab_size is not its vocabulary's")
    if any(int(tokens.max()) >= tokenizer.vocab_size for tokens in splits.values()):
        raise StoreError(f"{folder}: holds tokens outside its vocabulary of {tokenizer.vocab_size}")
    return Tokens(sha256, tokenizer, splits["train"], splits["val"], folder)


def corpus_facts(corpus: str, tokenizer: TokenizerName) -> DataFacts:
    """What a study needs to know of a text, without fetching or writing anything.

    Raises CorpusError when a local text cannot be read, decoded or split.
    """
    known = CORPORA.get(corpus)
    if known is not None:
        vocab_size = known.vocab_size if tokenizer == "char" else Tokenizer("byte").vocab_size
        train_tokens, val_tokens = _split(known.characters, corpus)
        return DataFacts(known.sha256, vocab_size, val_tokens, train_tokens)
    content = load_corpus(corpus)
    text = decoded(content, corpus)
    train_tokens, val_tokens = _split(len(text) if tokenizer == "char" else len(content), corpus)
    vocab_size = train_tokenizer(tokenizer, text).vocab_size
    unseen = _unseen_share(text, train_tokens) if tokenizer == "char" else None
    return DataFacts(sha256_bytes(content), vocab_size, val_tokens, train_tokens, unseen, _oddities(text))


def _unseen_share(text: str, cut: int) -> float:
    """Of the characters after the cut, the share of those that never occur before it."""
    known, counts = set(text[:cut]), Counter(text[cut:])
    return sum(n for character, n in counts.items() if character not in known) / (len(text) - cut)


def check_length(config: RunConfig, train_tokens: int, val_tokens: int) -> None:
    """Refuse a text whose splits cannot fill one block and its target. Raises CorpusError."""
    for split, length in (("train", train_tokens), ("val", val_tokens)):
        if length < config.block_size + 1:
            raise CorpusError(
                f"the {split} split of '{config.corpus}' has {length:,} tokens, block_size={config.block_size} "
                f"needs at least {config.block_size + 1:,}; take a longer text or a shorter block"
            )


def _tokenize(content: bytes, corpus: str, name: TokenizerName, folder: Path) -> None:
    text = decoded(content, corpus)
    tokenizer = train_tokenizer(name, text)
    tokens = tokenizer.encode(text)
    cut, _ = _split(len(tokens), corpus)
    with writing(folder):
        folder.parent.mkdir(parents=True, exist_ok=True)
        for leftover in folder.parent.glob(f".{folder.name}.*"):  # of a process that was killed
            shutil.rmtree(leftover)
        temporary = Path(tempfile.mkdtemp(dir=folder.parent, prefix=f".{folder.name}."))
        try:
            tokens[:cut].astype("<u2").tofile(temporary / "train.bin")
            tokens[cut:].astype("<u2").tofile(temporary / "val.bin")
            meta = {
                "format_version": FORMAT_VERSION,
                "corpus": corpus,
                "corpus_sha256": sha256_bytes(content),
                **tokenizer.as_dict(),
                "vocab_size": tokenizer.vocab_size,
                "train_tokens": cut,
                "val_tokens": len(tokens) - cut,
                "train_sha256": sha256_file(temporary / "train.bin"),
                "val_sha256": sha256_file(temporary / "val.bin"),
            }
            write_record(temporary / "meta.json", meta)
            if folder.exists():
                shutil.rmtree(folder)
            temporary.rename(folder)
        finally:
            shutil.rmtree(temporary, ignore_errors=True)


def _split(n_tokens: int, corpus: str) -> tuple[int, int]:
    """Tokens of the train and of the val split."""
    cut = int(n_tokens * TRAIN_SHARE)
    if cut == 0:
        raise CorpusError(f"'{corpus}' is too short ({n_tokens} tokens) to split into train and val")
    return cut, n_tokens - cut


def _oddities(text: str) -> tuple[str, ...]:
    """What a text has that its author may not know of, and that a model has to learn."""
    ends = text.count("\r\n")
    found = ["It begins with a byte order mark, which counts as a character."] if text.startswith("\ufeff") else []
    return (*found, *([f"{ends:,} of its lines end as on Windows, in two characters (CRLF)."] if ends else []))
