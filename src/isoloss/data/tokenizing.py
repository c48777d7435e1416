"""The tokens of a text written into files, in a folder that a process which was killed goes on with."""

from __future__ import annotations

import json
import os
import shutil
import struct
import zlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, suppress
from itertools import chain, groupby, repeat, tee
from operator import itemgetter
from pathlib import Path
from typing import Any, BinaryIO, NamedTuple

import numpy as np

from isoloss.data.documents import SPLITS, Ends, ends_of_texts, one_behind_the_other, parts_of_documents, text_number
from isoloss.data.survey import TextReader, survey
from isoloss.data.token_files import FORMAT_VERSION
from isoloss.data.tokenizer import TokenArray, Tokenizer, token_dtype
from isoloss.data.training_sample import training_sample
from isoloss.data.vocabularies import gpt2, read_vocabulary, train_bpe
from isoloss.errors import ConfigError, CorpusError, StoreError
from isoloss.files import (
    make_folder,
    read_record,
    remove_temporary_files,
    sha256_file,
    sync_folder,
    user_path,
    write_bytes,
    write_record,
    write_text,
    writing,
)
from isoloss.study.texts import DataFacts
from isoloss.study.tokenizer_names import FILE, bpe_size, is_of_library

LEARNT = "learnt.json"
"""While the tokens are unfinished: the SHA-256 of the merges that were learnt."""
ROW = struct.Struct("<III")
"""What parts.bin says of a part: checksum of its content, number of its tokens, and checksum of these."""


class _Part(NamedTuple):
    """A part of a text that is tokenized by itself: where it belongs, and its content, with `byte` in bytes.

    `document` counts those of a byte-level BPE; else it is 0, as documents end at the same places in tokens.
    """

    split: str
    text: int
    document: int
    content: str | bytes


def tokenize(
    reader: TextReader, name: str, sha256: str, folder: Path, *, offline: bool, say: Callable[[str], None]
) -> None:
    """Write the tokens of a text, and what they are, into a folder that appears once all are there.

    The caller is its only writer. Whoever is stopped leaves `.<name>.unfinished` beside it, with which the next one
    goes on. Raises ConfigError where the text cannot be tokenized, CorpusError where it is no longer that of `sha256`,
    and then leaves nothing; CorpusError where it cannot be read, StoreError where nothing can be written.
    """
    unfinished = folder.with_name(f".{folder.name}.unfinished")
    try:
        tokenizer, facts = _tokenizer_of(reader, name, unfinished / "tokenizer.json", offline, say)
        ends = ends_of_texts(reader, facts, in_bytes=name == "byte")
        with writing(folder):
            make_folder(unfinished)
            remove_temporary_files(unfinished)
            ends = _write_tokens(reader, tokenizer, facts, ends, unfinished, say)
            if not facts.sha256 == reader.sha256 == sha256:
                shutil.rmtree(unfinished)
                raise CorpusError(f"'{reader.text.name}' changed while it was read; take a copy of it")
            _write_meta(reader, tokenizer, sha256, ends, unfinished)
            if folder.exists():
                shutil.rmtree(folder)
            unfinished.rename(folder)
            for temporary in ("parts.bin", LEARNT):
                (folder / temporary).unlink(missing_ok=True)
            sync_folder(folder.parent)
    except ConfigError:  # it would be the same again
        shutil.rmtree(unfinished, ignore_errors=True)
        raise


def _tokenizer_of(
    reader: TextReader, name: str, kept: Path, offline: bool, say: Callable[[str], None]
) -> tuple[Tokenizer, DataFacts]:
    """A tokenizer, and what is known of the text, in its tokens; of a byte-level BPE in characters.

    The definition of a byte-level BPE is written to `kept`, where that of an interrupted process may be.
    """
    if not is_of_library(name):
        return survey(reader, name)
    if size := bpe_size(name):
        facts = survey(reader, "char")[1]
        with suppress(CorpusError, StoreError, LookupError):  # not learnt yet
            found = read_vocabulary(kept)
            if read_record(kept.with_name(LEARNT))["sha256"] == found.sha256:
                return Tokenizer(name, byte_level=found), facts
        say(f"training {name} on the training split")
        pieces = ((number, piece.text) for number, piece in reader)
        found = train_bpe(training_sample(pieces, _train_lengths(facts)), size)
        write_record(kept.with_name(LEARNT), {"sha256": found.sha256})
    else:  # what is fetched may not be had: that is told before the text is read
        file = name.removeprefix(FILE)
        found = gpt2(offline=offline, say=say) if file == name else read_vocabulary(user_path(file))
        facts = survey(reader, "char")[1]
    write_text(kept, found.definition)
    return Tokenizer(name, byte_level=found), facts


def _train_lengths(facts: DataFacts) -> list[int]:
    """How much of each corpus is for training, of those that are not for validation alone."""
    return list(facts.train_parts.lengths) if facts.train_parts else [facts.train_tokens or 0]


