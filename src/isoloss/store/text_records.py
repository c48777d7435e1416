"""What a study's files say of its texts and tokenizers."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, NotRequired

from pydantic import Field, FiniteFloat, TypeAdapter, with_config
from typing_extensions import TypedDict

from isoloss.store.records import Count

_PAIR = "[1-9][0-9]{0,9}x[1-9][0-9]{0,9}"
LengthsOfDocuments = Annotated[str, Field(pattern=f"^{_PAIR}( {_PAIR})*$")] | list[tuple[Count, Count]]
"""How many documents there are of each length in tokens, as `2x120 1x131`; earlier versions wrote [length, number]."""


def lengths_as_words(numbers: Mapping[int, int]) -> str:
    """The numbers of documents by length, ascending, as short as may be: a long text has tens of thousands."""
    return " ".join(f"{number}x{length}" for length, number in sorted(numbers.items()))


def lengths_from(stated: LengthsOfDocuments) -> dict[int, int]:
    """The inverse, of either spelling."""
    if not isinstance(stated, str):
        return dict(stated)
    pairs = (pair.split("x") for pair in stated.split())
    return {int(length): int(number) for number, length in pairs}


class PartsOfText(TypedDict):
    """Tokens of a split of each text of a mixture, and their shares of what is drawn."""

    lengths: Annotated[list[Annotated[int, Field(ge=1)]], Field(min_length=2)]
    shares: Annotated[list[Annotated[float, Field(gt=0, lt=1)]], Field(min_length=2)]


@with_config(extra="allow")
class OneTokenizerRecord(TypedDict):
    """A tokenizer and what it makes of a text; what a byte-level BPE is lies in a file, by its SHA-256.

    `corpus` names the text; of a study whose texts vary, `corpus` and `val_corpus` are the names that its runs have.
    """

    tokenizer: str
    characters: str
    tokenizer_sha256: NotRequired[Annotated[str, Field(pattern="^[0-9a-f]{64}$")]]
    corpus: str
    val_corpus: NotRequired[str]
    corpus_sha256: str
    text_sha256: NotRequired[Annotated[list[str], Field(min_length=1)]]
    vocab_size: Count
    train_tokens: Count
    val_tokens: Count
    train_parts: NotRequired[PartsOfText]
    val_parts: NotRequired[PartsOfText]
    documents: NotRequired[tuple[list[LengthsOfDocuments], list[LengthsOfDocuments]]]
    """Of training and of validation, for each text."""
    yardsticks: NotRequired[dict[str, FiniteFloat]]
    """Bits a byte of validation by compressors and n-grams that have read the training split."""


@with_config(extra="allow")
class TokenizerRecord(OneTokenizerRecord):
    """tokenizer.json; `others` of a study that has, or had, several tokenizers or texts."""

    others: NotRequired[list[OneTokenizerRecord]]


class OneSourceRecord(TypedDict):
    """The entropy rate of a synthetic text, and what its source loses on each choice of windows."""

    corpus_sha256: NotRequired[str]
    entropy_rate: FiniteFloat
    low: FiniteFloat
    high: FiniteFloat
    method: str
    true_val_loss: dict[str, FiniteFloat]


class TrueLossesRecord(OneSourceRecord):
    """true_losses.json; `others` of a study whose runs are on several synthetic texts."""

    others: NotRequired[list[OneSourceRecord]]


TOKENIZER, TRUE_LOSSES = TypeAdapter(TokenizerRecord), TypeAdapter(TrueLossesRecord)
