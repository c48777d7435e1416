"""Where the runs' curves stand at their end and when they reach a loss: sentences, tables and figures."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import asdict
from typing import Any

import polars as pl

from isoloss.analysis.convergence import Convergence, RunConvergence
from isoloss.analysis.estimate import Estimate
from isoloss.report import convergence_figures as charts
from isoloss.report import frames
from isoloss.report import wording as say
from isoloss.report.parts import Figure, Table
from isoloss.report.snapshot import Snapshot
from isoloss.report.theme import themed


def convergence_sentences(convergence: Convergence | str) -> list[str]:
    """What the states mean, when the target is reached, the train-val gap, and what a reader has to know."""
    if isinstance(convergence, str):
        return [convergence]
    return [*_sentences(convergence), *(caution.text for caution in convergence.cautions)]


def share_table(convergence: Convergence) -> Table:
    """Runs in each state."""
    shares = convergence.shares.items()
    rows = [[state, f"{_count(s):,} of {s.n:,}", f"{s.value:.0%}", say.interval(s, ".0%")] for state, s in shares]
    exact = [{"state": state, "count": _count(s), **asdict(s)} for state, s in shares]
    return Table(("state", "runs", "share", "95% interval"), rows, exact=pl.DataFrame(exact))


def run_table(snapshot: Snapshot, convergence: Convergence) -> Table:
    """One row a run: state, improvement, plateau, rise, gap, and what it took to reach the target."""
    labels = _labels(snapshot)
    head = ("run", "levels", "state", "nats per doubling", "95% interval", "plateau from step", "rise at the end",
            "val − train loss", "steps to target", "tokens", "FLOPs", "time")  # fmt: skip
    rows = [[run.run, labels[run.run], run.state, *_run_in_words(run)] for run in convergence.runs]
    exact = pl.DataFrame([_exact(run, labels[run.run]) for run in convergence.runs], infer_schema_length=None)
    return Table(head, rows, numbers_from=3, exact=exact)


def convergence_figures(snapshot: Snapshot, convergence: Convergence | str) -> Iterator[Figure]:
    """Each run's improvement over its last window, and when it reached the target."""
    if isinstance(convergence, str):
        return
    yield from _improvements(snapshot, convergence)
    yield from _times_to_target(snapshot, convergence)


def _sentences(convergence: Convergence) -> Iterator[str]:
    tolerance = f"{convergence.tolerance:g} nats"
    yield (
        f"A run has plateaued when the 95% interval of its improvement lies within ±{tolerance} per doubling of steps "
        "over its last window (a doubling of steps or more, four evaluations or more), and U-turned when its end is "
        "above its lowest stretch by more than noise or its loss rises faster than that. Else it is improving when the "
        "lower bound is above 0, and inconclusive when it is not. A learning rate that decays can flatten a curve: a "
        "plateau is one of this schedule. Intervals of shares are Clopper–Pearson, as of runs drawn independently."
    )
    gap = convergence.gap
    if gap is not None:
        yield (
            "The final validation loss minus the final training loss is on average "
            f"{say.number(gap.value, '+.4f')} nats{_between(gap)}, n = {say.plural(gap.n, 'run')}"
            f"{'; the interval is over runs, whose settings differ' if gap.n > 1 else ''}."
        )


def _between(estimate: Estimate) -> str:
    return "" if estimate.low is None else f" (95% interval {say.interval(estimate, '+.4f')})"


def _count(share: Estimate) -> int:
    return round(share.value * share.n)


def _labels(snapshot: Snapshot) -> dict[str, str]:
    return dict(snapshot.done.select("run_id", "label").iter_rows())


def _run_in_words(run: RunConvergence) -> list[str]:
    improvement, rise, target = run.improvement, run.rise, run.to_target
    words = [
        say.signed(improvement.value if improvement else None),
        say.interval(improvement),
        say.MISSING if run.plateau_step is None else f"{run.plateau_step:,g}",
        say.signed(rise.value if rise else None),
        say.signed(run.final_gap),
    ]
    if target is None:
        return [*words, *(say.MISSING,) * 4]
    beyond = "" if target.reached else "> "
    costs = (f"{target.step:,g}", say.si(target.tokens), say.si(target.flops), say.duration(target.seconds))
    return words + [cost if cost == say.MISSING else beyond + cost for cost in costs]


def _exact(run: RunConvergence, label: str) -> dict[str, Any]:
    columns: dict[str, Any] = {"run_id": run.run, "levels": label, "state": run.state, "evaluations": run.n,
        "best_loss": run.best_loss, "best_step": run.best_step, "final_loss": run.final_loss,
        "final_gap": run.final_gap, "plateau_step": run.plateau_step}  # fmt: skip
    for name, estimate in (("improvement", run.improvement), ("rise", run.rise)):
        for end in ("value", "low", "high", "n", "method"):
            columns[f"{name}_{end}"] = getattr(estimate, end) if estimate else None
    for name in ("reached", "step", "after", "tokens", "flops", "seconds"):
        columns[f"target_{name}"] = getattr(run.to_target, name) if run.to_target else None
    return columns


def _improvements(snapshot: Snapshot, convergence: Convergence) -> Iterator[Figure]:
    labels = _labels(snapshot)
    rows = [
        {"run_id": run.run, "label": labels[run.run], "state": run.state, "value": run.improvement.value,
         "low": run.improvement.low, "high": run.improvement.high, "first_step": run.windows[-1].first_step,
         "last_step": run.windows[-1].last_step}
        for run in convergence.runs
        if run.improvement is not None
    ]  # fmt: skip
    if not rows:
        return
    table = pl.DataFrame(rows).sort("value", "run_id", descending=[True, False])
    shown, hidden = frames.shown_rows(table)
    caption = (
        f"Improvement of validation loss per doubling of steps over each run's last window, largest first; "
        f"n = {say.plural(len(table), 'run')} of {len(convergence.runs):,} done. Bars: 95% t intervals from the noise "
        f"of the curves, for one run at a time. Dashed: the tolerance, ±{convergence.tolerance:g} nats, between "
        "which a bar must lie for a plateau. Colour: the run's state."
    )
    chart = charts.improvements(shown, convergence.tolerance)
    yield Figure("improvement", caption + _left_out(hidden), themed(chart))


def _times_to_target(snapshot: Snapshot, convergence: Convergence) -> Iterator[Figure]:
    labels = _labels(snapshot)
    rows = [
        {"run_id": run.run, "label": labels[run.run], "step": run.to_target.step,
         "after": run.to_target.after if run.to_target.reached else None,
         "outcome": charts.REACHED if run.to_target.reached else charts.CENSORED}
        for run in convergence.runs
        if run.to_target is not None
    ]  # fmt: skip
    if not rows or convergence.reached is None:
        return
    order = pl.col("outcome") == charts.CENSORED
    table = pl.DataFrame(rows, infer_schema_length=None).sort(order, "step", "run_id")
    shown, hidden = frames.shown_rows(table)
    reached = convergence.reached
    caption = (
        f"Steps each run took to {convergence.target:g} nats/token, soonest first; n = {say.plural(len(table), 'run')}"
        f", of which {_count(reached):,} reached it. Bars are no confidence intervals: they run from the last "
        "evaluation above the target to the first at or below it, between which it was reached. Triangles: not "
        "reached by the run's end (right-censored)."
    )
    yield Figure("time_to_target", caption + _left_out(hidden), themed(charts.times_to_target(shown)))


def _left_out(hidden: int) -> str:
    return f" {say.count(hidden)} in the middle are left out of the figure; the table has all." if hidden else ""
