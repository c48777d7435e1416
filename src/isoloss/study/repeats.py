"""How often a run reads its training text, and how much of what it reads is new."""

from __future__ import annotations

from isoloss.study.compute import train_tokens
from isoloss.study.config import RunConfig
from isoloss.study.datasets import dataset_of
from isoloss.study.texts import DataFacts


def unique_tokens(config: RunConfig, data: DataFacts) -> int | None:
    """Tokens of the training split that a run draws from; None where they are not known.

    Of a mixture what it can have seen of each text: no more than it draws from it.
    """
    of = data.of(dataset_of(config))
    if of.train_parts is None:
        return of.train_tokens
    drawn = [round(train_tokens(config) * share) for share in of.train_parts.shares]
    return sum(map(min, drawn, of.train_parts.lengths))


def epochs(config: RunConfig, data: DataFacts) -> float | None:
    """Tokens that a run sees over those of its training split; of a mixture, of the text that is repeated most.

    None where they are not known.
    """
    of = data.of(dataset_of(config))
    usable = of.train_parts.usable if of.train_parts else of.train_tokens
    return train_tokens(config) / usable if usable else None
