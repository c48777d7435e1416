"""What came of a study, as `isoloss run`, `train` and `report` print it: text for a person, JSON for a script."""

from __future__ import annotations

from collections import Counter
from dataclasses import asdict
from json import dumps
from typing import Any

from isoloss.report.study_report import Report
from isoloss.store.tables import StudyResults, ranked_runs
from isoloss.study.datasets import compared_loss
from isoloss.terminal import show
from isoloss.wording import level, loss, of_runs


def conclude(results: StudyResults, report: Report, *, json: bool) -> int:
    """Print what was found and where it is; the exit code is 1 when runs failed or diverged."""
    found = outcome(results, report)
    show(dumps(found, indent=2) if json else _as_text(found))
    return 1 if found["total"] > found["counts"].get("done", 0) else 0


def outcome(results: StudyResults, report: Report) -> dict[str, Any]:
    """What a script needs of a study that was run, as plain values: files, counts by state, the best run, claims."""
    table = results.summary()
    best = next(ranked_runs(table).iter_rows(named=True), None)
    compared = f"best_{compared_loss(results.study.datasets)}"
    shown = ("run_id", *results.study.varied, "seed", compared)
    return {
        "study": results.study.name,
        "directory": str(results.paths.folder),
        "summary": str(results.paths.summary("csv")),
        "report": str(report.page),
        "total": len(table),
        "counts": dict(Counter(table["status"].to_list())),
        "best_run": best and {name: best[name] for name in shown},
        "claims": [
            {
                "says": claim.says,
                "verdict": claim.verdict,
                "after_training": claim.after_training,
                "estimate": claim.estimate and asdict(claim.estimate),
                "probability": claim.probability and asdict(claim.probability),
                "p": claim.p,
                "p_adjusted": claim.p_adjusted,
                "sentence": claim.sentence,
            }
            for claim in report.claims
        ],
        "loss_by_position": report.positions and asdict(report.positions),
    }


def _as_text(found: dict[str, Any]) -> str:
    lines = [f"summary   {found['summary']}", f"report    {found['report']}"]
    if found["claims"]:
        verdicts = Counter(claim["verdict"] for claim in found["claims"])
        counts = ", ".join(f"{n} {verdict}" for verdict, n in verdicts.items())
        lines.insert(0, f"claims    {len(found['claims'])} stated: {counts}")
    if found["best_run"]:
        best = {**found["best_run"]}
        per_byte = best.pop("best_val_bpb", None)
        reached = f"{loss(per_byte)} bits per byte" if per_byte is not None else loss(best.pop("best_val_loss"))
        run = best.pop("run_id")
        levels = " ".join(f"{name}={level(value)}" for name, value in best.items())
        lines.insert(0, f"best run  {run}  val loss {reached}  ({levels})")
    lost = found["total"] - found["counts"].get("done", 0)
    return "\n".join(
        [*lines, f"{of_runs(lost, found['total'])} did not finish; the report says why"] if lost else lines
    )
