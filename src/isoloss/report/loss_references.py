"""What validation losses are read against: the source of a synthetic text, compressors, and an n-gram model."""

from __future__ import annotations

from collections.abc import Mapping
from math import log
from typing import NamedTuple

import polars as pl

from isoloss.data.ngram import MAX_BYTES
from isoloss.report.references import cited
from isoloss.report.snapshot import Snapshot
from isoloss.study.datasets import Dataset, dataset_of
from isoloss.wording import listed


class LossReference(NamedTuple):
    """A line among the curves of validation loss, in their unit; no curve goes below a bound."""

    name: str
    value: float
    bound: bool = False


def loss_references(snapshot: Snapshot) -> dict[str, list[LossReference]]:
    """These lines, by the name of the loss: of the n-gram model and the best compressor where the study has one text.

    Yardsticks are in bits a byte, and in nats where tokens are of one kind. The source's own loss is in both where all
    tokens are its symbols.
    """
    known = snapshot.results.true_losses.values()
    true = sorted({loss for source in known for loss in source["true_val_loss"].values()})
    per_token = [LossReference("the text's source, in windows", value, bound=True) for value in true]
    of_symbols = all(dataset.tokenizer in ("char", "byte") for dataset in snapshot.study.datasets)  # one is a byte
    per_byte = [each._replace(value=each.value / log(2)) for each in per_token if of_symbols]
    found = {name: yardsticks for name in snapshot.study.datasets if (yardsticks := yardsticks_of(snapshot, name))}
    strongest: list[LossReference] = []
    if len(found) == len(snapshot.study.datasets) and len({*map(str, found.values())}) == 1:
        strongest = [LossReference(*each) for each in _strongest(next(iter(found.values()))).items()]
    measured = snapshot.table.drop_nulls(["best_val_loss", "best_val_bpb"]).filter(pl.col("best_val_bpb") > 0)
    if len(found) == 1 and len(measured):
        bits = measured["best_val_loss"][0] / measured["best_val_bpb"][0]
        per_token += [each._replace(value=each.value * bits) for each in strongest]
    return {"val_loss": per_token, "val_bpb": per_byte + strongest}


def yardsticks_of(snapshot: Snapshot, dataset: Dataset) -> Mapping[str, float]:
    """Bits a byte of validation by what has only read the training split; of older studies nothing."""
    return snapshot.results.tokenizer(dataset).get("yardsticks", {})


def yardsticks_in_words(snapshot: Snapshot, dataset: Dataset) -> str:
    """A sentence for a paper's methods; empty where they are not known."""
    bits = yardsticks_of(snapshot, dataset)
    if not bits:
        return ""
    mib = MAX_BYTES >> 20
    told = listed(f"{value:.3f} ({_called(name)})" for name, value in bits.items())
    return (
        f"What has read the training split without a neural network reaches, in bits per byte of validation, {told}; "
        "a compressor's is what validation adds to the compressed training split (bz2 looks back 900 kB), and n-grams "
        f"are of bytes with modified Kneser–Ney smoothing {cited('chen1999')}, read at most the last {mib} MiB of "
        f"training, and are scored on at most the first {mib} MiB of validation."
    )


def lowest_loss_in_bits(snapshot: Snapshot) -> str:
    """The lowest validation loss of a run in bits per byte, beside the best yardsticks; empty where none are known."""
    measured = snapshot.table.drop_nulls("best_val_bpb").sort("best_val_bpb", "run_id")
    if measured.is_empty():
        return ""
    best = measured.row(0, named=True)
    bits = _strongest(yardsticks_of(snapshot, dataset_of(snapshot.configs[best["run_id"]])))
    reached = [f"{_called(name)} reaches {value:.2f}" for name, value in bits.items()]
    if not reached:
        return ""
    return (
        f"In bits per byte the best run reaches {best['best_val_bpb']:.2f}. After reading the training split, without "
        f"a neural network, {listed(reached)}."
    )


def _called(name: str) -> str:
    return name.replace("Kneser–Ney ", "a model of ") if "grams" in name else name


def _strongest(bits: Mapping[str, float]) -> dict[str, float]:
    """The n-gram model, and of the compressors the one that needs the fewest bits."""
    by_kind: dict[bool, str] = {}
    for name in sorted(bits, key=lambda name: bits[name]):
        by_kind.setdefault("grams" in name, name)
    return {name: bits[name] for name in by_kind.values()}
