"""What compressors and an n-gram model reach on the texts of a study, kept with its tokenizers."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from isoloss.data.token_files import Tokens
from isoloss.data.yardsticks import yardsticks
from isoloss.errors import StoreError
from isoloss.files import path_exists
from isoloss.store.layout import StudyPaths
from isoloss.store.opening import recorded_tokenizers, write_tokenizers
from isoloss.store.owner import owned
from isoloss.study.datasets import Dataset


def keep_yardsticks(paths: StudyPaths, tokens: Mapping[Dataset, Tokens], say: Callable[[str], None]) -> None:
    """Record the yardsticks of each text of a study that has none recorded.

    None of long texts but what `isoloss prepare --yardsticks` computed. What fails is said, and the next start tries
    it again: a report is not lost for them.
    """
    if not path_exists(paths.tokenizer):
        return
    found: dict[tuple[str, bool], Mapping[str, float]] = {}
    missing = {_split_of(each) for each in recorded_tokenizers(paths).values() if "yardsticks" not in each}
    for each in tokens.values():
        split = each.sha256, each.tokenizer.name == "byte"
        if split in missing - found.keys():
            try:
                found[split] = yardsticks(each, say=say)
            except Exception as error:  # of memory, a disk, or a library of compression
                say(f"what compressors reach on the text is not computed: {type(error).__name__}: {error}")
    add = {split: {"yardsticks": {**bits}} for split, bits in found.items() if bits}
    try:
        if add:
            with owned(paths):
                known = recorded_tokenizers(paths).items()
                write_tokenizers(paths, {name: {**each, **add.get(_split_of(each), {})} for name, each in known})
    except StoreError as error:  # another start has the directory by now, or its disk is full
        say(f"what compressors reach on the text is not recorded: {error}")


def _split_of(record: Mapping[str, Any]) -> tuple[str, bool]:
    """Text and split of a record: bytes are split at another place than characters."""
    return record["corpus_sha256"], record["tokenizer"] == "byte"
