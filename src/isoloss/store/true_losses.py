"""What the source of a synthetic text loses itself, on the windows that runs are validated on: no model loses less."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence

import numpy as np
from numpy.typing import NDArray

from isoloss.data.batches import exact_eval_starts, sliding_starts
from isoloss.data.sources import Source
from isoloss.data.synthetic import CHARACTERS, source_named
from isoloss.data.token_files import Tokens
from isoloss.data.tokenizer import Tokenizer
from isoloss.errors import StoreError, UnreadableError
from isoloss.files import path_exists, write_record
from isoloss.store.layout import StudyPaths
from isoloss.store.records import read_checked
from isoloss.store.text_records import TRUE_LOSSES, OneSourceRecord
from isoloss.study.config import RunConfig
from isoloss.study.datasets import Dataset, dataset_of
from isoloss.study.study import Study
from isoloss.study.synthetic import is_synthetic

CHUNK_TOKENS = 1 << 18


def windows_scored(config: RunConfig) -> str:
    """The settings on which it depends what the validation loss of a run is computed on."""
    of_tokens = "" if config.tokenizer == "char" else f", tokenizer {config.tokenizer}"
    sliding = f", eval_stride {config.eval_stride}" if config.eval_scored < config.block_size else ""
    return f"block_size {config.block_size}, eval_val_tokens {config.eval_val_tokens}{sliding}{of_tokens}"


def read_true_losses(paths: StudyPaths) -> dict[str, OneSourceRecord]:
    """What was recorded, by the SHA-256 of the text, or under "" where a study has one text.

    Nothing of natural texts, and where it is damaged: the next start computes it again. Raises UnreadableError.
    """
    try:
        first = read_checked(TRUE_LOSSES, paths.true_losses) if path_exists(paths.true_losses) else None
    except UnreadableError:
        raise
    except StoreError:
        return {}
    if first is None:
        return {}
    others = first.pop("others", [])
    return {each.get("corpus_sha256", ""): each for each in (first, *others)}


def keep_true_losses(
    paths: StudyPaths, study: Study, configs: Sequence[RunConfig], tokens: Mapping[Dataset, Tokens]
) -> None:
    """Record the entropy rate of each text that is validated on, and the true loss on every choice of windows.

    Nothing for natural texts, random windows, tokens that are not characters, and documents, whose ends the choice of
    windows foretells and the source does not. Raises StoreError.
    """
    known = read_true_losses(paths)
    found = {sha256: each for sha256, each in known.items() if bool(sha256) == bool(study.varied_texts)}
    for dataset, text in study.datasets.items():
        if is_synthetic(corpus := text.stated[-1]):
            sha256 = tokens[dataset].sha256 if study.varied_texts else ""
            own = [config for config in configs if dataset_of(config) == dataset]
            found[sha256] = record = _with_windows(found.get(sha256), corpus, own, tokens[dataset])
            if sha256:
                record["corpus_sha256"] = sha256
    if found and found != known:
        _write(paths, found)


def _with_windows(
    known: OneSourceRecord | None, corpus: str, configs: Sequence[RunConfig], tokens: Tokens
) -> OneSourceRecord:
    """What is known of a source, with its loss on the windows of these runs."""
    losses = dict(known["true_val_loss"]) if known and tokens.documents is None else {}
    there = symbols_of(tokens.tokenizer) is not None and tokens.documents is None
    scored = {windows_scored(config): config for config in configs if there and config.eval != "sampled"}
    if known and losses.keys() >= scored.keys() and losses == known["true_val_loss"]:
        return known
    source = source_named(corpus)
    for layout in scored.keys() - losses.keys():
        losses[layout] = true_val_loss(source, tokens, scored[layout])
    rate = source.entropy_rate()
    ends: OneSourceRecord = {
        "entropy_rate": rate.value, "low": rate.low, "high": rate.high, "method": rate.method, "true_val_loss": losses
    }  # fmt: skip
    return ends


def join_true_losses(parts: Sequence[StudyPaths], joined: StudyPaths) -> None:
    """Record all that the studies know whose runs are joined. Raises StoreError."""
    found: dict[str, OneSourceRecord] = {}
    for sha256, record in (entry for paths in parts for entry in read_true_losses(paths).items()):
        known = found.setdefault(sha256, record)
        found[sha256] = {**known, "true_val_loss": {**known["true_val_loss"], **record["true_val_loss"]}}
    if found:
        _write(joined, found)


def _write(paths: StudyPaths, records: Mapping[str, OneSourceRecord]) -> None:
    first, *others = records.values()
    write_record(paths.true_losses, {**first, **({"others": others} if others else {})})


def symbols_of(tokenizer: Tokenizer) -> NDArray[np.int64] | None:
    """The symbol of a source that each token is, −1 of a character that is none, [V]; None where some are longer."""
    spelled = [tokenizer.decode(np.array([token])) for token in range(tokenizer.vocab_size)]
    return None if any(len(text) != 1 for text in spelled) else np.array([CHARACTERS.find(text) for text in spelled])


def true_val_loss(source: Source, tokens: Tokens, config: RunConfig) -> float:
    """Mean loss in nats of the source on what counts in a run's windows of the validation split, each symbol given its
    window alone.

    Raises ValueError where tokens are not its symbols.
    """
    symbol_V = symbols_of(tokens.tokenizer)
    if symbol_V is None:
        raise ValueError(f"tokens of {tokens.tokenizer.name} are no symbols")
    scored_starts_B = exact_eval_starts(tokens.layouts[1], config.eval_scored, config.eval_val_tokens or None)
    starts_B = sliding_starts(scored_starts_B, config.eval_scored, config.block_size, tokens.layouts[1])
    scored_BxS = (scored_starts_B - starts_B)[:, None] + np.arange(config.eval_scored)

    def sums() -> Iterator[float]:
        chunk = max(1, CHUNK_TOKENS // config.block_size)
        for first in range(0, len(starts_B), chunk):
            part = slice(first, first + chunk)
            places_BxT1 = starts_B[part, None] + np.arange(config.block_size + 1)
            blocks_BxT1 = tokens.val_N[np.minimum(places_BxT1, len(tokens.val_N) - 1)]  # beyond it nothing counts
            with np.errstate(divide="ignore", invalid="ignore"):  # what does not count may be impossible
                losses_BxT = source.losses(symbol_V[blocks_BxT1])
            yield float(np.take_along_axis(losses_BxT, scored_BxS[part], axis=1).sum())

    return sum(sums()) / scored_BxS.size
