"""Every run: the table of configurations, ranked by their mean over seeds, and the table of runs.

The page's scripts make both sortable and searchable, and draw every run's curves (templates/explore.js).
"""

from __future__ import annotations

import polars as pl

from isoloss.report.chapter import Chapter
from isoloss.report.snapshot import Snapshot
from isoloss.report.table import Column, Table
from isoloss.store.records import CONTINUES, CONTINUES_FROM
from isoloss.store.run import RunStatus
from isoloss.wording import counted, loss, number


def runs_chapter(snapshot: Snapshot) -> Chapter:
    """The chapter with the tables `configurations` and `runs`."""
    return Chapter(
        "every-run",
        "Every run",
        _answer(snapshot),
        tables=(configurations_table(snapshot), runs_table(snapshot)),
        details=(
            "A configuration is a combination of factor levels. Its mean is over the seeds of its runs that are done, "
            "with Student's t interval at 95%; the spread is the standard deviation over seeds.",
        ),
    )


def configurations_table(snapshot: Snapshot) -> Table:
    """One row a configuration, best mean first; those without a result come last, in the study's order."""
    ranked = pl.col("mean").is_not_null()
    frame = snapshot.configurations.sort("mean", nulls_last=True, maintain_order=True).with_columns(
        rank=pl.when(ranked).then(pl.int_range(1, pl.len() + 1))
    )
    measured = "loss" if snapshot.compared_loss == "val_loss" else "bits/byte"
    columns = (
        Column("rank", "rank", "count"),
        *(Column(factor, factor) for factor in snapshot.factors),
        Column("mean", f"mean best val {measured}", "loss", interval=("low", "high")),
        Column("n", "seeds", "count"),
        Column("sd", "sd over seeds", "loss"),
        Column(snapshot.size_column, _size_title(snapshot), "si"),
        Column("train_flops", "training FLOPs", "si"),
        Column("final_train_loss", "final train loss", "loss"),
        Column("train_val_gap", "train–val gap", "difference"),
        Column("tokens_per_s", "tokens/s", "si"),
    )
    title = (
        f"Configurations by mean best validation loss over seeds, with its 95% interval in brackets; "
        f"n = {counted(len(frame), 'configuration')}"
    )
    return Table("configurations", title, frame, columns)


def runs_table(snapshot: Snapshot) -> Table:
    """One row a run, best first; those without a result come last, in the study's order."""
    begins_as = [_begins_as(snapshot.statuses[run]) for run in snapshot.table["run_id"]]
    frame = snapshot.table.with_columns(pl.Series("begins_as", begins_as, pl.String()))
    frame = frame.sort(f"best_{snapshot.compared_loss}", nulls_last=True, maintain_order=True)
    columns = (
        Column("run_id", "run"),
        *(Column(factor, factor) for factor in snapshot.factors),
        Column("seed", "seed"),
        Column("status", "status"),
        Column("best_val_loss", "best val loss", "loss"),
        Column("best_step", "at step", "count"),
        *_of_averages(snapshot),
        *_to_target(snapshot),
        Column("final_val_loss", "final val loss", "loss"),
        Column("best_val_bpb", "best val bits/byte", "loss"),
        Column("final_train_loss", "final train loss", "loss"),
        Column("train_val_gap", "train–val gap", "difference"),
        Column(snapshot.size_column, _size_title(snapshot), "si"),
        Column("train_flops", "training FLOPs", "si"),
        Column("epochs", "epochs", "number"),
        Column("median_step_time_s", "step time", "milliseconds"),
        Column("tokens_per_s", "tokens/s", "si"),
        Column("mfu", "MFU", "percent"),
        Column("wall_time_s", "wall time", "duration"),
        *([Column("begins_as", "begins as")] if any(begins_as) else []),
        Column("reason", "reason", width=40),
    )
    return Table("runs", f"Runs by best validation loss; n = {counted(len(frame), 'run')}", frame, columns)


def _of_averages(snapshot: Snapshot) -> list[Column]:
    some = snapshot.table["best_ema_val_loss"].is_not_null().any()
    return [Column("best_ema_val_loss", "best val loss of averaged weights", "loss")] if some else []


def _begins_as(status: RunStatus) -> str | None:
    """The run whose first steps are a run's own, and how many they are."""
    run, steps = (status.provenance.get(name) for name in (CONTINUES, CONTINUES_FROM))
    return None if run is None or steps is None else f"{run}, {steps:,} steps"


def _to_target(snapshot: Snapshot) -> list[Column]:
    target = snapshot.study.target
    return [] if target is None else [Column("steps_to_target", f"steps to {loss(target)}", "count")]


def _size_title(snapshot: Snapshot) -> str:
    return "non-embedding parameters" if snapshot.size_column == "params_non_embedding" else "parameters"


def _answer(snapshot: Snapshot) -> list[str]:
    ranking = snapshot.ranking
    if ranking.is_empty():
        return ["No run is done yet."]
    best = ranking.row(0, named=True)
    unit = snapshot.loss_unit.replace(" per ", "/")
    over = f"the mean of {best['n']} seeds" if best["n"] > 1 else "one run"
    configurations = counted(len(snapshot.configurations), "configuration")
    sentences = [f"The best of {configurations} is {best['label']}: {loss(best['mean'])} {unit}, {over}."]
    if len(ranking) > 1:
        second = ranking.row(1, named=True)
        behind = number(second["mean"] - best["mean"])
        sentences.append(f"The next, {second['label']}, is {behind} {unit} behind.")
    return sentences
