"""What a run's rows come to, computed once when it ends: its columns of the summary, and curves of few points.

The columns are kept in status.json, the curves in curves.json with the extents of the rows they are of. Where either
is missing (earlier versions did not write them), of other rows, or damaged, it is computed from the rows again.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from itertools import accumulate, pairwise
from math import isfinite, sqrt
from statistics import median, stdev

from isoloss.errors import StoreError
from isoloss.files import write_record
from isoloss.store.layout import RunPaths
from isoloss.store.records import (
    CURVES,
    ByPosition,
    EvalRecord,
    MeasuredRecord,
    StepRecord,
    ThinnedEvals,
    ThinnedSteps,
    read_checked,
)
from isoloss.store.run import ROWS, Extent, RunStatus, eval_rows, extents, step_rows

MAX_POINTS = 64
"""Points of a thinned curve; a shorter one is kept whole."""
FIGURES = 6
"""Significant figures of a thinned curve of steps, which is for charts; evaluations are kept exactly."""


@dataclass(frozen=True)
class Curves:
    """The curves of a run, of few points, and at its last evaluation the losses by position in the context.

    Runs of earlier versions have no such losses.
    """

    steps: ThinnedSteps
    evals: ThinnedEvals
    val_loss_by_position: ByPosition


def keep_outcome(paths: RunPaths, rows: Mapping[str, Extent]) -> MeasuredRecord | None:
    """Write the curves of a run that has ended with rows of these extents, and return what it measured.

    None, and nothing written, where the rows cannot be read back. Raises StoreError when the disk refuses.
    """
    try:
        steps, evals = step_rows(paths), eval_rows(paths)
    except StoreError:
        return None
    kept = {name: asdict(extent) for name, extent in rows.items()}
    write_record(paths.curves, {"rows": kept, **asdict(_curves(steps, evals))})
    return measure(steps, evals)


def measured_when_it_ended(status: RunStatus) -> MeasuredRecord | None:
    """What a run of this status measured, if that was kept and is of rows of known extents."""
    return status.measured if set(status.rows) == set(ROWS) else None


def measured(paths: RunPaths, status: RunStatus) -> MeasuredRecord:
    """What a run of this status has measured. Raises StoreError when that takes its rows and they cannot be read."""
    return measured_when_it_ended(status) or measure(step_rows(paths), eval_rows(paths))


def curves(paths: RunPaths, status: RunStatus) -> Curves:
    """The thinned curves of a run of this status. Raises StoreError likewise."""
    if measured_when_it_ended(status):
        try:
            kept = read_checked(CURVES, paths.curves)
            if extents(kept["rows"]) == status.rows:
                return Curves(kept["steps"], kept["evals"], kept.get("val_loss_by_position", {}))
        except StoreError:
            pass
    return _curves(step_rows(paths), eval_rows(paths))


def _curves(steps: Sequence[StepRecord], evals: Sequence[EvalRecord]) -> Curves:
    by_position = evals[-1].get("val_loss_by_position") if evals else None
    return Curves(thinned_steps(steps), thinned_evals(evals), by_position or {})


def measure(steps: Sequence[StepRecord], evals: Sequence[EvalRecord]) -> MeasuredRecord:
    """The columns of the summary that a run's rows decide; None where they do not.

    Best is the lowest validation loss, of the weights and by itself of their average; final is the last evaluation.
    Speeds are medians, so that a slow first step or a busy moment does not count.
    """
    best = min(((row["val_loss"], row["step"]) for row in evals if row["val_loss"] is not None), default=(None, None))
    of_average = [row.get("ema_val_loss") for row in evals]
    per_byte, of_average_per_byte = ([row.get(name) for row in evals] for name in ("val_bpb", "ema_val_bpb"))
    final_val, final_train = (evals[-1]["val_loss"], evals[-1]["train_loss"]) if evals else (None, None)
    return {
        "best_val_loss": best[0],
        "best_step": best[1],
        "best_ema_val_loss": _lowest(of_average),
        "final_ema_val_loss": of_average[-1] if of_average else None,
        "final_val_loss": final_val,
        "final_train_loss": final_train,
        "best_val_bpb": _lowest(per_byte),
        "final_val_bpb": per_byte[-1] if per_byte else None,
        "best_ema_val_bpb": _lowest(of_average_per_byte),
        "final_ema_val_bpb": of_average_per_byte[-1] if of_average_per_byte else None,
        "train_val_gap": None if final_val is None or final_train is None else final_val - final_train,
        "loss_roughness": loss_roughness([row["loss"] for row in steps]),
        "median_step_time_s": median(row["step_time_s"] for row in steps) if steps else None,
        "tokens_per_s": median(row["tokens_per_s"] for row in steps) if steps else None,
        "mfu": median(row["mfu"] for row in steps) if steps else None,
        "mfu_a100": median(row["mfu_a100"] for row in steps) if steps else None,
    }


def _lowest(losses: Iterable[float | None]) -> float | None:
    return min((loss for loss in losses if loss is not None), default=None)


def steps_to(target: float, curve: Iterable[tuple[int, float | None]]) -> float | None:
    """The step at which a curve of losses first gets to a target, on lines between its points; else None."""
    seen = [(step, loss) for step, loss in curve if loss is not None]
    if seen and seen[0][1] <= target:
        return float(seen[0][0])
    for (step, loss), (after, lower) in pairwise(seen):
        if lower <= target:
            return step + (after - step) * (loss - target) / (loss - lower)
    return None


def loss_roughness(losses: Sequence[float | None]) -> float | None:
    """Short-term noise of a per-step training loss in nats/token: sd of its differences / √2, second half of the steps.

    Differences remove a slow trend (von Neumann 1941). None below three steps there, or where a loss is missing.
    """
    late = [loss for loss in losses[len(losses) // 2 :] if loss is not None and isfinite(loss)]
    if len(late) < 3 or len(late) < len(losses) - len(losses) // 2:
        return None
    return stdev(after - before for before, after in pairwise(late)) / sqrt(2)


def thinned_steps(rows: Sequence[StepRecord]) -> ThinnedSteps:
    """At most MAX_POINTS points of the per-step record: the first and the last row, and one for each bucket between.

    A point stands at the middle row of its bucket; its loss and grad_norm are means over the bucket, of what was
    finite. `seconds` is the training time before that step's update, evaluations and checkpoints apart.
    """
    seconds = list(accumulate((row["step_time_s"] for row in rows), initial=0.0))
    buckets = _buckets(len(rows), MAX_POINTS)
    middles = [(first + last) // 2 for first, last in buckets]
    return {
        "step": [rows[middle]["step"] for middle in middles],
        "loss": [_mean([row["loss"] for row in rows[first : last + 1]]) for first, last in buckets],
        "lr": [_rounded(rows[middle]["lr"]) for middle in middles],
        "grad_norm": [_mean([row["grad_norm"] for row in rows[first : last + 1]]) for first, last in buckets],
        "seconds": [_rounded(seconds[middle]) for middle in middles],
    }


def thinned_evals(rows: Sequence[EvalRecord]) -> ThinnedEvals:
    """At most MAX_POINTS of a run's evaluations: the first, the last and the best among them."""
    losses = {place: row["val_loss"] for place, row in enumerate(rows) if row["val_loss"] is not None}
    kept = {first for first, _ in _buckets(len(rows), MAX_POINTS - 1)} if len(rows) > MAX_POINTS else range(len(rows))
    places = sorted({*kept, *sorted(losses, key=lambda place: (losses[place], place))[:1]})
    return eval_columns([rows[place] for place in places])


