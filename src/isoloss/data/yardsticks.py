"""What is reached on validation without a neural network, by what has read the training split: bits per byte."""

from __future__ import annotations

import bz2
import lzma
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import suppress
from itertools import chain
from typing import Protocol

import numpy as np

from isoloss.data.compressed import zstd
from isoloss.data.ngram import MAX_BYTES, ngram_loss
from isoloss.data.survey import TOLD_EVERY_S
from isoloss.data.token_files import Tokens
from isoloss.data.tokenizer import TokenArray, Tokenizer
from isoloss.errors import StoreError
from isoloss.files import read_record, write_record

SHORT_TEXT_BYTES = 20_000_000
"""Of a longer text it takes more than a minute, of one that repeats itself ten: only where that is asked for."""
TOLD_BYTES = 4_000_000
PIECE_TOKENS = 1 << 20


class _Compressor(Protocol):
    def compress(self, data: bytes, /) -> bytes: ...
    def flush(self) -> bytes: ...


COMPRESSORS: Mapping[str, Callable[[], _Compressor]] = {
    "bz2": lambda: bz2.BZ2Compressor(9),
    "xz": lambda: lzma.LZMACompressor(preset=9),
    "zstd": lambda: zstd().ZstdCompressor(22),
}
"""How to begin with each: at its best, as far as that needs no more than some 700 MB of memory; so one at a time."""


def yardsticks(
    tokens: Tokens, *, of_long_texts: bool = False, say: Callable[[str], None] = lambda line: None
) -> Mapping[str, float]:
    """Bits a byte of validation by what reaches them, kept with the tokens once computed.

    None of a mixture, which nothing reads in its shares, and unless asked for none of a long text; `say` hears where it
    takes a while.

    Of a compressor that is what validation adds to the compressed training split: 8 · (size of both − size of
    training) / bytes. bz2 reads 900 kB at a time, which is all that it has seen; xz (preset 9) looks back 64 MiB, zstd
    (level 22) 128 MiB. The n-gram model is that of `ngram_loss`.
    """
    path = tokens.folder / "yardsticks.json"
    with suppress(
        StoreError, LookupError, ValueError, TypeError, AttributeError
    ):  # not there yet, or not as we write it
        return {name: float(bits) for name, bits in read_record(path)["bits_per_byte"].items()}
    if tokens.train_parts or tokens.val_parts:
        return {}
    n_bytes = _bytes_of(tokens.tokenizer, tokens.val_N)
    of_both = n_bytes + _bytes_of(tokens.tokenizer, tokens.train_N)
    if of_both > SHORT_TEXT_BYTES and not of_long_texts:
        return {}
    told = say if of_both > TOLD_BYTES else lambda line: None
    told("computing what compressors and n-grams reach on the text; its tokens are ready")
    found: dict[str, float] = {}
    for name, make in COMPRESSORS.items():
        train, both = (
            _size(make(), tokens.tokenizer, splits, lambda mb, by=name: told(f"compressed {mb:,.0f} MB by {by}"))
            for splits in ([tokens.train_N], [tokens.train_N, tokens.val_N])
        )
        found[name] = 8 * (both - train) / n_bytes
    found |= _ngram_bits(tokens)
    write_record(path, {"bits_per_byte": found})
    return found


def _size(
    compressor: _Compressor, tokenizer: Tokenizer, splits: Sequence[TokenArray], tell: Callable[[float], None]
) -> int:
    """Bytes that a compressor makes of the text of some tokens; `tell` hears now and then how many MB it has read."""
    length, read, told = 0, 0, time.monotonic()
    for piece in chain.from_iterable(_pieces(tokenizer, tokens_N) for tokens_N in splits):
        length, read = length + len(compressor.compress(piece)), read + len(piece)
        if time.monotonic() - told > TOLD_EVERY_S:
            tell(read / 1e6)
            told = time.monotonic()
    return length + len(compressor.flush())


def _ngram_bits(tokens: Tokens) -> dict[str, float]:
    """None of splits that are too short. A token is at least a byte."""
    parts = tokens.train_N[-MAX_BYTES:], tokens.val_N[:MAX_BYTES]
    train_N, val_N = (np.frombuffer(b"".join(_pieces(tokens.tokenizer, part_N)), np.uint8) for part_N in parts)
    found = ngram_loss(train_N, val_N)
    return {f"Kneser–Ney {found.order}-grams": found.bits_per_byte} if found else {}


def _bytes_of(tokenizer: Tokenizer, tokens_N: TokenArray) -> int:
    bytes_V = tokenizer.bytes_of_tokens()
    return sum(int(bytes_V[tokens_N[at : at + PIECE_TOKENS]].sum()) for at in range(0, len(tokens_N), PIECE_TOKENS))


def _pieces(tokenizer: Tokenizer, tokens_N: TokenArray) -> Iterator[bytes]:
    for first in range(0, len(tokens_N), PIECE_TOKENS):
        yield tokenizer.to_bytes(tokens_N[first : first + PIECE_TOKENS])
