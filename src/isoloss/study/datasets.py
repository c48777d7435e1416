"""What runs are trained on: a text and a tokenizer, and in which unit the losses of several such pairs compare."""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING, Literal, NamedTuple

from isoloss.study.tokenizer_names import bpe_size

if TYPE_CHECKING:
    import polars as pl

    from isoloss.study.config import RunConfig


class Dataset(NamedTuple):
    """What a run is trained on, by the names that its study gives them; fields are columns of a study's summary.

    `val_corpus` is empty where a study has one text for all, and where each corpus has its own end for validation.
    """

    corpus: str
    val_corpus: str
    tokenizer: str


COMPARED_IN = {"val_loss": "nats per token", "val_bpb": "bits per byte"}
"""Units in which validation losses compare."""
PER_TOKEN = (
    "best_val_loss",
    "final_val_loss",
    "best_ema_val_loss",
    "final_ema_val_loss",
    "final_train_loss",
    "train_val_gap",
    "loss_roughness",
    "steps_to_target",
)
"""Columns of a summary, in nats a token or by them, that do not compare between tokenizers and validation texts."""
PER_BYTE = "Losses per token of different tokenizers do not compare: losses here are in bits per byte of text."
PER_BYTE_OF_TEXTS = (
    "Each corpus has its own text for validation: losses here are in bits per byte of text, and a difference between "
    "corpora is also one between these texts."
)


def dataset_of(config: RunConfig) -> Dataset:
    """What a run is trained on."""
    return Dataset(config.corpus, config.val_corpus, config.tokenizer)


def datasets_in(table: pl.DataFrame) -> set[Dataset]:
    """What the runs of a table are trained on, as far as it says so."""
    columns = [name for name in Dataset._fields if name in table.columns]
    rows = table.select(columns).unique().iter_rows(named=True) if columns else ()
    return {Dataset(*(row.get(name) or "" for name in Dataset._fields)) for row in rows}


def validates_apart(datasets: Iterable[Dataset]) -> bool:
    """Whether runs on these are validated on several texts."""
    found = {(each.val_corpus, "" if each.val_corpus else each.corpus) for each in datasets}
    return len(found) > 1


def compared_loss(datasets: Iterable[Dataset]) -> Literal["val_loss", "val_bpb"]:
    """By which validation loss runs on these compare: per token, else per byte.

    Per token if all are validated on one text in the same tokens. A character is a token in every vocabulary of
    characters, while a BPE that is trained on each corpus cuts the same text in other ways.
    """
    known = {*datasets}
    tokenizers = {each.tokenizer for each in known}
    trained_on_each = len({each.corpus for each in known}) > 1 and any(map(bpe_size, tokenizers))
    return "val_bpb" if len(tokenizers) > 1 or trained_on_each or validates_apart(known) else "val_loss"


def per_byte_notes(datasets: Iterable[Dataset]) -> list[str]:
    """Why losses of runs on these are given in bits per byte; nothing where they are not."""
    known = {*datasets}
    if compared_loss(known) == "val_loss":
        return []
    apart = validates_apart(known)
    vocabularies = not apart or len({each.tokenizer for each in known}) > 1
    return [PER_BYTE] * vocabularies + [PER_BYTE_OF_TEXTS] * apart
