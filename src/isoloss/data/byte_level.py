"""Byte-level BPE: a vocabulary whose tokens are bytes, run by the `tokenizers` library on all cores.

Tokens of a long text are those of its parts, which are cut where the pre-tokenizer cuts anyway.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import islice
from typing import TYPE_CHECKING, Any, cast

import numpy as np
from numpy.typing import NDArray

from isoloss.errors import ConfigError
from isoloss.files import sha256_bytes
from isoloss.study.tokenizer_names import BYTES, MAX_VOCAB_SIZE

if TYPE_CHECKING:
    import tokenizers

PART_CHARACTERS = 1 << 16
"""About as long are the parts that are tokenized each by itself."""
BATCH_CHARACTERS, BATCH_PARTS = 1 << 20, 1 << 12
"""Parts are tokenized together until they are so long, or so many: enough for the cores, and little memory."""
MAX_PART_CHARACTERS = 1 << 24
"""A text has to have a place to cut within so many, which is what memory is bounded by."""
CONTEXT_CHARACTERS = 64
"""On both sides of a cut, where it is checked that the pre-tokenizer cuts there too."""
MAX_TRIED = 1000
"""Ends of words that are tried for a cut; by all common rules the first one is."""
_WORD_END = re.compile(r"\S(?=\s)")
_PROBE = " To be, or 'tis\n\n  1234567 na\u00efve e\u0301 \ufb01n \u6c49\u5b57\t\U0001f389  <|endoftext|> \x01x "


@dataclass(frozen=True)
class ByteLevel:
    """A byte-level BPE by its definition, the content of a tokenizer.json of the `tokenizers` library.

    Its added tokens are left out: a text that spells one is tokenized as any other.
    """

    definition: str

    @property
    def sha256(self) -> str:
        """Of the definition."""
        return sha256_bytes(self.definition.encode())

    @cached_property
    def token_bytes(self) -> list[bytes]:
        """The bytes that each token stands for, none of numbers that are no token. Raises ValueError."""
        vocabulary: Mapping[str, int] = _model(self.definition)["vocab"]
        byte_of = {letter: byte for byte, letter in enumerate(byte_letters())}
        size = max(vocabulary.values()) + 1
        if len({*vocabulary.values()}) < len(vocabulary):
            raise ValueError("two of its tokens have one number")
        if size > MAX_VOCAB_SIZE:
            raise ValueError(f"it has {size:,} tokens, {MAX_VOCAB_SIZE:,} is the most")
        found = [b""] * size
        for token, number in vocabulary.items():
            if not byte_of.keys() >= {*token} or number < 0:
                raise ValueError(f"its token {token!r} is not spelled in bytes")
            found[number] = bytes(byte_of[letter] for letter in token)
        return found

    @property
    def as_used(self) -> dict[str, Any]:
        """The definition without added tokens, and without what adds to a text or cuts it."""
        plain = {"added_tokens": [], "truncation": None, "padding": None, "post_processor": None}
        return json.loads(self.definition) | plain

    @cached_property
    def _library(self) -> tokenizers.Tokenizer:
        import tokenizers  # a tenth of a second, which most commands need not spend

        return tokenizers.Tokenizer.from_str(json.dumps(self.as_used))

    @cached_property
    def _lengths_V(self) -> NDArray[np.int64]:
        return np.array([*map(len, self.token_bytes)], dtype=np.int64)

    def encode(self, text: str) -> NDArray[np.uint32]:
        """Tokens of a text, shape [n]. Raises ConfigError where they would not give it back."""
        return np.concatenate([*self.encode_pieces([text]), np.empty(0, np.uint32)])

    def encode_pieces(self, texts: Iterable[str]) -> Iterator[NDArray[np.uint32]]:
        """Tokens of a text that comes in pieces, equal to those of the whole, as many arrays of them as may be.

        Raises ConfigError where the tokens of a part are not as many bytes, or it has no place to cut.
        """
        return self.encode_parts(self.parts(texts))

    def encode_parts(self, parts: Iterable[str]) -> Iterator[NDArray[np.uint32]]:
        """The tokens of each part, which is tokenized by itself. Raises ConfigError likewise."""
        for batch in _batches(parts):
            for part, found in zip(
                batch, self._library.encode_batch_fast(batch, add_special_tokens=False), strict=True
            ):
                tokens_N = np.array(found.ids, dtype=np.uint32)
                if int(self._lengths_V[tokens_N].sum()) != len(part.encode()):
                    raise ConfigError(f"the tokenizer does not give back all of {part[:40]!r}")
                yield tokens_N

    def parts(self, texts: Iterable[str]) -> Iterator[str]:
        """The text of some pieces, cut where the pre-tokenizer cuts. Raises ConfigError where it does not."""
        left = ""
        for text in texts:
            left, start = left + text, 0
            while (cut := self._cut(left, start + PART_CHARACTERS)) is not None:
                yield left[start:cut]
                start = cut
            left = left[start:]
            if len(left) > MAX_PART_CHARACTERS:
                raise ConfigError(
                    f"the text has {MAX_PART_CHARACTERS:,} characters without an end of a word; use tokenizer char or "
                    "byte"
                )
        if left:
            yield left

    def _cut(self, text: str, at_least: int) -> int | None:
        """The first end of a word, from a place on, at which the pre-tokenizer cuts whatever stands further away."""
        for found in islice(_WORD_END.finditer(text, at_least), MAX_TRIED):
            cut = found.end()
            if cut + CONTEXT_CHARACTERS > len(text):
                return None
            before, after = text[max(0, cut - CONTEXT_CHARACTERS) : cut], text[cut : cut + CONTEXT_CHARACTERS]
            if self._words(before + after) == self._words(before) + self._words(after):
                return cut
        return None

    def _words(self, text: str) -> list[str]:
        splitter = cast("Any", self._library.pre_tokenizer)
        return [word for word, _ in splitter.pre_tokenize_str(text)]

    def to_bytes(self, tokens: Iterable[int]) -> bytes:
        """The bytes that tokens stand for."""
        return b"".join(map(self.token_bytes.__getitem__, tokens))

    def check(self) -> None:
        """Raises ValueError with what keeps these tokens from standing for the bytes of any text."""
        if _parts_of(self.definition).get("normalizer") is not None:
            raise ValueError("it normalizes text, which is then not what is scored")
        if _model(self.definition).get("dropout"):
            raise ValueError("it tokenizes at random (dropout)")
        if not {*map(bytes, zip(range(BYTES)))} <= {*self.token_bytes}:
            raise ValueError("not every byte is a token")
        try:
            same = all(self.to_bytes(self.encode(text).tolist()) == text.encode() for text in (_PROBE, _PROBE.strip()))
        except (KeyboardInterrupt, SystemExit):
            raise
        except BaseException as error:  # the library raises nothing narrower, and its panics are no Exceptions
            raise ValueError(" ".join(str(error).split())) from error
        if not same:
            raise ValueError("its tokens do not give text back as it was")


def _batches(parts: Iterable[str]) -> Iterator[list[str]]:
    batch, length = list[str](), 0
    for part in parts:
        batch.append(part)
        length += len(part)
        if length >= BATCH_CHARACTERS or len(batch) >= BATCH_PARTS:
            yield batch
            batch, length = [], 0
    if batch:
        yield batch


def byte_letters() -> list[str]:
    """A printable character for each byte, as GPT-2's tokenizer spells them: itself, or one from 256 on in order."""
    printable = {*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)}
    others = iter(range(0x100, 0x200))
    return [chr(byte if byte in printable else next(others)) for byte in range(BYTES)]


