"""A text as tokens: made once into the cache, where runs of a text and a tokenizer share them."""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from itertools import groupby, repeat
from pathlib import Path
from typing import Any

import numpy as np

from isoloss.data.corpus import check_there
from isoloss.data.documents import SPLITS, Ends, encode_documents, ends_of_texts, one_behind_the_other, text_number
from isoloss.data.known import CORPORA
from isoloss.data.survey import TextReader, facts_of, split_lengths, survey
from isoloss.data.token_files import FORMAT_VERSION, Tokens, by_length, open_tokens
from isoloss.data.tokenizer import TokenArray, Tokenizer, token_dtype
from isoloss.data.training_sample import training_sample
from isoloss.data.vocabularies import TRAINING_RULE, read_vocabulary, vocabulary_of
from isoloss.errors import CorpusError, StoreError
from isoloss.files import cache_dir, sha256_file, user_path, write_bytes, write_record, write_text, writing
from isoloss.locks import locked
from isoloss.study.config import RunConfig
from isoloss.study.corpora import corpus_name, corpus_of
from isoloss.study.datasets import Dataset, dataset_of
from isoloss.study.texts import DataFacts, Text
from isoloss.study.tokenizer_names import BYTES, FILE, bpe_size, is_of_library

TOKENIZE_TIMEOUT_S = 1800.0


def prepare(
    text: Text | str,
    tokenizer: str = "char",
    *,
    offline: bool = False,
    say: Callable[[str], None] = lambda line: None,
) -> Tokens:
    """Fetch a text if need be, tokenize it once into the cache, and map the result. Example: prepare("notes.txt")

    Raises CorpusError when the text or the tokenizer cannot be fetched, verified, decoded or split.
    """
    called = _name_in_cache(tokenizer)
    reader = TextReader(Text(corpus_of(text)) if isinstance(text, str) else text, offline=offline, say=say)
    sha256, hashes = reader.read_through(), tuple(reader.hashes)
    folder = cache_dir() / "tokens" / f"{sha256[:16]}-{called}"
    in_use = f"{folder} is being written by another process"
    with locked(folder.with_suffix(".lock"), TOKENIZE_TIMEOUT_S, lambda: in_use):
        try:
            tokens = open_tokens(folder)
        except StoreError:
            _tokenize(reader, _made(reader, tokenizer, offline, say), sha256, folder)
            tokens = open_tokens(folder)
    return replace(tokens, tokenizer=replace(tokens.tokenizer, name=tokenizer), hashes=hashes)


def _name_in_cache(tokenizer: str) -> str:
    """What a tokenizer is called in names of folders, of a file by its content. Raises CorpusError for a wrong file."""
    if tokenizer.startswith(FILE):
        return f"file-{read_vocabulary(user_path(tokenizer.removeprefix(FILE))).sha256[:16]}"
    size = bpe_size(tokenizer)
    return f"bpe-{size}.{TRAINING_RULE}" if size else tokenizer


def prepare_each(datasets: Mapping[Dataset, Text], **options: Any) -> dict[Dataset, Tokens]:
    """The same for each text and tokenizer of a study; what can be told of all is told before any is read.

    Raises likewise.
    """
    for dataset, text in datasets.items():
        _name_in_cache(dataset.tokenizer)
        for corpus in text.corpora:
            check_there(corpus)
    return {dataset: prepare(text, dataset.tokenizer, **options) for dataset, text in datasets.items()}


def corpus_facts(
    text: Text, tokenizer: str, *, offline: bool = True, say: Callable[[str], None] = lambda line: None
) -> DataFacts:
    """What a study needs to know of a text, without fetching anything where characters or bytes are counted.

    Nor is anything written then but a synthetic text. Tokens of a byte-level BPE are made for it, and fetched unless
    `offline`, as `prepare` does it.

    Raises CorpusError when a local text cannot be read, decoded or split, or a known one that is read with others is
    not in the cache.
    """
    if is_of_library(tokenizer):
        return prepare(text, tokenizer, offline=offline, say=say).facts
    alone = isinstance(text.corpus, str) and text.val_corpus is None and text.document_separator is None
    known = CORPORA.get(corpus_name(text.corpus)) if alone else None
    if known is None or known.characters is None or known.vocab_size is None:
        reader = TextReader(text, offline=True)
        facts = survey(reader, tokenizer)[1]
        if text.document_separator is None:
            return facts
        ends = ends_of_texts(reader, facts, in_bytes=tokenizer == "byte")
        of_train, of_val = (tuple(map(by_length, ends[split])) for split in SPLITS)
        return replace(facts, documents=(of_train, of_val))
    vocab_size = known.vocab_size if tokenizer == "char" else BYTES
    return facts_of(text, text.identity([known.sha256]), vocab_size, *split_lengths(text, [known.characters]))


def check_length(config: RunConfig, data: DataFacts) -> None:
    """Refuse a text whose splits cannot fill one block and its target. Raises CorpusError."""
    of = data.of(dataset_of(config))
    if of.documents is not None and config.eval == "sliding":
        raise CorpusError("eval=sliding reads across the ends of documents: take eval=exact, or no document_separator")
    for number, split in enumerate(SPLITS):
        texts = of.documents_of(number)
        if (length := min(map(max, texts))) < config.block_size + 1:
            what = f"the {split} split" if len(texts) == 1 else f"the {split} split of a text"
            what = what if of.documents is None else f"the longest document of {what}"
            raise CorpusError(
                f"{what} of '{config.corpus}' has {length:,} tokens, block_size={config.block_size} "
                f"needs at least {config.block_size + 1:,}; take a longer text or a shorter block"
            )


