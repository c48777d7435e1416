"""How far a study is, from what its runs recorded: their steps, the best loss so far, and how long it will take.

It is cheap: of a run that has ended its status is read and nothing else, rows are read of those alone that are running.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import NamedTuple

from isoloss.errors import StoreError
from isoloss.store.layout import RunPaths, StudyPaths
from isoloss.store.outcome import measured_when_it_ended
from isoloss.store.owner import owner_is_gone
from isoloss.store.run import RunStatus, eval_rows, last_sidecar, status_by_size, step_rows
from isoloss.study.compute import train_flops
from isoloss.study.config import RunConfig
from isoloss.study.datasets import compared_loss, dataset_of


class Best(NamedTuple):
    """A validation loss in nats/token, the step it was evaluated at, and the same in bits a byte where it is known."""

    val_loss: float
    step: int
    val_bpb: float | None = None


@dataclass(frozen=True)
class RunProgress:
    """How far one run is. `seconds` is what its steps so far took, evaluations included."""

    config: RunConfig
    state: str
    reason: str
    step: int
    seconds: float
    best: Best | None

    @property
    def flops(self) -> float:
        """Training FLOPs of the steps taken."""
        return train_flops(self.config) * self.step / self.config.max_iters

    @property
    def flops_left(self) -> float:
        """Training FLOPs of the steps that are left; none of a run that is not tried again before the next start."""
        return train_flops(self.config) - self.flops if self.state in ("pending", "running") else 0.0


@dataclass(frozen=True)
class StudyProgress:
    """How far a study is: its runs by id, and whether some are marked as running that nothing can be training."""

    runs: Mapping[str, RunProgress]
    abandoned: bool

    @cached_property
    def counts(self) -> Counter[str]:
        """Runs in each state."""
        return Counter(run.state for run in self.runs.values())

    @cached_property
    def best(self) -> tuple[str, Best] | None:
        """The run with the lowest validation loss of those that are done, of all while none is; None without any.

        Where losses per token do not compare, as of several tokenizers, it is the lowest in bits a byte.
        """
        by = compared_loss(dataset_of(run.config) for run in self.runs.values())
        known = {name: run for name, run in self.runs.items() if run.best and getattr(run.best, by) is not None}
        done = [name for name, run in known.items() if run.state == "done"]
        name = min(done or known, key=lambda name: (getattr(known[name].best, by), name), default=None)
        return None if name is None or (best := known[name].best) is None else (name, best)

    @cached_property
    def left_s(self) -> float | None:
        """About how many seconds are left; None where nothing is running or nothing has been timed.

        Time goes with training FLOPs, and as many runs go on at once as are running now. Where fewer are left than
        that, the longest decides.
        """
        timed = [run for run in self.runs.values() if run.seconds > 0 and run.step > 0]
        running = 0 if self.abandoned else self.counts["running"]
        if not running or not timed:
            return None
        pace = sum(run.seconds for run in timed) / sum(run.flops for run in timed)
        left = [run.flops_left * pace for run in self.runs.values()]
        return max(sum(left) / running, max(left))


def study_progress(paths: StudyPaths, configs: Mapping[str, RunConfig]) -> StudyProgress:
    """How far the runs of a study are, given by their ids. What cannot be read of a run is its reason."""
    paths_of = {run: paths.run(run) for run in configs}
    statuses = {run: status_by_size(own) for run, own in paths_of.items()}
    abandoned = any(status.state == "running" for status in statuses.values()) and owner_is_gone(paths)
    return StudyProgress(
        {run: _progress(own, configs[run], statuses[run], abandoned) for run, own in paths_of.items()}, abandoned
    )


def _progress(paths: RunPaths, config: RunConfig, status: RunStatus, abandoned: bool) -> RunProgress:
    step, seconds, best, reason = 0, 0.0, None, status.reason
    try:
        if status.state == "done":
            step, seconds = config.max_iters, sum(status.times_s.values())
        elif status.state == "running" and not abandoned:
            step, seconds = _rows_so_far(paths)
        elif status.state != "damaged":
            sidecar = last_sidecar(paths)
            step = sidecar["progress"]["step"] if sidecar else 0
            seconds = sum(status.times_s.values()) if status.state == "pending" else 0.0
        if status.state != "damaged":
            best = _best(paths, status)
    except StoreError as error:
        reason = str(error)
    return RunProgress(config, status.state, reason, step, seconds, best)


def _rows_so_far(paths: RunPaths) -> tuple[int, float]:
    """Steps a run that is being trained has recorded, and the seconds they and its evaluations took."""
    steps, evals = step_rows(paths), eval_rows(paths)
    seconds = sum(row["step_time_s"] for row in steps) + sum(row["eval_time_s"] for row in evals)
    return (steps[-1]["step"] + 1 if steps else 0), seconds


def _best(paths: RunPaths, status: RunStatus) -> Best | None:
    kept = measured_when_it_ended(status)
    if kept is None:
        return min(
            (
                Best(row["val_loss"], row["step"], row.get("val_bpb"))
                for row in eval_rows(paths)
                if row["val_loss"] is not None
            ),
            default=None,
        )
    loss, step = kept["best_val_loss"], kept["best_step"]
    return None if loss is None or step is None else Best(loss, step, kept.get("best_val_bpb"))
