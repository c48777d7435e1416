"""What compressors and an n-gram model reach on the texts of a study, kept with its tokenizers."""

from __future__ import annotations

from collections.abc import Callable, Mapping

from isoloss.data.token_files import Tokens
from isoloss.data.yardsticks import yardsticks
from isoloss.store.layout import StudyPaths
from isoloss.store.opening import recorded_tokenizers, write_tokenizers
from isoloss.study.datasets import Dataset

MAX_TOKENS = 20_000_000
"""Of a longer text it takes more than two minutes: `isoloss prepare` computes it, and the next start records it."""
TOLD_TOKENS = 4_000_000


def keep_yardsticks(paths: StudyPaths, tokens: Mapping[Dataset, Tokens], say: Callable[[str], None]) -> None:
    """Record the yardsticks of each text of a study that has none recorded. Raises StoreError."""
    known = recorded_tokenizers(paths)
    by_text = {each.sha256: each for each in tokens.values()}
    found: dict[str, Mapping[str, float]] = {}
    for sha256 in {each["corpus_sha256"] for each in known.values() if "yardsticks" not in each} & by_text.keys():
        if TOLD_TOKENS < len(by_text[sha256].train_N) <= MAX_TOKENS:
            say("computing what compressors and n-grams reach on the text")
        found[sha256] = yardsticks(by_text[sha256], MAX_TOKENS)
    if any(found.values()):
        add = {sha256: {"yardsticks": {**bits}} for sha256, bits in found.items() if bits}
        write_tokenizers(paths, {name: {**each, **add.get(each["corpus_sha256"], {})} for name, each in known.items()})
