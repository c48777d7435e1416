"""What `isoloss status` prints."""

from __future__ import annotations

import json
from collections import Counter
from typing import Any

from isoloss.errors import UnreadableError, printable
from isoloss.execution.plan import resume_point
from isoloss.spec.identity import run_id
from isoloss.store.owner import owner_is_gone
from isoloss.store.tables import StudyResults

SHOWN_RUNS = 20


def status_as_json(results: StudyResults) -> str:
    """One object: counts by state, whether it was abandoned, and every run's state, step and reason."""
    runs = _runs(results)
    counts = Counter(run["state"] for run in runs)
    whole = {
        "study": results.study.name,
        "total": len(runs),
        "counts": counts,
        "abandoned": _abandoned(results, counts),
    }
    return json.dumps({**whole, "runs": runs}, indent=2)


def status_as_text(results: StudyResults) -> str:
    """Counts by state, and a line for each run that is neither done nor waiting untouched."""
    runs = _runs(results)
    counts = Counter(run["state"] for run in runs)
    lines = [f"{results.study.name}: " + ", ".join(f"{n} {state}" for state, n in counts.most_common())]
    notable = [run for run in runs if run["state"] in ("running", "failed", "diverged") or run["reason"]]
    for run in notable[:SHOWN_RUNS]:
        levels = " ".join(f"{name}={run[name]}" for name in (*results.study.factors, "seed"))
        lines.append(f"  {run['run_id']}  {run['state']:<8}  step {run['step']:,}/{run['max_iters']:,}  {levels}")
        if run["reason"]:
            lines.append(f"    {printable(run['reason'])}")
    if len(notable) > SHOWN_RUNS:
        lines.append(f"  … and {len(notable) - SHOWN_RUNS} more (--json lists all)")
    if _abandoned(results, counts):
        lines.append("nobody runs it now: the process that did is gone; the same `isoloss run` continues")
    return "\n".join(lines)


def _abandoned(results: StudyResults, counts: Counter[str]) -> bool:
    """Whether runs are marked as running that nobody can be at."""
    return counts["running"] > 0 and owner_is_gone(results.paths)


def _runs(results: StudyResults) -> list[dict[str, Any]]:
    return [_run(results, run_id(config), config.max_iters, config) for config in results.configs]


def _run(results: StudyResults, run: str, max_iters: int, config: Any) -> dict[str, Any]:
    status = results.status(run)
    try:
        step, reason = resume_point(results.paths.run(run)).step, status.reason
    except UnreadableError as error:
        step, reason = 0, str(error)
    levels = {name: getattr(config, name) for name in (*results.study.factors, "seed")}
    return {
        "run_id": run,
        **levels,
        "state": status.state,
        "step": step,
        "max_iters": max_iters,
        "reason": reason,
    }
