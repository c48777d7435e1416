"""Where the runs' loss curves stand at their end, and when they reach a loss."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, fields
from typing import Any

import polars as pl

from isoloss import wording as say
from isoloss.analysis.convergence import STATES, Convergence, RunConvergence, State
from isoloss.analysis.estimate import Estimate
from isoloss.diagnostic import Diagnostic
from isoloss.report.chapter import Chapter
from isoloss.report.chapters.crossing import crossing_details, crossing_sentences, crossing_table
from isoloss.report.chapters.target import is_reached, step_words, target_sentence, target_words, times_to_target
from isoloss.report.chart import ACCENT, GREY, WARNING, Figure, near_data
from isoloss.report.format import Kind, spelled_interval
from isoloss.report.references import cited
from isoloss.report.run_strip import Names, RunName, placed, run_words, strip
from isoloss.report.table import Column, Table

PHRASES: Mapping[State, tuple[str, str]] = {
    "improving": ("was still improving when it stopped", "were still improving when they stopped"),
    "plateaued": ("had plateaued", "had plateaued"),
    "U-turned": ("ended above its lowest loss", "ended above their lowest loss"),
    "diverged": (
        "diverged: its loss jumped and stayed or is not finite",
        "diverged: their loss jumped and stayed or is not finite",
    ),
    "inconclusive": (
        "is too noisy or has too few evaluations to tell",
        "are too noisy or have too few evaluations to tell",
    ),
}
COLOURS = {"improving": ACCENT, "plateaued": ACCENT, "U-turned": WARNING, "diverged": WARNING, "inconclusive": GREY}


def convergence_chapter(convergence: Convergence | Diagnostic, runs: pl.DataFrame | None = None) -> Chapter:
    """What the curves of a study or of anyone's table show at their end.

    `runs` are the run_id, label, key and configuration of a study's runs, as its snapshot's table has them. Without
    them a run is called by its name and stands for itself.

        chapter_as_text(convergence_chapter(analyse_convergence(table)))
    """
    if isinstance(convergence, Diagnostic):
        answer = [convergence.text, *([convergence.remedy] if convergence.remedy else [])]
        return Chapter("convergence", "Convergence", answer)
    names = {run.run: RunName(run.run, run.run) for run in convergence.runs}
    if runs is not None:
        names |= {
            run: RunName(*words)
            for run, *words in runs.select("run_id", *(f.name for f in fields(RunName))).iter_rows()
        }
    return Chapter(
        "convergence",
        "Convergence",
        answer=list(_answer(convergence, names)),
        figures=[*_improvements(convergence, names), *times_to_target(convergence, names)],
        tables=[
            _shares(convergence),
            *crossing_table(convergence.crossing, target_words(convergence), _kind(convergence)),
            _by_run(convergence, names),
        ],
        details=list(_details(convergence)),
    )


def _answer(convergence: Convergence, names: Names) -> Iterator[str]:
    n = len(convergence.runs)
    parts: list[str] = []
    for state in STATES:
        runs = [run for run in convergence.runs if run.state == state]
        if runs:
            who = say.count(len(runs)) if parts else say.of_runs(len(runs), n)
            parts.append(f"{who} {PHRASES[state][len(runs) > 1]}{_more(state, runs)}")
    yield f"{'; '.join(parts)}."
    if convergence.target is not None:
        yield target_sentence(convergence, names)
        yield from crossing_sentences(convergence.crossing, target_words(convergence))
    gap = convergence.gap
    if gap is not None:
        value = spelled_interval(gap.value, gap.low, gap.high, "difference")
        who = say.counted(gap.n, "run")
        yield f"At the end the validation loss minus the training loss is {value} nats on average over {who}."
    yield from _rate_sentence(convergence)


def _rate_sentence(convergence: Convergence) -> Iterator[str]:
    """Whether learning rates were still falling, where that is known."""
    known = [run.rate_falling for run in convergence.runs if run.rate_falling is not None]
    if not known:
        return
    falling, n = sum(known), len(known)
    if not falling:
        yield f"The learning rate was not falling any more at the end of {say.of_runs(0, n) if n > 1 else 'the run'}."
        return
    yield (
        f"The learning rate was still falling at the end of {say.of_runs(falling, n)}: where these stand is what their "
        "schedule gives, not what training on at that rate would."
    )


def _more(state: State, runs: Sequence[RunConvergence]) -> str:
    """How much, or from when on."""
    if state == "improving":
        values = sorted(run.improvement.value for run in runs if run.improvement)
        by = " to ".join(dict.fromkeys(say.number(value, ".2g") for value in (values[0], values[-1])))
        return f", by {by} nats per doubling of steps, so longer training should lower the loss"
    if state == "plateaued":
        return f" by step {step_words(max(run.plateau_step or 0 for run in runs))}"
    return ""


def _details(convergence: Convergence) -> Iterator[str]:
    methods = " ".join(run.improvement.method for run in convergence.runs if run.improvement)
    noise = {
        "cubic": f"what a cubic leaves of the last two doublings, its autocorrelation corrected {cited('kendall1954')}",
        "second differences": f"that of second differences {cited('gasser1986')}, pooled over runs",
    }
    used = " or ".join(text for method, text in noise.items() if method in methods)
    if used:
        yield f"An improvement is the slope of a least-squares line of loss on log2(step); its noise is {used}."
    yield (
        "A run has diverged when its last loss is not finite, or its loss rose by five tolerances or more at once and "
        "kept at least half of that. It has plateaued when the 95% interval of its improvement lies within "
        f"±{convergence.tolerance:g} nats per doubling of steps over its last window (a doubling of steps or more, "
        "four evaluations or more), every window since the plateau's first step passing as well "
        f"{cited('berger1982')}, and U-turned when its end is above its lowest stretch by more than noise and the "
        "tolerance, or its loss rises faster than that. It is improving when the lower end of the interval is above 0, "
        "or when its last stretch is below the first half of its last window by more than noise and the tolerance; "
        "else it is inconclusive. A learning rate that decays can flatten a curve: a plateau is one of this schedule. "
        f"Intervals of shares are exact {cited('clopper1934')}, as of runs drawn independently."
    )
    if convergence.target is not None:
        yield (
            "Times are to the first evaluation at or below the target; nothing is interpolated. Of a configuration the "
            "time is the median over its seeds, one that was not reached counting as later than all. Seconds, where "
            "known, are steps at the run's median step time, without evaluations."
        )
    yield from crossing_details(convergence.crossing)
    if convergence.gap is not None:
        yield f"Gap: {convergence.gap.method}; the runs' settings may differ."
    yield from (f"{each.text} {each.remedy}" if each.remedy else each.text for each in convergence.cautions)


def _shares(convergence: Convergence) -> Table:
    shares: dict[str, Estimate] = {**convergence.shares}
    if convergence.reached is not None:
        shares[f"reached {target_words(convergence)}"] = convergence.reached
    frame = pl.DataFrame([{"state": s, "runs": round(e.value * e.n), **asdict(e)} for s, e in shares.items()])
    columns = (
        Column("state", "state"),
        Column("runs", "runs", "count"),
        Column("n", "of", "count"),
        Column("value", "share [95%]", "percent", interval=("low", "high")),
    )
    return Table("convergence", "Runs in each state at their end; Clopper–Pearson intervals", frame, columns)


def _by_run(convergence: Convergence, names: Names) -> Table:
    frame = pl.DataFrame([_row(run, names) for run in convergence.runs], infer_schema_length=None)
    steps = _kind(convergence)
    named = [
        Column("run", "run", width=40),
        *([Column("label", "levels", width=40)] if any(name.key for name in names.values()) else []),
    ]
    columns = [
        *named,
        Column("state", "state"),
        Column(
            "improvement", "nats per doubling [95%]", "difference", interval=("improvement_low", "improvement_high")
        ),
        Column("plateau_step", "plateau from step", steps),
        Column("rise", "rise at the end", "difference"),
        Column("evaluations", "evaluations", "count"),
        Column("last_step", "last step", steps),
        Column("best_loss", "best loss", "loss"),
        Column("best_step", "at step", steps),
        Column("final_loss", "final loss", "loss"),
        *([Column("rate_falling", "rate still falling")] if frame["rate_falling"].count() else []),
    ]
    title = "Each run at its end. Rise: of the last stretch above the lowest one before it"
    if frame["final_gap"].count():
        columns.append(Column("final_gap", "val − train loss", "difference"))
    if convergence.target is not None:
        title += f". Costs of reaching {target_words(convergence)}: a dash where the run ended before"
        costs: tuple[tuple[str, str, Kind], ...] = (
            ("target_evaluated_step", f"evaluated at or below {convergence.target:g} at step", steps),
            ("tokens_to_target", "tokens", "si"), ("flops_to_target", "FLOPs", "si"),
            ("seconds_to_target", "time", "duration")
        )  # fmt: skip
        columns += [Column(name, head, kind) for name, head, kind in costs if frame[name].count()]
    return Table("convergence_by_run", title, frame, columns)


def _row(run: RunConvergence, names: Names) -> dict[str, Any]:
    row: dict[str, Any] = {
        "run": run.run, "label": names[run.run].label, "state": run.state, "evaluations": run.n,
        "last_step": run.last_step, "best_loss": run.best_loss, "best_step": run.best_step,
        "final_loss": run.final_loss, "final_gap": run.final_gap, "plateau_step": run.plateau_step,
        "rate_falling": None if run.rate_falling is None else ("yes" if run.rate_falling else "no"),
    }  # fmt: skip
    for name, estimate in (("improvement", run.improvement), ("rise", run.rise)):
        row[name] = estimate.value if estimate else None
        row |= {f"{name}_{of}": getattr(estimate, of) if estimate else None for of in ("low", "high", "n", "method")}
    reached = run.to_target if is_reached(run) else None
    row |= {"target_reached": None if run.to_target is None else is_reached(run)}
    row |= {"target_after_step": reached.after if reached else None}
    row |= {"target_evaluated_step": reached.step if reached else None}
    for name, cost in (("tokens", "tokens"), ("flops", "flops"), ("seconds", "seconds")):
        row[f"{name}_to_target"] = getattr(reached, cost) if reached else None
    return row


def _improvements(convergence: Convergence, names: Names) -> Iterator[Figure]:
    rows = [
        {**run_words(run.run, names, f"{run.state}, {_per_doubling(run.improvement)}"), "group": run.state,
         "value": run.improvement.value, "low": run.improvement.low, "high": run.improvement.high,
         "first_step": run.windows[-1].first_step, "last_step": run.last_step}
        for run in convergence.runs
        if run.improvement is not None
    ]  # fmt: skip
    if not rows:
        return
    n = len(convergence.runs)
    state = max(STATES, key=lambda each: convergence.shares[each].value)
    runs = [run for run in convergence.runs if run.state == state]
    title = f"{say.of_runs(len(runs), n)} {PHRASES[state][len(runs) > 1]}"
    title += _more(state, runs) if state == "plateaued" else ""
    table = pl.DataFrame(rows, infer_schema_length=None).sort("value", "run", descending=[True, False])
    heads = {state: f"{state}: {say.of_runs(sum(r.state == state for r in convergence.runs), n)}" for state in STATES}
    frame, thinned = placed(table, heads)
    tolerance = convergence.tolerance
    low, high = min(*frame["value"], -tolerance), max(*frame["value"], tolerance)
    ends = [low, *(end for end in (*frame["low"], *frame["high"]) if end is not None)]
    room = high - low
    domain = [max(min(low, *ends), low - room), min(max(high, *ends), high + room)]
    cut = min(low, *ends) < domain[0] or max(high, *ends) > domain[1]
    who = say.of_runs(len(rows), n) if len(rows) < n else say.counted(n, "run")
    subtitle = (
        "Improvement over each run's last doubling of steps with its 95% t interval from the noise of the curve; "
        f"n = {who}{thinned}. Dashed: ±{tolerance:g}, between which the interval of a plateau lies"
        f"{'; long intervals are cut at the edge' if cut else ''}."
    )
    axis = {"title": "improvement (nats per doubling of steps)", "scale": near_data(pl.Series(domain), clamp=True)}
    rules = [(-tolerance, [4, 3]), (tolerance, [4, 3]), (0.0, [1, 0])]
    yield Figure("improvement", title, subtitle, frame, lambda width: strip(frame, heads, COLOURS, axis, width, rules))


def _per_doubling(estimate: Estimate) -> str:
    return f"{spelled_interval(estimate.value, estimate.low, estimate.high, 'difference')} nats per doubling of steps"


def _kind(convergence: Convergence) -> Kind:
    """Steps are whole numbers, unless a table counts them otherwise."""
    return "count" if all(run.last_step.is_integer() for run in convergence.runs) else "number"
