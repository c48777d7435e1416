"""Reuse of shared beginnings: what one run trains of another's first steps is copied when the other begins."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Sequence
from dataclasses import replace

from isoloss.design.trunks import Fork, forks
from isoloss.errors import IsolossError
from isoloss.execution.context import TrainingContext
from isoloss.execution.run_locks import record_state
from isoloss.files import path_exists, read_bytes, write_bytes
from isoloss.locks import locked
from isoloss.store.layout import RunPaths
from isoloss.store.records import CONTINUES, CONTINUES_FROM, NUMERICS
from isoloss.store.run import FINISHED, MAX_ROWS_BYTES, NOTHING, ROWS, create_run, extents, read_status
from isoloss.store.tables import StudyResults
from isoloss.study.config import RunConfig
from isoloss.study.identity import run_id
from isoloss.training import checkpoint, kept_states
from isoloss.training.numerics import differences


def predecessors(configs: Sequence[RunConfig]) -> dict[str, RunConfig]:
    """By run id, the run at whose end each run goes on, if any."""
    return {run: fork.source for run, fork in forks(configs).items() if fork.at_end}


def kept_steps(configs: Sequence[RunConfig]) -> dict[str, frozenset[int]]:
    """By run id, the steps at which its state is kept for runs that leave it there."""
    found: dict[str, set[int]] = defaultdict(set)
    for fork in forks(configs).values():
        if not fork.at_end:
            found[run_id(fork.source)].add(fork.step)
    return {run: frozenset(steps) for run, steps in found.items()}


def start_from_forks(
    context: TrainingContext,
    results: StudyResults,
    configs: Sequence[RunConfig],
    say: Callable[[str], None],
    should_stop: Callable[[], bool],
) -> None:
    """Copy what others trained of them into runs that have not begun: state, best state so far and rows.

    A run whose first steps were trained under other numerics trains them itself; likewise, with a line that says why,
    where the other's files are damaged.
    """
    aside = forks([*results.configs, *results.set_aside]) if results.set_aside else {}
    leaves = {run: fork for run, fork in aside.items() if fork.at_end} | forks(results.configs)
    for config in configs:
        fork = leaves.get(run_id(config))
        if fork is None:
            continue
        if should_stop():
            return
        try:
            _start_from(context, config, fork)
        except IsolossError as error:
            say(f"run {run_id(config)} trains its first steps itself: {error}")


def drop_kept(results: StudyResults, say: Callable[[str], None]) -> None:
    """Remove the states that were kept for runs which have all begun, or which the study no longer has.

    A line says where one cannot be removed: nothing depends on it.
    """
    waiting = {
        (run_id(fork.source), fork.step)
        for run, fork in forks(results.configs).items()
        if not _has_begun(results.paths.run(run))
    }
    for config in [*results.configs, *results.set_aside]:
        run, folder = run_id(config), results.paths.run(run_id(config)).folder
        try:
            for step in kept_states.steps_kept(folder):
                if (run, step) not in waiting:
                    kept_states.drop_states(folder, step)
        except IsolossError as error:
            say(f"{folder} holds states that nothing needs: {error}")


def _has_begun(run: RunPaths) -> bool:
    """Whether a run goes on from a checkpoint of its own, or has ended, with its last one dropped or not."""
    return path_exists(run.folder / "last.json") or read_status(run).state in FINISHED


def _start_from(context: TrainingContext, config: RunConfig, fork: Fork) -> None:
    target, source = context.study.run(run_id(config)), context.study.run(run_id(fork.source))
    with locked(target.lock, 0, lambda: f"{target.folder} is being written by another process"):
        if _has_begun(target):
            return
        if fork.at_end and read_status(source).state != "done":
            return
        names = {"best": "best", "last": "last"} if fork.at_end else kept_states.names_at(fork.step)
        if not fork.at_end and not path_exists(source.folder / f"{names['last']}.json"):
            return  # it ended before it came there
        states = {name: checkpoint.load(source.folder, kept) for name, kept in names.items()}
        metadata = checkpoint.read_metadata(source.folder, names["last"])
        numerics, rows = metadata.get(NUMERICS), extents(metadata.get("rows", {}))
        if not numerics:
            return
        if not context.elsewhere and differences(numerics[-1], context.numerics(config.precision)):
            return
        create_run(target, config)
        for name in ROWS:
            content = read_bytes(source.rows(name), MAX_ROWS_BYTES)
            write_bytes(target.rows(name), content[: rows.get(name, NOTHING).size])
        for name in ("best", "last"):  # `last` marks the run as begun, so it is written last
            beside = checkpoint.read_metadata(source.folder, names[name])
            beside = {**beside, CONTINUES: run_id(fork.source), CONTINUES_FROM: fork.step}
            checkpoint.save(target.folder, name, replace(states[name], config=config), beside)
        record_state(target, "pending", f"continues run {run_id(fork.source)} from step {fork.step:,}")
