"""How often a run reads its training text, and how much of what it reads is new."""

from __future__ import annotations

from isoloss.study.compute import train_tokens
from isoloss.study.config import RunConfig
from isoloss.study.datasets import dataset_of
from isoloss.study.mixtures import Parts
from isoloss.study.texts import DataFacts


def readable(config: RunConfig, data: DataFacts) -> Parts | None:
    """Tokens of the training split of each text, without documents that no block fits into.

    None where they are not known, as of a run that was set aside with its text or tokenizer.
    """
    of = data.others.get(dataset_of(config)) if data.others else data
    if of is None or of.train_tokens is None:
        return None
    if (of.sha256, of.vocab_size) != (config.corpus_sha256, config.vocab_size):
        return None
    longer = 0 if of.documents is None else config.block_size
    lengths = [sum(length * n for length, n in each.items() if length > longer) for each in of.documents_of(0)]
    return Parts(tuple(lengths), of.train_parts.shares if of.train_parts else (1.0,))


def unique_tokens(config: RunConfig, data: DataFacts) -> int | None:
    """Tokens of the training split that a run draws from; None where they are not known.

    Of a mixture what it can have seen of each text: no more than it draws from it.
    """
    texts = readable(config, data)
    if texts is None or len(texts.lengths) == 1:
        return texts and texts.lengths[0]
    drawn = [round(train_tokens(config) * share) for share in texts.shares]
    return sum(map(min, drawn, texts.lengths))


def epochs(config: RunConfig, data: DataFacts) -> float | None:
    """Tokens that a run sees over those that it draws from; of a mixture, of the text that is repeated most.

    None where they are not known.
    """
    texts = readable(config, data)
    return train_tokens(config) / texts.usable if texts and texts.usable else None
