"""What the columns of anyone's table are, as far as names and values tell: runs, steps, settings, measurements."""

from __future__ import annotations

import difflib
import re
from collections.abc import Iterable, Sequence

import polars as pl

from isoloss.errors import ConfigError
from isoloss.study.config import SETTINGS
from isoloss.study.synonyms import explained, meant

RUN_NAMES = {"run", "runid", "runname", "uuid", "wandbid", "trialid", "jobid", "experimentid"}
MAYBE_RUN_NAMES = {"", "id", "name", "key", "index"}
STEP_NAMES = {
    "step", "globalstep", "trainstep", "evalstep", "iter", "iteration", "epoch", "checkpoint", "ckpt", "update",
    "tokensseen", "samplesseen", "consumedtokens", "consumedsamples",
}  # fmt: skip
SEED_NAMES = {"seed", "rep", "replicate", "replica", "repeat", "repetition", "trial", "fold"}
_MEASURED = re.compile(
    r"loss|acc(uracy)?(\b|_)|ppl|perplexity|bpb|bits|score|error|metric|nll|entropy|time|seconds?(\b|_)|_s$|runtime"
    r"|duration|created|hours|per_s|throughput|mfu|flops|tok_s|grad|norm$|memory|mem_|_mb$|_gb$|gap|roughness|best_"
    r"|final_|min_val|max_val|rank|status|state$|device|host|commit|path|note|comment|label|tags?$|url"
)
"""In a name in small letters: what was measured of a run, or was recorded about it."""
_SET = re.compile(r"coef|weight|type|scale|function|schedule")
"""In a name in small letters: a setting, though the name holds what is measured (z_loss_coef)."""


def plain_name(column: str) -> str:
    """A column's name in small letters without what stands before the last slash or point, and without joints."""
    return re.sub(r"[-_ ]", "", re.split(r"[/.]", column.lower())[-1])


def names_runs(column: str, *, surely: bool = False) -> bool:
    """Whether a column is called as those are that name runs; `surely` leaves out those that may name other things."""
    return plain_name(column) in RUN_NAMES or (not surely and plain_name(column) in MAYBE_RUN_NAMES)


def counts_steps(column: str) -> bool:
    """Whether a column is called as those are that say how far a run had come."""
    return plain_name(column) in STEP_NAMES


def names_seeds(column: str) -> bool:
    """Whether a column is called as those are that count runs of equal settings."""
    name = plain_name(column)
    return name in SEED_NAMES or name.endswith("seed")


def is_quantity(column: pl.Series) -> bool:
    """Whether a column holds numbers whose order means something; those of seeds are labels."""
    return column.dtype.is_numeric() and not names_seeds(column.name)


def are_quantities(factor: str, levels: Iterable[object]) -> bool:
    """The same of a factor's levels."""
    numbers = all(isinstance(level, int | float) and not isinstance(level, bool) for level in levels)
    return numbers and not names_seeds(factor)


def is_setting(column: str) -> bool:
    """Whether a column is called as a setting of training."""
    last = re.split(r"[/.]", column)[-1]
    return column in SETTINGS or (not counts_steps(column) and meant(last, SETTINGS) is not None)


def is_measured(column: str) -> bool:
    """Whether a column is called as what is measured of runs, or recorded about them."""
    name = column.lower()
    return not is_setting(column) and _MEASURED.search(name) is not None and _SET.search(name) is None


def few_levels(column: pl.Series) -> bool:
    """Whether a column's values repeat as those of a setting do: each three times on average, and fifty at most."""
    return column.n_unique() <= min(50, max(2, len(column) // 3))


def check_columns(wanted: Iterable[str], known: Sequence[str]) -> None:
    """Raises ConfigError for the first column that a table lacks: with the name it has there, or the nearest three."""
    for column in wanted:
        if column not in known:
            raise ConfigError(f"the table has no column '{column}': {_instead(column, known)}", (column,))


def _instead(column: str, known: Sequence[str]) -> str:
    synonym = meant(column, known)
    if synonym is not None:
        return f"use {synonym}"
    sentence = explained(column)
    if sentence and {"max_iters", "factors"} & {*known}:  # a study's summary
        return sentence
    named = [name for name in known if name]
    nearest = sorted(named, key=lambda name: -_likeness(column, name))[:3]
    if len(named) <= 3:
        only = ", ".join(f"'{name}'" for name in named)
        if named and _likeness(column, nearest[0]) > 0.6:
            return f"did you mean '{nearest[0]}'? It has {only}"
        return f"it has {only}" if named else "it has none"
    text = ", ".join(f"'{name}'" for name in nearest[:-1])
    return f"did you mean {text} or '{nearest[-1]}'? (the nearest of {len(named)} columns)"


def _likeness(a: str, b: str) -> float:
    """0 to 1: of spelling; names of which one holds the other are near."""
    a, b = a.lower(), b.lower()
    ratio = difflib.SequenceMatcher(None, a, b).ratio()
    return max(ratio, 0.75) if len(min(a, b, key=len)) > 1 and (a in b or b in a) else ratio
