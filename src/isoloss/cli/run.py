"""Training a study and writing its report, with progress on stderr and a clean stop on Ctrl-C."""

from __future__ import annotations

from pathlib import Path

from isoloss.data.token_files import Tokens
from isoloss.data.tokens import prepare_each
from isoloss.errors import AllFailedError
from isoloss.execution.display import shown
from isoloss.execution.executor import NullListener
from isoloss.execution.growing import as_begun
from isoloss.execution.interrupts import stop_on_signals
from isoloss.execution.placement import check_placement, training_device
from isoloss.execution.study import RunOptions, resolve_study, run_study
from isoloss.report.study_report import Report, write_report
from isoloss.store.owner import study_paths
from isoloss.store.tables import StudyResults, load_study
from isoloss.store.yardsticks import keep_yardsticks
from isoloss.study.datasets import Dataset
from isoloss.study.study import Study
from isoloss.training.backend import keep_freed_memory
from isoloss.training.distributed import ranks_from_environment


def run_and_report(study: Study, out: Path | None, options: RunOptions) -> tuple[StudyResults, Report] | None:
    """Train a study's missing runs and write its report; ranks other than the first have none."""
    keep_freed_memory()
    paths = study_paths(study, out)
    with ranks_from_environment(training_device(options)) as ranks, shown() as display:
        listener, tokens = NullListener() if ranks.rank else display, dict[Dataset, Tokens]()
        if not ranks.rank:  # before signals wait for checkpoints: a download may be broken off at once
            study, _ = resolve_study(as_begun(paths, study, options), options)
            check_placement(options, paths.folder, ranks.world)
            tokens = prepare_each(study.datasets, offline=options.offline, say=display.say)
        with stop_on_signals(listener.say) as should_stop:
            try:
                results = run_study(study, out, options, listener=listener, should_stop=should_stop, ranks=ranks)
            except AllFailedError:  # the report says so, and why
                results = load_study(paths.folder)
        if ranks.rank:
            return None
        keep_yardsticks(paths, tokens, display.say)
        display.say("writing the report")
        return results, write_report(results)