def eval_columns(rows: Sequence[EvalRecord]) -> ThinnedEvals:
    """Evaluations by column, with the average's where the run has one."""
    columns: ThinnedEvals = {
        "step": [row["step"] for row in rows],
        "train_loss": [row["train_loss"] for row in rows],
        "val_loss": [row["val_loss"] for row in rows],
    }
    if any("ema_val_loss" in row for row in rows):
        columns["ema_val_loss"] = [row.get("ema_val_loss") for row in rows]
    return columns


def _buckets(rows: int, most: int) -> list[tuple[int, int]]:
    """First and last place of each of at most so many buckets of rows, the first row and the last one alone.

    They grow with the square root of their place, a mean between a linear and a logarithmic axis: a loss falls fastest
    at the beginning.
    """
    if rows <= most:
        return [(place, place) for place in range(rows)]
    inner = most - 2
    edges = sorted({0, rows, *(1 + (rows - 2) * i * i // (inner * inner) for i in range(inner + 1))})
    return [(first, after - 1) for first, after in pairwise(edges)]


def _mean(values: Sequence[float | None]) -> float | None:
    present = [value for value in values if value is not None]
    return _rounded(sum(present) / len(present)) if present else None


def _rounded(value: float) -> float:
    return float(f"{value:.{FIGURES}g}")
