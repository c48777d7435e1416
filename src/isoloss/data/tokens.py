"""A text as tokens: made once into the cache, where runs of a text and a tokenizer share them."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Any

from isoloss.data.corpus import check_there
from isoloss.data.documents import SPLITS, ends_of_texts
from isoloss.data.known import CORPORA
from isoloss.data.survey import TextReader, facts_of, split_lengths, survey
from isoloss.data.token_files import Tokens, by_length, open_tokens
from isoloss.data.tokenizing import tokenize
from isoloss.data.vocabularies import TRAINING_RULE, read_vocabulary
from isoloss.errors import CorpusError, StoreError
from isoloss.files import cache_dir, user_path
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
            tokenize(reader, tokenizer, sha256, folder, offline=offline, say=say)
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
    """Refuse a text that has no block and its target to train on, or none that counts to validate on.

    Raises CorpusError.
    """
    of = data.of(dataset_of(config))
    of_val = "eval_stride" if config.eval_stride else "block_size"
    for number, (split, setting) in enumerate(zip(SPLITS, ("block_size", of_val), strict=True)):
        texts, size = of.documents_of(number), int(getattr(config, setting))
        if (length := min(map(max, texts))) < size + 1:
            what = f"the {split} split" if len(texts) == 1 else f"the {split} split of a text"
            what = what if of.documents is None else f"the longest document of {what}"
            raise CorpusError(
                f"{what} of '{config.corpus}' has {length:,} tokens, {setting}={size} "
                f"needs at least {size + 1:,}; take a longer text or a smaller {setting}"
            )
