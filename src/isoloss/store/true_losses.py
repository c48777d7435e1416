"""What the source of a synthetic text loses itself, on the windows that runs are validated on: no model loses less."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence

import numpy as np
from numpy.typing import NDArray

from isoloss.data.batches import exact_eval_starts, sliding_starts, windows
from isoloss.data.sources import Source
from isoloss.data.synthetic import CHARACTERS, source_named
from isoloss.data.tokenizer import Tokenizer
from isoloss.data.tokens import Tokens
from isoloss.errors import StoreError, UnreadableError
from isoloss.files import path_exists, write_record
from isoloss.store.layout import StudyPaths
from isoloss.store.records import TRUE_LOSSES, TrueLossesRecord, read_checked
from isoloss.study.config import RunConfig
from isoloss.study.synthetic import is_synthetic
from isoloss.study.texts import Text

CHUNK_TOKENS = 1 << 18


def windows_scored(config: RunConfig) -> str:
    """The settings on which it depends what the validation loss of a run is computed on."""
    of_tokens = "" if config.tokenizer == "char" else f", tokenizer {config.tokenizer}"
    sliding = f", eval_stride {config.eval_stride}" if config.eval_scored < config.block_size else ""
    return f"block_size {config.block_size}, eval_val_tokens {config.eval_val_tokens}{sliding}{of_tokens}"


def read_true_losses(paths: StudyPaths) -> TrueLossesRecord | None:
    """What was recorded; None for natural texts, and where it is damaged: the next start computes it again.

    Raises UnreadableError.
    """
    try:
        return read_checked(TRUE_LOSSES, paths.true_losses) if path_exists(paths.true_losses) else None
    except UnreadableError:
        raise
    except StoreError:
        return None


def keep_true_losses(paths: StudyPaths, text: Text, configs: Sequence[RunConfig], tokens: Mapping[str, Tokens]) -> None:
    """Record the entropy rate of the text that is validated on, and the true loss on every choice of windows.

    Nothing for natural texts, random windows, and tokens that are not characters. Raises StoreError.
    """
    corpus = text.corpora[-1]
    if not is_synthetic(corpus):
        return
    known = read_true_losses(paths)
    losses = dict(known["true_val_loss"]) if known else {}
    of_symbols = {name for name, each in tokens.items() if symbols_of(each.tokenizer) is not None}
    scored = {windows_scored(each): each for each in configs if each.eval != "sampled" and each.tokenizer in of_symbols}
    if known and losses.keys() >= scored.keys():
        return
    source = source_named(corpus)
    for layout in scored.keys() - losses.keys():
        losses[layout] = true_val_loss(source, tokens[scored[layout].tokenizer], scored[layout])
    rate = source.entropy_rate()
    ends = {"entropy_rate": rate.value, "low": rate.low, "high": rate.high, "method": rate.method}
    write_record(paths.true_losses, {**ends, "true_val_loss": losses})


def join_true_losses(parts: Sequence[StudyPaths], joined: StudyPaths) -> None:
    """Record all that studies of one text know. Raises StoreError."""
    known = [record for paths in parts if (record := read_true_losses(paths))]
    if known:
        losses = {layout: loss for record in known for layout, loss in record["true_val_loss"].items()}
        write_record(joined.true_losses, {**known[0], "true_val_loss": losses})


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
    scored_starts_B = exact_eval_starts(tokens.ends[1], config.eval_scored, config.eval_val_tokens or None)
    starts_B = sliding_starts(scored_starts_B, config.eval_scored, config.block_size)
    scored_BxS = (scored_starts_B - starts_B)[:, None] + np.arange(config.eval_scored)

    def sums() -> Iterator[float]:
        chunk = max(1, CHUNK_TOKENS // config.block_size)
        for first in range(0, len(starts_B), chunk):
            part = slice(first, first + chunk)
            blocks_BxT1 = windows(tokens.val_N, starts_B[part], config.block_size)
            losses_BxT = source.losses(symbol_V[blocks_BxT1])
            yield float(np.take_along_axis(losses_BxT, scored_BxS[part], axis=1).sum())

    return sum(sums()) / scored_BxS.size
