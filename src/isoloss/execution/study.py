"""run_study: train every run of a study that is missing into its directory."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from pathlib import Path

import polars as pl
import torch

from isoloss.data.tokens import check_length, prepare_each
from isoloss.design.trunks import dependency_levels
from isoloss.errors import AllFailedError, ConfigError, Interrupted, IsolossError, StoreError
from isoloss.execution.context import TrainingContext
from isoloss.execution.disk_cap import DiskCap
from isoloss.execution.display import is_watched, shown
from isoloss.execution.engines import engine
from isoloss.execution.executor import Executor, Inline, Listener, NullListener
from isoloss.execution.first_evaluation import runs_alike
from isoloss.execution.growing import as_begun, open_directory
from isoloss.execution.interrupts import interrupts_are_unhandled, stop_on_signals
from isoloss.execution.options import RunOptions
from isoloss.execution.placement import (
    runs_at_once,
    scratch_folder,
    training_device,
    training_precision,
    worker_count,
)
from isoloss.execution.plan import is_missing, is_shuffled, plan_stacks
from isoloss.execution.processes import Processes
from isoloss.execution.resuming import refuse_changed_numerics
from isoloss.execution.reuse import drop_kept, kept_steps, start_from_forks
from isoloss.execution.samples import REPORT_RUNS, write_report_samples
from isoloss.execution.step_times import StepTimes
from isoloss.execution.width import stack_width, widths
from isoloss.files import bytes_in, path_exists, reading
from isoloss.store.layout import StudyPaths
from isoloss.store.owner import owned, study_paths
from isoloss.store.tables import StudyResults, ranked_runs, write_summary
from isoloss.study.compute import checkpoint_bytes, disk_bytes, train_flops, training_memory_bytes
from isoloss.study.config import RunConfig
from isoloss.study.identity import run_id
from isoloss.study.study import Study
from isoloss.study.study_faults import too_large
from isoloss.study.texts import ANY_DATA, joined_facts
from isoloss.training.backend import compiled_kernels, triton_kernels
from isoloss.training.device import available_cores, machine_memory_bytes, resolve_devices
from isoloss.training.distributed import Ranks
from isoloss.training.gpus import check_usable
from isoloss.wording import counted

MIN_COMPILE_FLOPS = 1e12
"""Compiling kernels takes some two seconds; below these training FLOPs, ten seconds of one core, it is not worth it."""


def resolve_study(study: Study, options: RunOptions) -> tuple[Study, torch.device]:
    """The study, every cell valid, with its precision settled for a device of this machine. Raises ConfigError."""
    device = training_device(options)
    if device.type == "cuda" and not options.is_elsewhere:
        check_usable(resolve_devices(options.device))
    stated = study.varied.get("precision", (study.base["precision"],) if "precision" in study.base else ())
    largest = max(study.expand(ANY_DATA), key=training_memory_bytes)
    on_this_cpu = device.type == "cpu" and not options.is_elsewhere
    if on_this_cpu and (needed := training_memory_bytes(largest)) > (there := machine_memory_bytes()):
        raise too_large(largest, f"needs about {needed / 1e9:,.0f} GB of memory, this machine has {there / 1e9:,.0f}")
    for precision in stated:
        training_precision(str(precision), options)
    left_open = {"eval_val_tokens": RunConfig.model_fields["eval_val_tokens"].default}
    settled = {name: value for name, value in left_open.items() if not study.states(name)}
    if not stated or options.precision != "auto":
        settled["precision"] = training_precision(options.precision, options)
    return study.with_settings(settled) if settled else study, device


def run_study(
    study: Study,
    out: str | Path | None = None,
    options: RunOptions | None = None,
    *,
    listener: Listener | None = None,
    should_stop: Callable[[], bool] | None = None,
    ranks: Ranks | None = None,
    executor: Executor | None = None,
) -> StudyResults:
    """Train every run of a study that is not finished yet, write the summary, and return the directory, read.

    Everything is checked before anything trains: raises ConfigError, CorpusError or StoreError. Raises Interrupted
    once should_stop() is true and all state is saved, and AllFailedError where every run failed; else runs that fail or
    diverge are no exception: see `status`.
    Without a `listener`, progress is printed on a terminal and in a notebook. Without `should_stop`, a Ctrl-C or a
    notebook's stop button saves everything and raises Interrupted, unless the caller has a handler of its own.
    `executor` decides where stacks train; by default it follows from the device and the options.

    Example: `run_study(find_study("quickstart"), "results/first")`.
    """
    with ExitStack() as entered:
        if listener is None:
            listener = entered.enter_context(shown()) if is_watched() else NullListener()
        if should_stop is None and interrupts_are_unhandled():
            should_stop = entered.enter_context(stop_on_signals(listener.say, ctrl_c_alone=True))
        parts = options or RunOptions(), listener, should_stop or (lambda: False), ranks or Ranks(), executor
        return _run_study(study, out, *parts)


def _run_study(
    study: Study,
    out: str | Path | None,
    options: RunOptions,
    listener: Listener,
    should_stop: Callable[[], bool],
    ranks: Ranks,
    executor: Executor | None,
) -> StudyResults:
    paths = study_paths(study, out)
    study, device = resolve_study(as_begun(paths, study, options), options)
    if ranks.rank:
        ranks.barrier()  # until rank 0 has fetched the text and opened the directory
    tokens = prepare_each(study.datasets, offline=options.offline, say=listener.say)
    facts = joined_facts({name: each.facts for name, each in tokens.items()})
    expanded = study.expand(facts)
    compiled = uses_compiled_kernels(options, expanded, device, listener.say)
    step_times = _step_times(
        paths,
        study,
        options,
        ranks,
        lambda: StepTimes(device, compiled, widths(expanded, stack_width(options, expanded, device, facts))),
    )
    study = study.resolved(facts, step_times)
    results = StudyResults(paths, study, facts)
    for config in results.configs:
        check_length(config, facts)
        ranks.rows(config)
    width = 1 if ranks.world > 1 else stack_width(options, results.configs, device, facts, results)
    executor = executor or _executor(options, study.size, device, ranks, listener.say)
    context = TrainingContext(
        StudyPaths(paths.folder.absolute()) if options.is_elsewhere else paths,
        {name: each.folder.absolute() for name, each in tokens.items()},
        device,
        executor.threads,
        compiled,
        width,
        ranks.world,
        is_shuffled(study),
        kept_steps(results.configs),
        runs_alike(results.configs, width, ranks.world),
        executor.name,
        options.is_elsewhere,
        options.accept_other_numerics,
        scratch_folder(options, paths.folder, ranks.world),
    )
    if ranks.rank:
        for level in dependency_levels(results.configs):
            if ranks.any(should_stop()):
                break
            ranks.barrier()  # until rank 0 has copied what others trained
            stacks = plan_stacks(results, 1, level)
            ranks.barrier()
            executor.run(stacks, context, listener.emit, should_stop)
        return results
    with owned(paths):
        missing = [config for config in results.configs if is_missing(results, config)]
        cap = DiskCap(results, missing, runs_at_once(options, results.configs, device, width), listener)
        _check_space(paths, missing, study.disk)
        if not options.accept_other_numerics and not options.is_elsewhere:  # there each node compares its own
            refuse_changed_numerics(context, missing)
        if step_times is not None:
            step_times.keep(paths)
        open_directory(results, tokens, torch.device("cpu") if options.is_elsewhere else device, listener.say)
        ranks.barrier()
        if len(missing) < len(results.configs):
            listener.say(f"{len(results.configs) - len(missing)} of {len(results.configs)} runs are finished already")
        cap.make_room()
        listener.begin(missing, list(study.varied))
        for level in dependency_levels(results.configs):
            if ranks.any(should_stop()):  # else workers would start only to stop again
                break
            unbegun = [config for config in level if config in missing]
            start_from_forks(context, results, unbegun, listener.say, should_stop)
            drop_kept(results, listener.say)
            ranks.barrier()
            stacks = plan_stacks(results, width, unbegun)
            ranks.barrier()  # before training changes the files that the others plan by
            executor.run(stacks, context, cap.emit, should_stop)
        drop_kept(results, listener.say)
        missing = [config for config in results.configs if is_missing(results, config)]
        if should_stop() and missing:  # without a summary, which `isoloss report` can write at any time
            raise Interrupted("stopped; everything so far is saved, the same command continues")
        try:
            table = results.summary()
            write_summary(results, table)
        except StoreError:
            _check_space(paths, missing, study.disk)  # a clearer message, if that is the reason
            raise
        _write_samples(results, table, listener.say)
    if set(table["status"]) == {"failed"}:
        reason = results.status(table["run_id"][0]).reason
        raise AllFailedError(f"{counted(len(table), 'run')} of {paths.folder} failed, all of them: {reason}")
    return results


def _step_times(
    paths: StudyPaths, study: Study, options: RunOptions, ranks: Ranks, make: Callable[[], StepTimes]
) -> StepTimes | None:
    """What horizons in seconds follow from, as it was when the study began; None where budgets are others.

    Raises ConfigError for several ranks, which would each measure their own, and for other machines.
    """
    if study.budgets is None or study.budgets.kind != "seconds":
        return None
    if options.is_elsewhere:
        raise ConfigError(f"budgets: seconds are measured where the study trains, which --on {options.on} leaves open")
    if ranks.world > 1:
        raise ConfigError("budgets: seconds are those of one process; state max_iters to train over several ranks")
    step_times = make()
    step_times.recall(paths)
    return step_times


def _check_space(paths: StudyPaths, missing: Sequence[RunConfig], cap: int | None) -> None:
    """Raises StoreError if the disk has no room for the missing runs, or for what of it the study may keep.

    What partial runs hold already counts as free.
    """
    spare = max((2 * checkpoint_bytes(config) for config in missing), default=0)  # while one replaces another
    kept = kept_steps(missing)
    spare += sum(2 * checkpoint_bytes(config) * len(kept.get(run_id(config), ())) for config in missing)
    needed = sum(map(disk_bytes, missing)) + spare
    with reading(paths.folder):
        held = sum(bytes_in(paths.run(run_id(config)).folder) for config in missing)
        free = shutil.disk_usage(paths.folder).free
        more = needed - held if cap is None else min(needed - held, cap - bytes_in(paths.folder))
    if more > free:
        raise StoreError(
            f"{paths.folder} has {free / 1e6:,.1f} MB free, what is left of the study needs about "
            f"{more / 1e6:,.1f}; free some space, then the same command continues, or choose another --out"
        )


def uses_compiled_kernels(
    options: RunOptions,
    configs: Sequence[RunConfig],
    device: torch.device,
    say: Callable[[str], None] = lambda line: None,
) -> bool:
    """Whether to train with compiled kernels. It follows from the whole study, not from the runs still missing."""
    if options.compile == "off" or device.type not in ("cpu", "cuda"):
        return False
    if device.type == "cuda":
        return triton_kernels(say)
    repaid = sum(map(train_flops, configs)) >= MIN_COMPILE_FLOPS
    return (options.compile == "on" or repaid) and compiled_kernels(say)


def _executor(
    options: RunOptions, runs: int, device: torch.device, ranks: Ranks, say: Callable[[str], None]
) -> Executor:
    """Processes, one a core or a GPU; in this process for a study of one run on a CPU and for several ranks.

    It follows from the whole study, not from the runs still missing: a run is resumed with the threads it began with.
    """
    if options.is_elsewhere:
        return engine(options, device)
    on_cpu, cores = device.type == "cpu", available_cores()
    workers = worker_count(options, device)
    if on_cpu and workers > cores:
        say(f"--workers {workers} on {cores} cores: workers will wait for each other")
    if ranks.world > 1 or (on_cpu and runs == 1 and options.workers is None):
        return Inline(ranks)
    if not on_cpu:
        return Processes(workers, resolve_devices(options.device))
    if runs < workers:
        say(f"{runs} runs for {workers} workers: {workers - runs} will stay idle, a run uses one core")
    return Processes(workers)


def _write_samples(results: StudyResults, table: pl.DataFrame, say: Callable[[str], None]) -> None:
    """Write samples of the best runs; one that cannot be sampled is reported in a line and skipped.

    On the CPU: this process uses no GPU that its workers train on.
    """
    for run in ranked_runs(table)["run_id"].head(REPORT_RUNS):
        paths = results.paths.run(run)
        try:
            if not path_exists(paths.samples):
                write_report_samples(results, paths, torch.device("cpu"))
        except IsolossError as error:
            say(f"no samples of run {run}: {error}")
