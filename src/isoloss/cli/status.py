"""What `isoloss status` prints."""

from __future__ import annotations

import json
from typing import Any

from isoloss.errors import printable
from isoloss.store.opening import OpenStudy
from isoloss.store.progress import Best, StudyProgress, study_progress
from isoloss.study.config import RunConfig
from isoloss.study.datasets import compared_loss
from isoloss.study.identity import by_run_id
from isoloss.wording import duration, level, loss

MAX_LISTED = 20
LISTED = ("running", "failed", "diverged")
"""States whose runs have a line each, though they give no reason."""


def status_as_json(opened: OpenStudy) -> str:
    """One object: counts by state, the best loss so far, the time left, and every run's state, step and reason."""
    progress = _progress(opened)
    whole = {
        "study": opened.study.name,
        "total": len(progress.runs),
        "counts": progress.counts,
        "abandoned": progress.abandoned,
        "best": progress.best and _best(opened, progress, *progress.best),
        "left_s": progress.left_s,
    }
    runs = [
        {
            "run_id": name,
            **_levels(opened, run.config),
            "state": run.state,
            "step": run.step,
            "max_iters": run.config.max_iters,
            "reason": run.reason,
        }
        for name, run in progress.runs.items()
    ]
    return json.dumps({**whole, "runs": runs}, indent=2)


def status_as_text(opened: OpenStudy) -> str:
    """Counts by state, the best loss so far, the time left, and a line for each run that is not simply done or waiting.

    Steps of runs that are running are those recorded so far; of others, those a start would go on from.
    """
    progress = _progress(opened)
    lines = [f"{opened.study.name}: " + ", ".join(f"{n:,} {state}" for state, n in progress.counts.most_common())]
    if progress.best:
        name, best = progress.best
        where = f"step {best.step:,} of run {name} ({_label(opened, progress.runs[name].config)})"
        per_byte = compared_loss(opened.study.datasets) == "val_bpb" and best.val_bpb is not None
        lowest = f"{loss(best.val_bpb)} bits/byte" if per_byte else f"{loss(best.val_loss)} nats/token"
        lines.append(f"best validation loss so far: {lowest}, {where}")
    if progress.left_s is not None:
        lines.append(f"done in about {duration(progress.left_s)}, at the pace of the steps so far")
    listed = [item for item in progress.runs.items() if item[1].state in LISTED or item[1].reason]
    for name, run in listed[:MAX_LISTED]:
        steps = f"step {run.step:,}/{run.config.max_iters:,}"
        lines.append(f"  {name}  {run.state:<8}  {steps}  {_label(opened, run.config)}")
        if run.reason:
            lines.append(f"    {printable(run.reason)}")
    if len(listed) > MAX_LISTED:
        lines.append(f"  … and {len(listed) - MAX_LISTED:,} more (--json lists all)")
    if progress.abandoned:
        lines.append("not running: the process that trained it has ended; the same `isoloss run` command continues")
    return "\n".join(lines)


def _progress(opened: OpenStudy) -> StudyProgress:
    return study_progress(opened.paths, by_run_id(opened.study.expand(opened.facts)))


def _levels(opened: OpenStudy, config: RunConfig) -> dict[str, Any]:
    return {name: getattr(config, name) for name in (*opened.study.varied, "seed")}


def _label(opened: OpenStudy, config: RunConfig) -> str:
    return " ".join(f"{name}={level(value)}" for name, value in _levels(opened, config).items())


def _best(opened: OpenStudy, progress: StudyProgress, name: str, best: Best) -> dict[str, Any]:
    known = {key: value for key, value in best._asdict().items() if value is not None}
    return {"run_id": name, **_levels(opened, progress.runs[name].config), **known}
