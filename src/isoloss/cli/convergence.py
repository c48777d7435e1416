"""What the verb convergence knows of a study besides its curves: replicates, labels and learning rates."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import polars as pl

from isoloss.cli.study_tables import read_snapshot
from isoloss.errors import ConfigError
from isoloss.report.evidence import rates_falling
from isoloss.study.synonyms import did_you_mean

CONFIGURATION = "configuration"


@dataclass(frozen=True)
class StudyCurves:
    """The runs of a study with their labels, the column that tells replicates, and whose rate still fell at its end."""

    runs: pl.DataFrame
    group: str | None
    rate_falling: dict[str, bool]

    def with_group(self, curves: pl.DataFrame) -> pl.DataFrame:
        """The evaluations with the column of their run's group."""
        if self.group is None or self.group in curves.columns:
            return curves
        return curves.join(self.runs.select(self.group, run=pl.col("run_id")), on="run", how="left")


def of_study(path: Path, group: str | None, lr: str | None, target: float | None) -> StudyCurves:
    """Replicates are the runs of a configuration, unless a setting is named. Raises ConfigError for an unknown one."""
    if lr is not None:
        raise ConfigError(f"--lr {lr}: the learning rates of a study are known from its settings; leave it out")
    snapshot = read_snapshot(path)
    if group is not None and group not in snapshot.table.columns:
        raise ConfigError(
            f"the study has no setting '{group}': {did_you_mean(group, snapshot.table.columns)}", (group,)
        )
    chosen = group or (CONFIGURATION if target is not None else None)
    return StudyCurves(snapshot.table, chosen, rates_falling(snapshot.configs))
