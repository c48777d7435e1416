"""The plain tables behind the figures: which runs, which columns, how many points."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import polars as pl

from isoloss.analysis.levels import LevelMean, largest_difference, level_means
from isoloss.report.snapshot import Snapshot
from isoloss.report.wording import count, level

MAX_POINTS = 1000
"""Points a curve keeps at most, so that the page stays quick."""

FIGURE_COLUMNS = (
    "status", "best_val_loss", "best_step", "params_total", "params_non_embedding", "mfu_percent", "tokens_per_s"
)  # fmt: skip

MAX_ROWS, BEST_ROWS = 60, 40
"""A by-run figure shows every run up to MAX_ROWS; beyond that the BEST_ROWS first and the last of the rest."""


def evaluated_runs(snapshot: Snapshot) -> pl.DataFrame:
    """Every run with a validation loss, best first, whatever its state."""
    return figure_rows(snapshot, snapshot.table.drop_nulls("best_val_loss").sort("best_val_loss", "run_id"))


def timed_runs(snapshot: Snapshot) -> pl.DataFrame:
    """Every run with measured steps, in the study's order."""
    return figure_rows(snapshot, snapshot.table.drop_nulls(["mfu", "tokens_per_s"]))


def figure_rows(snapshot: Snapshot, table: pl.DataFrame) -> pl.DataFrame:
    """The columns figures use and no others, which keeps the page small; levels as words, shares in percent."""
    words = [pl.Series(factor, [level(value) for value in table[factor]], pl.String()) for factor in snapshot.factors]
    rows = table.with_columns(*words, mfu_percent=100 * pl.col("mfu"))
    return rows.select("run_id", "label", "seed", *snapshot.factors, *FIGURE_COLUMNS)


def shown_rows(table: pl.DataFrame) -> tuple[pl.DataFrame, int]:
    """The rows a by-run figure has room for, and how many it leaves out of the middle.

    Where some are left out, a row without values says so in their place.
    """
    hidden = len(table) - MAX_ROWS
    if hidden <= 0:
        return table, 0
    note = pl.DataFrame({"label": [f"··· {count(hidden)} more ···"]})
    shown = [table.head(BEST_ROWS), note, table.tail(MAX_ROWS - BEST_ROWS)]
    return pl.concat(shown, how="diagonal"), hidden


def telling_factors(snapshot: Snapshot, response: str, excluded: Sequence[str]) -> list[str]:
    """Informative factors by the largest difference between their level means, largest first."""
    factors = [factor for factor in snapshot.factors if factor not in excluded]
    differences = {f: largest_difference(level_means(snapshot.ranked, f, response)) or 0.0 for f in factors}
    return sorted(factors, key=lambda factor: -differences[factor])


def loss_curves(snapshot: Snapshot, runs: Sequence[dict[str, Any]]) -> pl.DataFrame:
    """Evaluations of some runs: run_id, label, split, step, loss."""
    frames = [
        snapshot.results.evals(run["run_id"])
        .rename({"train_loss": "training", "val_loss": "validation"})
        .unpivot(["validation", "training"], index="step", variable_name="split", value_name="loss")
        .drop_nulls("loss")
        .with_columns(run_id=pl.lit(run["run_id"]), label=pl.lit(run["label"]))
        for run in runs
    ]
    curves = [part for frame in frames for part in frame.partition_by("split", maintain_order=True)]
    return pl.concat([thinned(curve, "loss") for curve in curves])


def step_times(snapshot: Snapshot, run: dict[str, Any]) -> pl.DataFrame:
    """Step times of one run in milliseconds, thinned with spikes kept: step, step_time_ms."""
    frame = snapshot.results.metrics(run["run_id"]).drop_nulls("step_time_s")
    return thinned(frame.select("step", step_time_ms=1000 * pl.col("step_time_s")), "step_time_ms")


def wall_times(table: pl.DataFrame) -> pl.DataFrame:
    """Where each run's wall time went: run_id, label, part, seconds, order."""
    parts = {"train_time_s": "training", "eval_time_s": "evaluation", "checkpoint_time_s": "checkpoints"}
    long = table.select("run_id", "label", *parts).unpivot(
        list(parts), index=["run_id", "label"], variable_name="part", value_name="seconds"
    )
    order = pl.col("part").replace_strict({part: i for i, part in enumerate(parts)}, return_dtype=pl.Int64())
    return long.with_columns(order=order, part=pl.col("part").replace_strict(parts))


def effect_levels(means: Sequence[LevelMean]) -> pl.DataFrame:
    """Level means as a table: level, n, mean, sd, minimum, maximum; levels without runs keep their place."""
    rows = [
        {
            "level": level(m.level),
            "n": m.n,
            "n_label": f"n={m.n}",
            "mean": m.mean,
            "sd": m.sd,
            "minimum": m.minimum,
            "maximum": m.maximum,
        }
        for m in means
    ]
    return pl.DataFrame(rows)


def thinned(curve: pl.DataFrame, column: str, points: int = MAX_POINTS) -> pl.DataFrame:
    """At most `points` rows of a curve: the lowest and the highest of each of points / 2 equal stretches, in order."""
    if len(curve) <= points:
        return curve
    numbered = curve.with_row_index("row").with_columns(bin=pl.col("row") * (points // 2) // len(curve))
    rows = pl.col("row").get(pl.col(column).arg_min()), pl.col("row").get(pl.col(column).arg_max())
    extremes = numbered.group_by("bin").agg(low=rows[0], high=rows[1])
    kept = pl.concat([extremes["low"], extremes["high"]]).unique()
    return numbered.filter(pl.col("row").is_in(kept.implode())).drop("row", "bin")