def _write_tokens(
    reader: TextReader,
    tokenizer: Tokenizer,
    facts: DataFacts,
    ends: Mapping[str, Sequence[Ends]],
    folder: Path,
    say: Callable[[str], None],
) -> Mapping[str, Sequence[Ends]]:
    """Write the tokens of a text; returns where its documents end among them, as `ends` has it of its characters."""
    lengths = {split: [np.zeros_like(ends_D) for ends_D in of_texts] for split, of_texts in ends.items()}
    reader.doing, interrupted = "tokenized", f"going on where tokenizing {reader.text.name} was interrupted"
    with ExitStack() as stack:
        paths = {name: folder / f"{name}.bin" for name in (*SPLITS, "parts")}
        for path in paths.values():
            path.touch()
        files = {name: stack.enter_context(path.open("r+b")) for name, path in paths.items()}
        parts = _parts(reader, tokenizer, facts, ends)
        for part, n_tokens in _tokens_of_parts(parts, tokenizer, files, lambda: say(interrupted)):
            lengths[part.split][part.text][part.document] += n_tokens
        for file in files.values():
            file.flush()
            os.fsync(file.fileno())
    if not tokenizer.byte_level:
        return ends
    return {split: [np.cumsum(lengths_D) for lengths_D in of_texts] for split, of_texts in lengths.items()}


def _parts(
    reader: TextReader, tokenizer: Tokenizer, facts: DataFacts, ends: Mapping[str, Sequence[Ends]]
) -> Iterator[_Part]:
    """The parts of all texts, in their order: the same ones each time."""

    def pieces() -> Iterator[tuple[tuple[str, int], Any]]:
        """What is read, with `byte` in bytes, by the split and the text that it belongs to."""
        left = dict(enumerate(_train_lengths(facts)))
        for number, piece in reader:
            content = piece.content if tokenizer.name == "byte" else piece.text
            at = left.get(number, 0)
            for split, each in zip(SPLITS, (content[:at], content[at:]), strict=True):
                if each:
                    yield (split, text_number(reader.text, number, split) or 0), each
            left[number] = max(0, at - len(content))

    for (split, text), group in groupby(pieces(), key=itemgetter(0)):
        contents = (content for _, content in group)
        divided = zip(repeat(0), contents)
        if tokenizer.byte_level:
            divided = parts_of_documents(tokenizer.byte_level, contents, ends[split][text])
        for document, content in divided:
            yield _Part(split, text, document, content)


def _tokens_of_parts(
    parts: Iterator[_Part], tokenizer: Tokenizer, files: Mapping[str, BinaryIO], goes_on: Callable[[], None]
) -> Iterator[tuple[_Part, int]]:
    """Each part and how many tokens it is, of which the files have those that they lacked when it ends.

    What is there counts as long as its checksums are those of the parts and of their tokens; the rest is cut off.
    """
    dtype, sizes = token_dtype(tokenizer.vocab_size), dict.fromkeys(files, 0)
    made_by = zlib.crc32(json.dumps([FORMAT_VERSION, tokenizer.sha256 or tokenizer.as_dict()]).encode())
    for part in parts:
        content, row = _bytes(part.content), files["parts"].read(ROW.size)
        n_tokens = ROW.unpack(row)[1] if len(row) == ROW.size else 0
        n_tokens = min(n_tokens, len(content))  # a token is at least a byte
        tokens = files[part.split].read(n_tokens * dtype.itemsize)
        if row != ROW.pack(zlib.crc32(content, made_by), len(tokens) // dtype.itemsize, zlib.crc32(tokens)):
            parts = chain([part], parts)
            break
        if not sizes["parts"]:
            goes_on()
        sizes[part.split], sizes["parts"] = sizes[part.split] + len(tokens), sizes["parts"] + ROW.size
        yield part, n_tokens
    for name, file in files.items():
        file.seek(sizes[name])
        file.truncate()
    once, again = tee(parts)
    for tokens_N, part in zip(_encoded(tokenizer, (each.content for each in once)), again, strict=True):
        tokens = tokens_N.astype(dtype).tobytes()
        files[part.split].write(tokens)
        files["parts"].write(ROW.pack(zlib.crc32(_bytes(part.content), made_by), len(tokens_N), zlib.crc32(tokens)))
        for name in (part.split, "parts"):
            files[name].flush()
        yield part, len(tokens_N)


def _bytes(content: str | bytes) -> bytes:
    return content if isinstance(content, bytes) else content.encode()


def _encoded(tokenizer: Tokenizer, contents: Iterator[Any]) -> Iterator[TokenArray]:
    """The tokens of each content, which with `byte` is bytes."""
    if tokenizer.byte_level:
        return tokenizer.byte_level.encode_parts(contents)
    if tokenizer.name == "byte":
        return (np.frombuffer(content, np.uint8) for content in contents)
    return map(tokenizer.encode, contents)


def _write_meta(
    reader: TextReader, tokenizer: Tokenizer, sha256: str, ends: Mapping[str, Sequence[Ends]], folder: Path
) -> None:
    """Write what the token files of a folder are, and where documents end in them."""
    lengths = {split: [int(ends_D[-1]) for ends_D in of_texts] for split, of_texts in ends.items()}
    divided = [f"{split}_ends" for split in SPLITS if reader.text.document_separator is not None]
    for split, name in zip(SPLITS, divided, strict=False):
        write_bytes(folder / f"{name}.bin", one_behind_the_other(ends[split]).astype("<i8").tobytes())
    meta = {
        "format_version": FORMAT_VERSION,
        "corpus": reader.text.name,
        "corpus_sha256": sha256,
        **tokenizer.as_dict(),
        "vocab_size": tokenizer.vocab_size,
        **{f"{split}_tokens": sum(of_texts) for split, of_texts in lengths.items()},
        **{f"{name}_sha256": sha256_file(folder / f"{name}.bin") for name in (*SPLITS, *divided)},
    }
    for split, shares in (("train", reader.text.shares), ("val", reader.text.val_shares)):
        if shares:
            meta[f"{split}_parts"] = {"lengths": lengths[split], "shares": shares}
    write_record(folder / "meta.json", meta)
