"""What general compressors that have read the training split make of validation: a yardstick for bits per byte."""

from __future__ import annotations

import bz2
import lzma
from collections.abc import Iterator, Mapping
from itertools import chain
from typing import Protocol

from isoloss.data.tokenizer import TokenArray, Tokenizer
from isoloss.data.tokens import Tokens
from isoloss.errors import StoreError
from isoloss.files import read_record, write_record

MAX_TOKENS = 100_000_000
"""Of a longer text it would take minutes to hours."""
PIECE_TOKENS = 1 << 20


class _Compressor(Protocol):
    def compress(self, data: bytes, /) -> bytes: ...
    def flush(self) -> bytes: ...


def compressed_bits(tokens: Tokens) -> Mapping[str, float]:
    """Bits a byte of validation by compressor, kept with the tokens once computed; none of a very long text.

    That is what validation adds to the compressed training split: 8 · (size of both − size of training) / bytes. bz2
    reads 900 kB at a time, which is all that it has seen; xz (preset 9) looks back 64 MiB.
    """
    path = tokens.folder / "compressors.json"
    try:
        return {name: float(bits) for name, bits in read_record(path)["bits_per_byte"].items()}
    except (StoreError, LookupError, ValueError, TypeError, AttributeError):  # not there yet, or not as we write it
        pass
    if len(tokens.train_N) + len(tokens.val_N) > MAX_TOKENS:
        return {}
    n_bytes = int(tokens.tokenizer.bytes_of_tokens()[tokens.val_N].sum())
    makers = {"bz2": lambda: bz2.BZ2Compressor(9), "xz": lambda: lzma.LZMACompressor(preset=9)}
    splits = [tokens.train_N], [tokens.train_N, tokens.val_N]
    sizes = {name: [_size(make(), tokens.tokenizer, each) for each in splits] for name, make in makers.items()}
    found = {name: 8 * (both - train) / n_bytes for name, (train, both) in sizes.items()}
    write_record(path, {"bits_per_byte": found})
    return found


def _size(compressor: _Compressor, tokenizer: Tokenizer, splits: list[TokenArray]) -> int:
    """Bytes that a compressor makes of the text of some tokens."""
    pieces = chain.from_iterable(_pieces(tokenizer, tokens_N) for tokens_N in splits)
    return sum(len(compressor.compress(piece)) for piece in pieces) + len(compressor.flush())


def _pieces(tokenizer: Tokenizer, tokens_N: TokenArray) -> Iterator[bytes]:
    for first in range(0, len(tokens_N), PIECE_TOKENS):
        yield tokenizer.to_bytes(tokens_N[first : first + PIECE_TOKENS])
