"""The gap between validation and training loss at the end of runs."""

from __future__ import annotations

import polars as pl

from isoloss.analysis.columns import Rows, usable_rows
from isoloss.analysis.estimate import Estimate, mean_over_runs
from isoloss.diagnostic import Diagnostic
from isoloss.errors import ConfigError


def gaps_at_end(
    rows: Rows, run: str, step: str, loss: str, train_loss: str | None
) -> tuple[dict[str, float], Estimate | None, tuple[Diagnostic, ...]]:
    """Final val − final train loss of each run that has both at its last evaluation, and the mean (t interval)."""
    if train_loss is None:
        return {}, None, ()
    last = rows.table.filter(pl.col(step) == pl.col(step).max().over(run))
    try:
        complete = usable_rows(last, numeric=[loss, train_loss], other=[run])
    except ConfigError as error:
        if train_loss not in last.columns:
            raise
        # Logged at other steps, say: the rest of the analysis does not need it.
        return {}, None, (Diagnostic("no_gap", "note", f"No gap between validation and training loss: {error}."),)
    gap_u = complete.floats(loss) - complete.floats(train_loss)
    estimate = mean_over_runs(gap_u, "final val − final train loss")
    names = map(str, complete.table[run].to_list())
    return dict(zip(names, gap_u.tolist(), strict=True)), estimate, complete.cautions
