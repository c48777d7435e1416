"""How often a run reads its training text, and how much of what it reads is new."""

from __future__ import annotations

from isoloss.study.compute import train_tokens
from isoloss.study.config import RunConfig
from isoloss.study.datasets import dataset_of
from isoloss.study.texts import DataFacts


def unique_tokens(config: RunConfig, data: DataFacts) -> int | None:
    """Tokens of the training split that a run draws from; None where they are not known."""
    return data.of(dataset_of(config)).train_tokens


def epochs(config: RunConfig, data: DataFacts) -> float | None:
    """Tokens that a run sees over those of its training split; None where they are not known."""
    there = unique_tokens(config, data)
    return train_tokens(config) / there if there else None
