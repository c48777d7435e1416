"""A study as it stood at one moment, read once, so that every part of the report agrees."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any

import numpy as np
import polars as pl
from scipy import special

from isoloss.analysis.estimate import LEVEL
from isoloss.report.colours import factor_colours
from isoloss.store.curve_tables import ThinnedCurves
from isoloss.store.run import RunStatus
from isoloss.store.tables import StudyResults
from isoloss.study.config import RunConfig
from isoloss.study.datasets import COMPARED_IN, compared_loss
from isoloss.study.study import Study
from isoloss.wording import level

DAMAGED_ROWS = "its files of rows do not hold what a run writes"


@dataclass(frozen=True)
class Snapshot:
    """What the report is written from.

    `table` is the study's summary, one row a run, with the `key` of its configuration, its `label` (configuration and
    seed) and the `reason` of its status. `configurations` has one row a combination of
    factor levels, in the study's order: its `key` (c1, c2, …), `label`, factor levels, number of `runs` and of those
    `done`, the `mean` best validation loss of the latter with the ends `low` and `high` of its 95% t interval over
    seeds, their `sd`, and the means of other columns. Losses are in `loss_unit`.
    """

    results: StudyResults
    table: pl.DataFrame
    configurations: pl.DataFrame
    configs: Mapping[str, RunConfig]
    statuses: Mapping[str, RunStatus]
    provenance: Mapping[str, Any]
    tokenizer: Mapping[str, Any]

    @property
    def study(self) -> Study:
        """The study as it runs."""
        return self.results.study

    @property
    def compared_loss(self) -> str:
        """The loss by which its runs compare: 'val_loss', of several tokenizers or validation texts 'val_bpb'."""
        return compared_loss(self.study.datasets)

    @property
    def loss_unit(self) -> str:
        """Its unit: 'nats per token' or 'bits per byte'."""
        return COMPARED_IN[self.compared_loss]

    @property
    def factors(self) -> list[str]:
        """Factors with more than one level: the only ones that can tell runs apart."""
        return [factor for factor, levels in self.study.varied.items() if len(levels) > 1]

    @property
    def colours(self) -> dict[str, dict[str, str]]:
        """The colour of each level of each factor, by the level's word, the same in every chart."""
        return factor_colours({factor: self.study.varied[factor] for factor in self.factors})

    @property
    def summary(self) -> pl.DataFrame:
        """The study's summary alone."""
        return self.table.drop("key", "configuration", "label", "reason")

    @cached_property
    def curves(self) -> ThinnedCurves:
        """The curves of all runs, for charts."""
        return self.results.thinned_curves(self.statuses)

    @property
    def done(self) -> pl.DataFrame:
        """The rows of the runs that are done, in the study's order."""
        return self.table.filter(pl.col("status") == "done")

    @property
    def counts(self) -> Counter[str]:
        """Runs in each state."""
        return Counter(self.table["status"].to_list())

    @property
    def ranking(self) -> pl.DataFrame:
        """Configurations with a mean loss, the lowest first."""
        return self.configurations.drop_nulls("mean").sort("mean", "key")

    @property
    def keys(self) -> dict[str, str]:
        """The key of each run's configuration, by run id."""
        return dict(self.table.select("run_id", "key").iter_rows())

    @property
    def labels(self) -> dict[str, str]:
        """The label of each run, by run id."""
        return dict(self.table.select("run_id", "label").iter_rows())

    @property
    def size_column(self) -> str:
        """The parameter count that tells sizes apart.

        Without embeddings where a factor changes only the embeddings (block_size), with them elsewhere.
        """
        sizes = self.table.select("params_total", "params_non_embedding").unique()
        return "params_total" if sizes["params_non_embedding"].is_unique().all() else "params_non_embedding"


def take_snapshot(results: StudyResults) -> Snapshot:
    """Read a study. Raises StoreError when a file of it is missing or damaged."""
    statuses = results.statuses()
    factors = [factor for factor, levels in results.study.varied.items() if len(levels) > 1]
    summary = results.summary(statuses)
    for run in summary.filter(pl.col("status") == "damaged")["run_id"]:
        statuses[run] = replace(statuses[run], state="damaged", reason=statuses[run].reason or DAMAGED_ROWS)
    table = _labelled(summary, factors, seeds=len(results.study.seeds), statuses=statuses)
    return Snapshot(
        results=results,
        table=table,
        configurations=_configurations(table, factors, f"best_{compared_loss(results.study.datasets)}"),
        configs=results.configs_by_id,
        statuses=statuses,
        provenance=results.provenance(),
        tokenizer=results.tokenizer(),
    )


def label_of(row: Mapping[str, Any], factors: Sequence[str]) -> str:
    """The factor levels of a row as words, like 'n_embd 128 · dropout 0.2'."""
    return " · ".join(f"{factor} {level(row[factor])}" for factor in factors)


def _labelled(
    summary: pl.DataFrame, factors: Sequence[str], seeds: int, statuses: Mapping[str, RunStatus]
) -> pl.DataFrame:
    """The summary with each run's configuration, label and reason. Seeds vary fastest in it."""
    rows = summary.to_dicts()
    cells = [label_of(row, factors) for row in rows]
    with_seed = [
        " · ".join([*([cell] if cell else []), *([f"seed {row['seed']}"] if seeds > 1 or not cell else [])])
        for cell, row in zip(cells, rows, strict=True)
    ]
    return summary.with_columns(
        pl.Series("key", [f"c{1 + i // seeds}" for i in range(len(rows))]),
        pl.Series("configuration", [cell or "all runs" for cell in cells]),
        pl.Series("label", with_seed),
        pl.Series("reason", [statuses[run].reason for run in summary["run_id"]], dtype=pl.String()),
    )


def _configurations(table: pl.DataFrame, factors: Sequence[str], response: str) -> pl.DataFrame:
    """A row for each combination of factor levels; means are over the runs that are done and have the value."""
    done = pl.col("status") == "done"
    loss = pl.col(response).filter(done)
    means = ("final_train_loss", "train_val_gap", "tokens_per_s", "mfu", "median_step_time_s", "wall_time_s")
    grouped = table.group_by("key", maintain_order=True).agg(
        pl.col("configuration").first().alias("label"),
        *(pl.col(factor).first() for factor in factors),
        pl.len().alias("runs"),
        done.sum().alias("done"),
        loss.count().alias("n"),
        loss.mean().alias("mean"),
        loss.std().alias("sd"),
        loss.min().alias("lowest"),
        *(pl.col(name).first() for name in ("params_total", "params_non_embedding", "train_tokens", "train_flops")),
        *(pl.col(name).filter(done).mean() for name in means),
    )
    n = grouped["n"].to_numpy().astype(np.float64)
    with np.errstate(invalid="ignore", divide="ignore"):
        half = special.stdtrit(np.maximum(n - 1, 1), (1 + LEVEL) / 2) * grouped["sd"].cast(pl.Float64()).to_numpy()
        reach = pl.Series("reach", half / np.sqrt(n), nan_to_null=True)
    return grouped.with_columns(low=pl.col("mean") - reach, high=pl.col("mean") + reach)
