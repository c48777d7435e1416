"""A claim, its evidence, and the family of hypotheses that share an error rate."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any, Literal

import polars as pl

from isoloss.analysis.estimate import LEVEL, Estimate
from isoloss.design.power import STATED_SHARE
from isoloss.diagnostic import Diagnostic
from isoloss.errors import ConfigError

if TYPE_CHECKING:
    from isoloss.analysis.convergence import Convergence
    from isoloss.analysis.curves import Spikes
    from isoloss.analysis.effects import Effect
    from isoloss.study.hypotheses import Hypothesis

Verdict = Literal["supported", "contradicted", "not resolved", "not applicable", "exploratory", "not judged yet"]
ALPHA = 1 - LEVEL
OF_RUNS = ("cells_lost", "outlying_runs")
"""Cautions about runs that every claim of the factors they were trained at repeats."""


@dataclass(frozen=True)
class Claim:
    """A statement, its verdict, and the one sentence that says why."""

    says: str
    stated: bool
    """Before the study ran; else exploratory."""
    verdict: Verdict
    screening: bool
    """Whether it rests on runs without replicates, so that other effects stand in for noise."""
    sentence: str
    estimate: Estimate | None
    p: float | None
    p_adjusted: float | None
    run_ids: tuple[str, ...]
    """The runs behind it."""
    cautions: tuple[Diagnostic, ...] = ()
    """What the reader of the verdict has to know besides."""
    probability: Estimate | None = None
    """Of two levels: that a run at the second has a lower response than one at the first that shares all else."""
    after_training: bool = False
    """Stated when losses could already be seen."""


@dataclass(frozen=True)
class AdjustedP:
    """A term's p, adjusted for the tests it shares the 5% with: those of stated effects, or of all others."""

    p: float
    stated: bool


@dataclass(frozen=True)
class Evidence:
    """What claims are judged by: a row for each run that is done, and their curves.

    `table` has the columns run_id, seed, device, program, shuffled, every factor and the responses; `factors` has those
    with two levels or more.
    """

    table: pl.DataFrame
    factors: Mapping[str, Sequence[Any]]
    convergence: Callable[[float], Convergence]
    """All runs' convergence at a tolerance in nats per doubling of steps."""
    spikes: Callable[[float], Spikes]
    """All runs' steps that take longer than so many times their run's median."""
    lost: pl.DataFrame = field(default_factory=pl.DataFrame)
    """run_id, seed and factors of the runs that failed or diverged."""
    tuned: tuple[str, ...] = ()
    """Factors at the best values of which levels of the others are compared (`tuned.at_best_values`)."""
    at_best: tuple[str, ...] = ()
    """Settings of which these are the runs at the best value in each cell."""
    cautions: tuple[Diagnostic, ...] = ()
    """What every claim that rests on it repeats."""

    @property
    def ended(self) -> pl.DataFrame:
        """The table, and below it the runs that ended without a result, whose responses are null."""
        return pl.concat([self.table, self.lost], how="diagonal")

    def where(self, levels: Sequence[tuple[str, Any]]) -> Evidence:
        """That of the runs at these levels of some factors, which are constant then.

        Raises ConfigError for a setting that the table does not have, and where no run is left.
        """
        for name, _ in levels:
            if name not in self.table.columns:
                raise ConfigError(f"the study does not say what {name} is, of which it speaks", (name,))
        if not levels:
            return self
        at = pl.all_horizontal(pl.col(name).eq_missing(pl.lit(level)) for name, level in levels)
        table = self.table.filter(at)
        if table.is_empty():
            raise ConfigError("no run is done of those it speaks of", tuple(name for name, _ in levels))
        kept = {name: known for name, known in self.factors.items() if name not in dict(levels)}
        known = all(name in self.lost.columns for name, _ in levels)
        return replace(self, table=table, factors=kept, lost=self.lost.filter(at) if known else self.lost)

    @property
    def run_ids(self) -> tuple[str, ...]:
        """All runs, in the table's order."""
        return tuple(self.table["run_id"].to_list())

    @property
    def block(self) -> str | None:
        """The seed as a block, where there is more than one."""
        return "seed" if self.table["seed"].n_unique() > 1 else None


@dataclass(frozen=True)
class Family:
    """The stated hypotheses that share an error rate, and what effects that nobody stated have of the 5%."""

    stated: int
    unstated_share: float

    @property
    def level(self) -> float:
        """Of the interval that a hypothesis is held against."""
        return 1 - ALPHA * STATED_SHARE / self.stated


def unresolved(stated: Hypothesis, sentence: str, run_ids: tuple[str, ...], estimate: Estimate | None = None) -> Claim:
    """A claim that the runs do not decide."""
    return Claim(stated.says, True, "not resolved", False, sentence, estimate, None, None, run_ids)


def unstated_p(effect: Effect, share: float) -> float | None:
    """The adjusted p of an effect that nobody stated, whose kind has this share of the 5%."""
    return None if effect.p_holm is None else min(1.0, effect.p_holm / share)
