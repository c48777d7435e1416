"""A folder of nanoGPT's data, train.bin and val.bin, as texts that a study can name. No pickle is read."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, TextIO, cast

import numpy as np
from numpy.typing import NDArray

from isoloss.data.corpus import read_corpus
from isoloss.data.shards import USUAL_TOKEN
from isoloss.data.tokenizer import Tokenizer, tokenizer_from_dict, train_tokenizer
from isoloss.errors import CorpusError, StoreError
from isoloss.files import MAX_TEXT_BYTES, read_bytes, reading, write_atomically
from isoloss.study.file_patterns import TOKENS
from isoloss.study.texts import Text

PIECE_TOKENS = 1 << 21
FEWEST_OF_BPE = 50_000
"""Tokens from here on are no characters of a text that is there: GPT-2's BPE has 50,257."""
FROM_PICKLE = (
    "python -c \"import json, pickle; m = pickle.load(open('meta.pkl', 'rb')); "
    "json.dump({'stoi': m['stoi']}, open('meta.json', 'w'))\""
)
"""What the folder's owner, who may trust its pickle, can write the vocabulary with."""


def is_nanogpt_folder(folder: Path) -> bool:
    """Whether a folder has nanoGPT's files of tokens. Raises CorpusError where it has one of the two."""
    missing = [path for path in _bins(folder) if not path.is_file()]
    if len(missing) == 1:
        raise CorpusError(f"{missing[0]} is missing: nanoGPT's data is train.bin and val.bin")
    return not missing


def text_of(folder: Path) -> Text:
    """The text of a nanoGPT data folder, by its paths. Example: text_of(Path("data/shakespeare_char"))

    Of GPT-2's tokens that is the files themselves. Else it is input.txt where the tokens are it, split as by default,
    or train.txt and val.txt, which are written beside the tokens. What characters they are is told by meta.json
    (`{"stoi": {…}}`, or a list by token), else by input.txt.
    Raises CorpusError where they are no characters, or input.txt is another text.
    """
    source, bins = folder / "input.txt", _bins(folder)
    largest, lengths = _extent(bins)
    fewest = FEWEST_OF_BPE if source.exists() else USUAL_TOKEN
    if largest >= fewest and not any((folder / name).exists() for name in ("meta.json", "meta.pkl")):
        return Text(f"{TOKENS}{bins[0]}", f"{TOKENS}{bins[1]}")
    tokenizer = _vocabulary(folder, largest)
    whole = Text(str(source))
    if source.exists() and _is_plain(source, bins, tokenizer) and lengths[0] == whole.train_length(sum(lengths)):
        return whole
    texts = [path.with_suffix(".txt") for path in bins]
    for path, of_split in zip(texts, bins, strict=True):
        if path.exists():  # of an earlier call, or the user's own
            _is_plain(path, [of_split], tokenizer, newline="")
        else:
            write_atomically(path, lambda temporary, of_split=of_split: _write(temporary, of_split, tokenizer))
    return Text(str(texts[0]), str(texts[1]))


def _bins(folder: Path) -> list[Path]:
    return [folder / "train.bin", folder / "val.bin"]


def _pieces(path: Path) -> Iterator[NDArray[np.uint16]]:
    with reading(path), path.open("rb") as stream:
        while content := stream.read(2 * PIECE_TOKENS):
            yield np.frombuffer(content, "<u2", len(content) // 2)


def _extent(bins: list[Path]) -> tuple[int, list[int]]:
    """The largest token, and how many each file has."""
    largest, lengths = 0, [0] * len(bins)
    for number, path in enumerate(bins):
        for tokens_N in _pieces(path):
            largest, lengths[number] = max(largest, int(tokens_N.max(initial=0))), lengths[number] + len(tokens_N)
        if not lengths[number] or path.stat().st_size != 2 * lengths[number]:
            raise CorpusError(f"{path} holds no 16-bit tokens: nanoGPT's prepare.py writes two bytes for each")
    return largest, lengths


def _vocabulary(folder: Path, largest: int) -> Tokenizer:
    """The characters that tokens are, up to the largest. Raises CorpusError where they are not known."""
    source, stated = folder / "input.txt", folder / "meta.json"
    if stated.exists():
        tokenizer = _stated(stated)
    elif source.exists():
        found = set[str]().union(*(piece.text for piece in read_corpus(str(source))))
        if "\r" in found:  # nanoGPT reads CRLF as LF
            found = found - {"\r"} | {"\n"}
        tokenizer = train_tokenizer("char", "".join(found))
    else:
        needed = 'meta.json with {"stoi": {"a": 0, …}}, or with a list of characters by token, is needed'
        raise CorpusError(f"{folder}: {needed}; in that folder, this writes it from a meta.pkl: {FROM_PICKLE}")
    if largest >= tokenizer.vocab_size:
        instead = f"; use its text, corpus: {source}" if source.exists() else ""
        raise CorpusError(
            f"{folder} has a token {largest:,}, and there are {tokenizer.vocab_size:,} characters{instead}"
        )
    return tokenizer


def _stated(path: Path) -> Tokenizer:
    """The vocabulary that a JSON file states. Raises CorpusError."""
    try:
        value: Any = json.loads(read_bytes(path, MAX_TEXT_BYTES))
        if isinstance(value, dict):
            tokens = cast("Mapping[str, int]", value["stoi"])
            value = sorted(tokens, key=lambda character: tokens[character])
            if [tokens[character] for character in value] != [*range(len(value))]:
                raise ValueError("the tokens of stoi are not 0, 1, 2 and so on")
        if not all(len(character) == 1 for character in value):
            raise ValueError("a token is not one character")
        return tokenizer_from_dict({"tokenizer": "char", "characters": "".join(value)})
    except (ValueError, KeyError, TypeError, AttributeError, IndexError, RecursionError, StoreError) as error:
        expected = 'expected {"stoi": {"a": 0, …}} or a list of characters by token'
        raise CorpusError(f"{path}: {expected} ({type(error).__name__}: {error})") from error


def _is_plain(path: Path, bins: list[Path], tokenizer: Tokenizer, newline: str | None = None) -> bool:
    """Whether a text is the very text of tokens, or with other line ends. Raises CorpusError where it is neither.

    By default it is read as nanoGPT does, CRLF as LF; with `newline` "" as it is.
    """
    with reading(path), path.open(encoding="utf-8", errors="replace", newline=newline) as stream:
        same = all(_begins_with(stream, tokens_N, tokenizer) for of_split in bins for tokens_N in _pieces(of_split))
        if not same or stream.read(1):
            names = " and ".join(of_split.name for of_split in bins)
            raise CorpusError(f"{path} is not the text of {names} beside it; move it away, or tokenize it again")
        return newline == "" or stream.newlines in (None, "\n")


def _begins_with(stream: TextIO, tokens_N: NDArray[np.uint16], tokenizer: Tokenizer) -> bool:
    return stream.read(len(tokens_N)) == tokenizer.decode(tokens_N)


def _write(path: Path, of_split: Path, tokenizer: Tokenizer) -> None:
    with path.open("wb") as stream:
        for tokens_N in _pieces(of_split):
            stream.write(tokenizer.decode(tokens_N).encode())
