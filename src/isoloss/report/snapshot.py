"""A study as it stood at one moment, read once, so that every part of the report agrees."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

import polars as pl

from isoloss.report.wording import run_label
from isoloss.spec.config import RunConfig
from isoloss.spec.identity import run_id
from isoloss.spec.study import Study
from isoloss.store.run import RunStatus
from isoloss.store.tables import StudyResults

ARCHITECTURE = ("n_layer", "n_head", "n_embd", "block_size", "bias")
"""Settings in which two runs must differ to count as different architectures."""

SIZE = ("n_layer", "n_embd", "block_size", "bias")
"""Settings the parameter count depends on."""

DAMAGED_ROWS = "its files of rows do not hold what a run writes"


@dataclass(frozen=True)
class Snapshot:
    """What the report is written from.

    `table` is the study's summary, one row a run, with each run's `label` and the `reason` of its status. `ranked`
    holds the runs that results are drawn from, best first: those that are done, or while none is, those evaluated.
    """

    results: StudyResults
    table: pl.DataFrame
    ranked: pl.DataFrame
    configs: Mapping[str, RunConfig]
    statuses: Mapping[str, RunStatus]
    provenance: Mapping[str, Any]
    tokenizer: Mapping[str, Any]

    @property
    def study(self) -> Study:
        """The study as it runs."""
        return self.results.study

    @property
    def factors(self) -> list[str]:
        """Factors with more than one level: the only ones that can tell runs apart."""
        return [factor for factor, levels in self.study.factors.items() if len(levels) > 1]

    @property
    def done(self) -> pl.DataFrame:
        """The rows of the runs that are done, in the study's order."""
        return self.table.filter(pl.col("status") == "done")

    @property
    def counts(self) -> Counter[str]:
        """Runs in each state."""
        return Counter(self.table["status"].to_list())

    @property
    def provisional(self) -> bool:
        """Whether the ranking rests on runs that are not done, because none is."""
        return not self.ranked.is_empty() and self.ranked["status"][0] != "done"

    @property
    def best(self) -> dict[str, Any] | None:
        """The run with the lowest validation loss, if any was evaluated."""
        return self.ranked.row(0, named=True) if len(self.ranked) else None

    @property
    def runner_up(self) -> dict[str, Any] | None:
        """The best run of another architecture than the best run's; of the same one when all runs share it."""
        rows = self.ranked.to_dicts()
        others = [row for row in rows[1:] if self.architecture(row) != self.architecture(rows[0])]
        return (others or rows[1:] or [None])[0]

    def architecture(self, row: Mapping[str, Any]) -> dict[str, Any]:
        """A run's settings of architecture."""
        return {name: getattr(self.configs[row["run_id"]], name) for name in ARCHITECTURE}


def take_snapshot(results: StudyResults) -> Snapshot:
    """Read a study. Raises StoreError when a file of it is missing or damaged."""
    configs = {run_id(config): config for config in results.configs}
    statuses = {run: results.status(run) for run in configs}
    factors = [factor for factor, levels in results.study.factors.items() if len(levels) > 1]
    summary = results.summary()
    for run in summary.filter(pl.col("status") == "damaged")["run_id"]:
        statuses[run] = replace(statuses[run], state="damaged", reason=statuses[run].reason or DAMAGED_ROWS)
    with_seed = len(results.study.seeds) > 1
    table = summary.with_columns(
        pl.Series("label", [run_label(row, factors, with_seed=with_seed) for row in summary.to_dicts()]),
        pl.Series("reason", [statuses[run].reason for run in summary["run_id"]], dtype=pl.String()),
        # A run nobody evaluated yet leaves columns of nulls without a type, which cannot be sorted or averaged.
        *(pl.col(name).cast(pl.Float64()) for name in summary.columns if summary.schema[name] == pl.Null()),
    )
    evaluated = table.drop_nulls("best_val_loss").sort("best_val_loss", "run_id")
    done = evaluated.filter(pl.col("status") == "done")
    return Snapshot(
        results=results,
        table=table,
        ranked=evaluated if done.is_empty() else done,
        configs=configs,
        statuses=statuses,
        provenance=results.provenance(),
        tokenizer=results.tokenizer(),
    )
