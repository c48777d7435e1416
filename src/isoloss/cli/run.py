"""Training a study and reporting on it, under a display and with a clean stop on Ctrl-C."""

from __future__ import annotations

from pathlib import Path

from isoloss.cli.progress import number, shown
from isoloss.data.tokens import prepare
from isoloss.execution.executor import NullListener
from isoloss.execution.interrupts import stop_on_signals
from isoloss.execution.study import RunOptions, resolve_study, run_study
from isoloss.report.chapters.claims import verdicts_in_words
from isoloss.report.study_report import Report, write_report
from isoloss.spec.study import Study
from isoloss.store.tables import StudyResults, ranked_runs
from isoloss.training.backend import keep_freed_memory
from isoloss.training.device import resolve_device
from isoloss.training.distributed import ranks_from_environment


def run_and_report(study: Study, out: Path | None, options: RunOptions) -> tuple[StudyResults, Report] | None:
    """Train a study's missing runs and write its report; ranks other than the first have none."""
    keep_freed_memory()
    with ranks_from_environment(resolve_device(options.device)) as ranks, shown() as display:
        listener = NullListener() if ranks.rank else display
        if not ranks.rank:  # before signals wait for checkpoints: a download may be broken off at once
            study, _ = resolve_study(study, options)
            prepare(study.corpus, study.tokenizer, offline=options.offline, say=display.say)
        with stop_on_signals(listener.say) as should_stop:
            results = run_study(study, out, options, listener=listener, should_stop=should_stop, ranks=ranks)
        if ranks.rank:
            return None
        display.say("writing the report")
        return results, write_report(results)


def conclude(results: StudyResults, report: Report) -> int:
    """Print what was found and where it is; the exit code is 1 when runs failed or diverged."""
    table = results.summary()
    ranked = ranked_runs(table)
    if len(ranked):
        best = ranked.row(0, named=True)
        levels = " ".join(f"{name}={best[name]}" for name in (*results.study.factors, "seed"))
        print(f"best run  {best['run_id']}  val loss {number(best['best_val_loss'])}  ({levels})")
    if report.claims:
        print(f"claims    {len(report.claims)} stated: {verdicts_in_words(report.claims)}")
    print(f"summary   {results.paths.summary('csv')}")
    print(f"report    {report.page}")
    lost = table.filter(table["status"] != "done")
    if len(lost):
        print(f"{len(lost)} of {len(table)} runs did not finish; the report says why")
    return 1 if len(lost) else 0
