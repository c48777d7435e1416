"""Files of GPT-2's tokens, with the header of llm.c and modded-nanogpt or without one as nanoGPT's, as their text."""

from __future__ import annotations

from codecs import getincrementaldecoder
from collections.abc import Iterator, Sequence
from functools import partial
from itertools import chain
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from isoloss.data.compressed import is_compressed, opened
from isoloss.errors import CorpusError

PIECE_TOKENS = 1 << 20
HEADER_BYTES = 1024
"""256 numbers of 32 bits: magic, version, how many tokens follow, zeros."""
MAGIC, VERSION = 20240520, 1
LLAMA_MAGIC = 20240801
USUAL_TOKEN = 10_000
"""GPT-2's text has some token from here on; a file without a header that has none is taken for one of characters."""
_INNER_BYTES = bytes(range(0x80, 0xC0))
"""Those of a character of UTF-8 after its first."""


def shard_texts(paths: Sequence[Path], token_bytes: Sequence[bytes], end: str) -> Iterator[str]:
    """The text of some shards, which go on in each other, in pieces; `token_bytes` is what each token stands for.

    The last token, <|endoftext|>, stands before or after each document: what comes before it is given `end` if it does
    not end in it. Of a character that the first shard begins in, or the last one ends in, nothing is left. Raises
    CorpusError for a broken shard.
    """
    separator, decoder, begun = len(token_bytes) - 1, getincrementaldecoder("utf-8")(), False
    last, kept = b"", len(end.encode())  # how a document that has begun ends so far
    for path in paths:
        for tokens_N in _tokens(path, len(token_bytes)):
            contents = list[bytes]()
            for number, part_N in enumerate(np.split(tokens_N, np.flatnonzero(tokens_N == separator))):
                if number:
                    contents.append(_missing(last, end))
                    last = b""
                contents.append(b"".join(map(token_bytes.__getitem__, part_N[bool(number) :].tolist())))
                last = (last + contents[-1][-kept:])[-kept:]
            content = b"".join(contents)
            content = content if begun else content.lstrip(_INNER_BYTES)
            begun = begun or bool(content)
            try:
                yield decoder.decode(content)
            except UnicodeDecodeError as error:
                raise CorpusError(f"'{path}' is broken: its tokens are no text in UTF-8 ({error})") from error


def _missing(last: bytes, end: str) -> bytes:
    """What a document that ends so needs at its end."""
    return b"" if last in (b"", end.encode()) else end.encode()


def _tokens(path: Path, vocab_size: int) -> Iterator[NDArray[np.uint16]]:
    """The tokens of a shard in pieces. Raises CorpusError."""
    if is_compressed(path):
        raise CorpusError(f"'{path}' is compressed, and shards are read as they are; decompress it")
    with opened(path) as stream:
        size, head, largest = path.stat().st_size, stream.read(HEADER_BYTES), 0
        magic, version, count = np.frombuffer(head[:12].ljust(12, b"\0"), "<i4").tolist()
        if magic == LLAMA_MAGIC:
            raise CorpusError(f"'{path}' has tokens of Llama 3, and only GPT-2's are known; give the text itself")
        if magic == MAGIC and version != VERSION:
            raise CorpusError(f"'{path}' is a shard of version {version}, and only {VERSION} is known")
        expected = HEADER_BYTES + 2 * count if magic == MAGIC else size + size % 2
        if size != expected:
            said = f"its header says {count:,} tokens" if magic == MAGIC else "of tokens of 16 bits"
            raise CorpusError(f"'{path}' is broken: {said}, so {expected:,} bytes, and it has {size:,}")
        for content in chain([b"" if magic == MAGIC else head], iter(partial(stream.read, 2 * PIECE_TOKENS), b"")):
            tokens_N = np.frombuffer(content, "<u2")
            largest = max(largest, int(tokens_N.max(initial=0)))
            if largest >= vocab_size:
                raise CorpusError(f"'{path}' is broken: it has a token {largest:,}, and GPT-2 has {vocab_size:,}")
            yield tokens_N
        if magic != MAGIC and largest < USUAL_TOKEN:
            hint = "these are characters; `isoloss prepare` its folder"
            raise CorpusError(f"'{path}' has no token from {USUAL_TOKEN:,} on, as GPT-2's would: {hint}")
