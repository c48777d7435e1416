"""What a corpus is, read in pieces: known texts, files and folders of text, rows and shards of tokens."""

from __future__ import annotations

import codecs
from collections.abc import Callable, Iterable, Iterator
from functools import partial
from itertools import chain
from pathlib import Path
from typing import NamedTuple

from isoloss.data.compressed import is_compressed, opened
from isoloss.data.hub import hub_texts
from isoloss.data.known import CORPORA, load_known
from isoloss.data.rows import texts_of
from isoloss.data.shards import shard_texts
from isoloss.data.synthetic import synthetic_text
from isoloss.data.vocabularies import gpt2
from isoloss.errors import CorpusError
from isoloss.files import user_path
from isoloss.study.config import MAX_INT
from isoloss.study.corpora import Corpus, corpus_name, corpus_names
from isoloss.study.file_patterns import TOKENS, is_pattern, matching, pattern_and_field, row_files_name
from isoloss.study.hub_datasets import hub_dataset_named, is_hub_dataset
from isoloss.study.synonyms import did_you_mean
from isoloss.study.synthetic import is_synthetic
from isoloss.study.texts import LINE_END

MAX_CORPUS_BYTES = MAX_INT
"""A longer local text is refused before it is read: places in it are drawn as 32-bit numbers."""
PIECE_BYTES = 1 << 22


class Piece(NamedTuple):
    """Part of a corpus: its bytes, and the characters that end in them."""

    content: bytes
    text: str


class _File(NamedTuple):
    """A file of a corpus: what to call it, its path, and the field its rows are read by.

    A known corpus and a dataset of the Hub have no path, and shards of tokens, which are one text, have several.
    """

    name: str
    path: Path | None = None
    field: str = ""
    shards: tuple[Path, ...] = ()

    @property
    def is_plain(self) -> bool:
        """Whether its bytes are the text's."""
        return self.path is not None and not self.field and not is_compressed(self.path)


def read_corpus(
    corpus: Corpus, *, end: str = LINE_END, offline: bool = False, say: Callable[[str], None] = lambda line: None
) -> Iterator[Piece]:
    """The verified content of a corpus, in pieces of some PIECE_BYTES.

    A named corpus comes from the cache, else from its sources in order; `say` hears what is tried. Of a folder or a
    list, files that do not end in `end` are given it, and so are rows. Raises CorpusError with what was expected and
    what was received.
    """
    files = [file for name in corpus_names(corpus) for file in _files(name, say)]
    sizes = [0 if file.path is None else _size(file.path, file.name) for file in files]
    plain = [size for size, file in zip(sizes, files, strict=True) if file.is_plain]
    left = MAX_CORPUS_BYTES
    if sum(plain) > left:
        raise _too_long(corpus)
    joined = len(files) > 1 or files[0].name != corpus
    for file, size in zip(files, sizes, strict=True):
        last = ""
        for piece in _read(file, size, end, offline, say):
            last, left = (last + piece.text[-len(end) :])[-len(end) :], left - len(piece.content)
            if left < 0:
                raise _too_long(corpus)
            yield piece
        if joined and last not in ("", end):
            yield _piece(end)


def check_there(corpus: Corpus) -> None:
    """Raises CorpusError where a file of a corpus is not there, empty, or no regular one; reads nothing."""
    for name in corpus_names(corpus):
        if not is_synthetic(name):
            for file in _files(name, lambda line: None):
                for path in filter(None, (file.path, *file.shards)):
                    _size(path, file.name)


def _too_long(corpus: Corpus) -> CorpusError:
    return CorpusError(f"'{corpus_name(corpus)}' is longer than {MAX_CORPUS_BYTES:,} bytes; take a part of it")


def _files(name: str, say: Callable[[str], None]) -> list[_File]:
    if name in CORPORA or is_hub_dataset(name):
        return [_File(name)]
    if is_synthetic(name):
        return [_File(name, synthetic_text(name, say))]
    if is_pattern(name):
        pattern, field = pattern_and_field(name)
        paths = matching(pattern)
        if not paths:
            raise CorpusError(f"no file is called '{pattern}' or matches it; paths are from {Path.cwd()}")
        return [_File(str(each), each, field) for each in paths] if field else [_File(name, shards=tuple(paths))]
    path = user_path(name)
    try:
        if not path.is_dir():
            return [_plain(name, path)]
        files = sorted(each for each in path.iterdir() if each.is_file() and not each.name.startswith("."))
    except (OSError, ValueError) as error:
        raise CorpusError(f"cannot read {name!r}: {error}") from error
    if not files:
        raise CorpusError(f"the folder '{name}' has no files; give one with UTF-8 texts")
    return [_plain(str(each), each) for each in files]