def defined(first: Sequence[str], merges: Iterable[tuple[str, str]], more: Sequence[str] = ()) -> ByteLevel:
    """The vocabulary that begins with tokens of one byte each, goes on with what merges make, and ends with more.

    Text is cut into words as GPT-2 cuts it (Radford et al. 2019).
    """
    merges = [*merges]
    tokens = dict.fromkeys([*first, *(left + right for left, right in merges), *more])
    byte_level = {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": False, "use_regex": True}
    parts = {"version": "1.0", "truncation": None, "padding": None, "added_tokens": [], "normalizer": None}
    parts |= {"pre_tokenizer": byte_level, "post_processor": None, "decoder": byte_level}
    model = {"type": "BPE", "vocab": {token: number for number, token in enumerate(tokens)}, "merges": merges}
    return ByteLevel(json.dumps({**parts, "model": model}, ensure_ascii=False, separators=(",", ":")))


def _parts_of(definition: str) -> Mapping[str, Any]:
    try:
        parts: Any = json.loads(definition)
    except RecursionError:
        parts = None
    if not isinstance(parts, dict):
        raise ValueError("it is no JSON object")
    return cast("Mapping[str, Any]", parts)


def _model(definition: str) -> Mapping[str, Any]:
    """The model of a definition. Raises ValueError where it is no BPE."""
    model: Any = _parts_of(definition).get("model")
    if not isinstance(model, dict) or cast("Mapping[str, Any]", model).get("type") != "BPE":
        raise ValueError("its model is no BPE")
    vocabulary: Any = cast("Mapping[str, Any]", model).get("vocab")
    if not isinstance(vocabulary, dict) or not vocabulary:
        raise ValueError("it has no vocabulary")
    if not all(type(number) is int for number in cast("Mapping[str, Any]", vocabulary).values()):
        raise ValueError("a token of its vocabulary has no number")
    return cast("Mapping[str, Any]", model)
