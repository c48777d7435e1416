"""Training a study and writing its report, with progress on stderr and a clean stop on Ctrl-C."""

from __future__ import annotations

from pathlib import Path

from isoloss.cli.progress import shown
from isoloss.data.tokens import prepare
from isoloss.execution.executor import NullListener
from isoloss.execution.interrupts import stop_on_signals
from isoloss.execution.study import RunOptions, resolve_study, run_study
from isoloss.report.study_report import Report, write_report
from isoloss.store.tables import StudyResults
from isoloss.study.study import Study
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
