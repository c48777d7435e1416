"""Loss by position in the context: what targets lose by how many tokens of their window stand before them."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import polars as pl

from isoloss.analysis.estimate import Estimate, mean_over_runs
from isoloss.study.config import SEED_SETTINGS
from isoloss.wording import level

CONTEXT, RESPONSE = "block_size", "final_val_loss"
"""The setting that is the length of the context; the loss of the weights that positions are measured with."""
MAX_LEVELS = 8
"""A factor of more levels has no line for each."""


@dataclass(frozen=True)
class PositionBin:
    """Targets that `first` to `last` tokens of their window stand before, and their mean loss in nats a token."""

    first: int
    last: int
    loss: Estimate


@dataclass(frozen=True)
class PositionLine:
    """The losses of one configuration, and its level of the factor that the lines differ in: empty without one."""

    configuration: str
    level: str
    bins: tuple[PositionBin, ...]


@dataclass(frozen=True)
class PositionDifference:
    """The loss at `later` positions minus that at `earlier` ones, in the same runs of one configuration."""

    configuration: str
    earlier: PositionBin
    later: PositionBin
    difference: Estimate


@dataclass(frozen=True)
class PositionLosses:
    """A line for the best configuration at each level of a factor, or for the best of all where `factor` is None.

    `difference` is of the longest context: its last bin against the one that the shortest block ends with, or where all
    are equally long against the one before it.
    """

    factor: str | None
    lines: tuple[PositionLine, ...]
    difference: PositionDifference | None


def position_losses(positions: pl.DataFrame, runs: pl.DataFrame, factors: Sequence[str]) -> PositionLosses | None:
    """What the runs lose at each position; None where no run has told.

    `positions` has run_id, first, last, loss; `runs` has run_id, configuration, final_val_loss and `factors`. Lines are
    of block_size where that varies, else of the first factor with few levels.
    """
    positions = positions.drop_nulls("loss")
    known = runs.join(positions, on="run_id", how="semi").drop_nulls(RESPONSE)
    if known.is_empty():
        return None
    varied = [name for name in factors if name not in SEED_SETTINGS and 1 < known[name].n_unique() <= MAX_LEVELS]
    factor = CONTEXT if CONTEXT in varied else next(iter(varied), None)
    rows = positions.join(known, on="run_id")
    best = [_best(of_level) for of_level in (known.sort(factor).partition_by(factor) if factor else [known])]
    lines = tuple(
        PositionLine(name, level(value[factor]) if factor else "", tuple(_bins(rows.filter(configuration=name))))
        for name, value in best
    )
    longest = max(lines, key=lambda line: line.bins[-1].last)
    shortest = min(line.bins[-1].last for line in lines)
    return PositionLosses(
        factor, lines, _difference(longest, shortest, rows.filter(configuration=longest.configuration))
    )


def _best(runs: pl.DataFrame) -> tuple[str, dict[str, object]]:
    """The configuration of the lowest mean loss, and a row of it."""
    means = runs.group_by("configuration", maintain_order=True).agg(pl.col(RESPONSE).mean()).sort(RESPONSE)
    name = means["configuration"][0]
    return name, runs.filter(configuration=name).row(0, named=True)


def _bins(rows: pl.DataFrame) -> Iterator[PositionBin]:
    for (first, last), of_bin in rows.sort("first").group_by("first", "last", maintain_order=True):
        yield PositionBin(int(str(first)), int(str(last)), mean_over_runs(of_bin["loss"].to_numpy()))


def _difference(line: PositionLine, shortest: int, rows: pl.DataFrame) -> PositionDifference | None:
    *before, later = line.bins
    earlier = [each for each in before if each.last == shortest] if shortest < later.last else before[-1:]
    if not earlier:
        return None
    losses = [rows.filter(last=each.last).select("run_id", "loss") for each in (earlier[0], later)]
    both = losses[0].join(losses[1], on="run_id")
    difference = mean_over_runs((both["loss_right"] - both["loss"]).to_numpy())
    return PositionDifference(line.configuration, earlier[0], later, difference)
