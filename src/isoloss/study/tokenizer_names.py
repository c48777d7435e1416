"""Names of tokenizers as studies state them: char, byte, bpe:N, gpt2, file:PATH."""

from __future__ import annotations

import re
from typing import Annotated, Any, cast

from pydantic import BeforeValidator, WithJsonSchema
from pydantic_core import PydanticCustomError

from isoloss.study.synonyms import did_you_mean

MAX_VOCAB_SIZE = 1 << 20
BYTES = 256
"""Tokens that any byte-level vocabulary has."""
FILE = "file:"
_BPE = re.compile(r"bpe:([1-9]\d{0,17})")
_EXAMPLES = ("char", "byte", "bpe:1024", "gpt2", f"{FILE}tokenizer.json")
MEANING = (
    "char: a token for each character of the text; byte: one for each of 256 bytes; bpe:N: a byte-level BPE of N "
    "tokens, trained on the training split; gpt2; file:PATH: a tokenizer.json of the tokenizers library."
)


def _checked(value: Any) -> Any:
    stated = cast("dict[Any, Any]", value) if isinstance(value, dict) else {}
    if list(stated) == ["file"] and isinstance(stated["file"], str):
        value = FILE + stated["file"]
    if not isinstance(value, str):
        raise PydanticCustomError("tokenizer", "expected one of {names}", {"names": ", ".join(_EXAMPLES)})
    size = bpe_size(value)
    if size is not None and not BYTES <= size <= MAX_VOCAB_SIZE:
        limits = {"least": BYTES, "most": f"{MAX_VOCAB_SIZE:,}"}
        raise PydanticCustomError("tokenizer", "a byte-level BPE has from {least} to {most} tokens in all", limits)
    of_file = value.startswith(FILE) and value != FILE
    if size is None and not of_file and value not in ("char", "byte", "gpt2"):
        hint = did_you_mean(value, _EXAMPLES)
        raise PydanticCustomError("tokenizer", "no tokenizer is called so; {hint}", {"hint": hint})
    return value


TokenizerName = Annotated[
    str,
    BeforeValidator(_checked),
    WithJsonSchema(
        {
            "anyOf": [
                {"enum": ["char", "byte", "gpt2"]},
                {"type": "string", "pattern": f"^(bpe:[0-9]+|{FILE}.+)$"},
                {"type": "object", "properties": {"file": {"type": "string"}}, "required": ["file"]},
            ]
        }
    ),
]


def bpe_size(name: str) -> int | None:
    """How many tokens a name asks for: 1024 of 'bpe:1024'; None of other names."""
    found = _BPE.fullmatch(name)
    return int(found[1]) if found else None


def is_of_library(name: str) -> bool:
    """Whether a tokenizer is one of the `tokenizers` library, of which tokens are counted by tokenizing alone."""
    return name not in ("char", "byte")