def _made(reader: TextReader, name: str, offline: bool, say: Callable[[str], None]) -> tuple[Tokenizer, DataFacts]:
    """A tokenizer, and what is known of a text that it splits at: its tokens, of a byte-level BPE its characters."""
    if not is_of_library(name):
        return survey(reader, name)
    if not bpe_size(name):  # what is fetched may not be had: that is told before the text is read
        vocabulary = vocabulary_of(name, lambda: iter(()), offline=offline, say=say)
        return Tokenizer(name, byte_level=vocabulary), survey(reader, "char")[1]
    _, facts = survey(reader, "char")

    def training_text() -> Iterator[str]:
        return training_sample(((number, piece.text) for number, piece in reader), _train_lengths(facts))

    say(f"training {name} on the training split")
    return Tokenizer(name, byte_level=vocabulary_of(name, training_text, offline=offline, say=say)), facts


def _train_lengths(facts: DataFacts) -> list[int]:
    """How much of each corpus is for training, of those that are not for validation alone."""
    return list(facts.train_parts.lengths) if facts.train_parts else [facts.train_tokens or 0]


def _tokenize(reader: TextReader, made: tuple[Tokenizer, DataFacts], sha256: str, folder: Path) -> None:
    tokenizer, facts = made
    with writing(folder):
        folder.parent.mkdir(parents=True, exist_ok=True)
        for leftover in folder.parent.glob(f".{folder.name}.*"):  # of a process that was killed
            shutil.rmtree(leftover)
        temporary = Path(tempfile.mkdtemp(dir=folder.parent, prefix=f".{folder.name}."))
        try:
            ends = ends_of_texts(reader, facts, in_bytes=tokenizer.name == "byte")
            dtype = token_dtype(tokenizer.vocab_size)
            for split, number, tokens in _tokens_of_texts(reader, tokenizer, facts, ends):
                lengths_D = np.zeros_like(ends[split][number])
                with (temporary / f"{split}.bin").open("ab") as stream:
                    for tokens_N, document in tokens:
                        stream.write(tokens_N.astype(dtype).tobytes())
                        lengths_D[document] += len(tokens_N)
                if tokenizer.byte_level:
                    ends[split][number] = np.cumsum(lengths_D)
            lengths = {split: [int(ends_D[-1]) for ends_D in of_texts] for split, of_texts in ends.items()}
            divided = [f"{split}_ends" for split in SPLITS if reader.text.document_separator is not None]
            for split, name in zip(SPLITS, divided, strict=False):
                write_bytes(temporary / f"{name}.bin", one_behind_the_other(ends[split]).astype("<i8").tobytes())
            if not facts.sha256 == reader.sha256 == sha256:
                raise CorpusError(f"'{reader.text.name}' changed while it was read; take a copy of it")
            meta = {
                "format_version": FORMAT_VERSION,
                "corpus": reader.text.name,
                "corpus_sha256": sha256,
                **tokenizer.as_dict(),
                "vocab_size": tokenizer.vocab_size,
                **{f"{split}_tokens": sum(of_texts) for split, of_texts in lengths.items()},
                **{f"{name}_sha256": sha256_file(temporary / f"{name}.bin") for name in (*SPLITS, *divided)},
            }
            for split, shares in (("train", reader.text.shares), ("val", reader.text.val_shares)):
                if shares:
                    meta[f"{split}_parts"] = {"lengths": lengths[split], "shares": shares}
            if tokenizer.byte_level:
                write_text(temporary / "tokenizer.json", tokenizer.byte_level.definition)
            write_record(temporary / "meta.json", meta)
            if folder.exists():
                shutil.rmtree(folder)
            temporary.rename(folder)
        finally:
            shutil.rmtree(temporary, ignore_errors=True)


def _tokens_of_texts(
    reader: TextReader,
    tokenizer: Tokenizer,
    facts: DataFacts,
    ends: Mapping[str, Sequence[Ends]],
) -> Iterator[tuple[str, int, Iterable[tuple[TokenArray, int]]]]:
    """Each text of each split with its tokens, in arrays, of a byte-level BPE with their document's number."""

    def parts() -> Iterator[tuple[tuple[str, int], Any]]:
        """Text of a byte-level BPE, else tokens, by the split and the text that each belongs to."""
        left = dict(enumerate(_train_lengths(facts)))
        for number, piece in reader:
            part = piece.text if tokenizer.byte_level else tokenizer.encode(piece.text)
            at = left.get(number, 0)
            for split, each in zip(SPLITS, (part[:at], part[at:]), strict=True):
                if len(each):
                    yield (split, text_number(reader.text, number, split) or 0), each
            left[number] = max(0, at - len(part))

    reader.doing = "tokenized"
    for (split, text), group in groupby(parts(), key=lambda part: part[0]):
        pieces = (part for _, part in group)
        of_library = tokenizer.byte_level
        yield (
            split,
            text,
            encode_documents(of_library, pieces, ends[split][text]) if of_library else zip(pieces, repeat(0)),
        )