def _plain(name: str, path: Path) -> _File:
    """A file that is a text itself. Raises CorpusError for rows, whose text is in a field."""
    if (path.with_suffix("") if is_compressed(path) else path).suffix in (".jsonl", ".ndjson"):
        raise CorpusError(f"'{name}' has rows; name the field that has the text: {row_files_name(name, 'NAME')}")
    return _File(name, path)


def _size(path: Path, corpus: str) -> int:
    try:
        if path.exists() and not path.is_file():  # a study file may name a pipe or an endless device
            raise CorpusError(f"cannot read {corpus!r}: it is not a regular file; give a text file or a known corpus")
        size = path.stat().st_size
    except FileNotFoundError:
        hint = did_you_mean(corpus, CORPORA)
        raise CorpusError(f"no text file and no known corpus is called '{corpus}'; {hint}") from None
    except (OSError, ValueError) as error:
        raise CorpusError(f"cannot read {corpus!r}: {error}") from error
    if size == 0:  # files of /proc and the like have no size either, and may be endless
        raise CorpusError(f"{corpus!r} is empty: too short to split into train and val")
    return size


def _read(file: _File, size: int, end: str, offline: bool, say: Callable[[str], None]) -> Iterator[Piece]:
    if file.shards:
        texts = shard_texts(file.shards, gpt2(offline=offline, say=say).token_bytes, end)
        yield from map(_piece, filter(None, texts))
    elif is_hub_dataset(file.name):
        yield from _joined(hub_texts(hub_dataset_named(file.name), offline=offline), end)
    elif file.path is None:
        yield from _pieces(_cut(load_known(file.name, offline=offline, say=say)), file.name)
    elif file.field:
        yield from _joined(texts_of(file.path, file.field), end)
    else:
        read = 0
        with opened(file.path) as stream:
            for piece in _pieces(iter(partial(stream.read, PIECE_BYTES), b""), file.name):
                read += len(piece.content)
                if file.is_plain and read > size:
                    raise CorpusError(f"{file.name!r} grows while it is read; take a copy of it")
                yield piece


def _joined(texts: Iterable[str], end: str) -> Iterator[Piece]:
    """The texts of rows, each with its end; rows without any character are left out."""
    gathered, length = list[str](), 0
    for text in filter(None, texts):
        gathered.append(text if text.endswith(end) else text + end)
        length += len(text)
        if length >= PIECE_BYTES:
            yield _piece("".join(gathered))
            gathered, length = [], 0
    if gathered:
        yield _piece("".join(gathered))


def _piece(text: str) -> Piece:
    return Piece(text.encode(), text)


def _cut(content: bytes) -> Iterator[bytes]:
    return (content[first : first + PIECE_BYTES] for first in range(0, len(content), PIECE_BYTES))


def _pieces(contents: Iterable[bytes], corpus: str) -> Iterator[Piece]:
    """UTF-8 in pieces. Raises CorpusError for what is no text, and with how to convert other encodings."""
    decoder, before = codecs.getincrementaldecoder("utf-8")(), 0
    convert = f"-t UTF-8 {corpus} > text.txt"
    for content in chain(contents, [b""]):
        if not before and content.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)):
            raise CorpusError(f"'{corpus}' is UTF-16 text, UTF-8 is needed; convert it: iconv -f UTF-16 {convert}")
        nul = content.find(0)
        if nul >= 0 or corpus.endswith(".bin"):
            where = f"byte {before + nul} is NUL" if nul >= 0 else "its name ends in .bin"
            instead = f"of GPT-2's tokens write {TOKENS}{corpus}, of a folder of nanoGPT's `isoloss prepare` it"
            if corpus.endswith(".parquet"):
                instead = f"name the column to read: {row_files_name(corpus, 'NAME')}"
            raise CorpusError(f"'{corpus}' is binary, not text ({where}); {instead}")
        undecided = len(decoder.getstate()[0])
        try:
            text = decoder.decode(content, final=not content)
        except UnicodeDecodeError as error:
            found = f"byte {before - undecided + error.start} is 0x{error.object[error.start]:02x}"
            latin = f"; if it is Latin-1, convert it: iconv -f ISO-8859-1 {convert}"
            raise CorpusError(f"'{corpus}' is not UTF-8 text: {found}{latin}") from error
        if content:
            yield Piece(content, text)
        before += len(content)
