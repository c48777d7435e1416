"""Our vocabularies as other programs read them: tokenizer.json of transformers, meta.pkl of nanoGPT."""

from __future__ import annotations

import pickle
from pathlib import Path
from typing import Any

from isoloss.data.byte_level import byte_letters
from isoloss.data.tokenizer import Tokenizer

ANY_CHARACTER = {"Regex": r"[\s\S]"}


def transformers_tokenizer(tokenizer: Tokenizer) -> dict[str, Any]:
    """The tokenizer.json of the `tokenizers` library; characters and bytes have no special tokens."""
    if tokenizer.byte_level:
        return tokenizer.byte_level.as_used
    byte_level = {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": False, "use_regex": False}
    if tokenizer.name == "byte":
        model = {"type": "BPE", "vocab": {character: byte for byte, character in enumerate(byte_letters())},
                 "merges": []}  # fmt: skip
        split, join = byte_level, byte_level
    else:
        vocabulary = {character: token for token, character in enumerate(tokenizer.characters)}
        model = {"type": "WordLevel", "vocab": vocabulary, "unk_token": "<unknown>"}  # none: what it lacks is an error
        split = {"type": "Split", "pattern": ANY_CHARACTER, "behavior": "Isolated", "invert": False}
        join = {"type": "Fuse"}
    parts = {"normalizer": None, "pre_tokenizer": split, "post_processor": None, "decoder": join}
    return {"version": "1.0", "truncation": None, "padding": None, "added_tokens": [], **parts, "model": model}


def transformers_tokenizer_config(block_size: int) -> dict[str, Any]:
    """The tokenizer_config.json beside it."""
    return {
        "tokenizer_class": "PreTrainedTokenizerFast",
        "model_max_length": block_size,
        "clean_up_tokenization_spaces": False,
    }


def nanogpt_meta(tokenizer: Tokenizer) -> bytes:
    """The meta.pkl of nanoGPT's data folders, from which its sample.py takes the vocabulary.

    Of bytes it has those that are characters by themselves, ASCII. A prompt for a byte-level BPE is read character by
    character, as sample.py does, and not merged.
    """
    if tokenizer.byte_level:
        spelled = [token.decode(errors="replace") for token in tokenizer.byte_level.token_bytes]
    else:
        spelled = [*(tokenizer.characters or map(chr, range(256)))]
    stoi = {text: token for token, text in reversed([*enumerate(spelled)]) if len(text) == 1}
    return pickle.dumps({"vocab_size": len(spelled), "itos": dict(enumerate(spelled)), "stoi": stoi})


def nanogpt_meta_path(checkpoint: Path, dataset: str) -> Path:
    """Where sample.py looks for it: in data/ of the checkout that the checkpoint's folder lies in, else beside that."""
    checkout = checkpoint.parent.parent
    root = checkout if (checkout / "sample.py").is_file() else checkpoint.parent
    return root / "data" / dataset / "meta.pkl"
