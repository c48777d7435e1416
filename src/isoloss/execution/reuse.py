"""Reuse of shared first steps: a run that is a prefix of a longer one is trained once, the longer continues from it."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace

from isoloss.design.prefixes import prefix_groups
from isoloss.errors import IsolossError
from isoloss.execution.context import TrainingContext
from isoloss.execution.resuming import numerics_changes
from isoloss.execution.worker import record_state
from isoloss.files import locked, path_exists, read_bytes, write_bytes
from isoloss.store.records import CONTINUES
from isoloss.store.run import MAX_ROWS_BYTES, ROWS, create_run, read_status
from isoloss.store.tables import StudyResults
from isoloss.study.config import RunConfig
from isoloss.study.identity import run_id
from isoloss.training import checkpoint


def predecessors(configs: Sequence[RunConfig]) -> dict[str, RunConfig]:
    """By run id, each run's predecessor, if any: the longest other run that is a prefix of it.

    A run that ends between two evaluations of the longer one has an evaluation, and perhaps a best loss, that the
    longer one would not have; it is no predecessor.
    """
    found: dict[str, RunConfig] = {}
    for group in prefix_groups(configs):
        before: RunConfig | None = None
        for config in group:
            if before is not None:
                found[run_id(config)] = before
            if config.max_iters % config.eval_interval == 0 or config.max_iters == group[-1].max_iters:
                before = config
    return found


def dependency_levels(configs: Sequence[RunConfig]) -> list[list[RunConfig]]:
    """The runs by the number of their predecessors' predecessors; most studies have one level."""
    before, depth = predecessors(configs), {}
    for config in sorted(configs, key=lambda config: config.max_iters):
        earlier = before.get(run_id(config))
        depth[run_id(config)] = 0 if earlier is None else depth[run_id(earlier)] + 1
    levels = range(max(depth.values()) + 1)
    return [[config for config in configs if depth[run_id(config)] == level] for level in levels]


def start_from_predecessors(
    context: TrainingContext,
    results: StudyResults,
    configs: Sequence[RunConfig],
    say: Callable[[str], None],
    should_stop: Callable[[], bool],
) -> None:
    """Copy the last checkpoint and rows of each run's predecessor into runs that have not begun.

    Where the predecessor was trained under other numerics the run trains its first steps itself; likewise, with a line
    that says why, where the predecessor's files are damaged.
    """
    before = predecessors([*results.configs, *results.set_aside])
    for config in configs:
        earlier = before.get(run_id(config))
        if earlier is None:
            continue
        if should_stop():
            return
        try:
            _start_from_predecessor(context, config, earlier)
        except IsolossError as error:
            say(f"run {run_id(config)} trains its first steps itself: {error}")


def _start_from_predecessor(context: TrainingContext, config: RunConfig, earlier: RunConfig) -> None:
    target, source = context.study.run(run_id(config)), context.study.run(run_id(earlier))
    with locked(target.lock, 0, lambda: f"{target.folder} is being written by another process"):
        if path_exists(target.folder / "last.json") or read_status(source).state != "done":
            return
        if numerics_changes(context, earlier):
            return
        states = {name: checkpoint.load(source.folder, name) for name in ("best", "last")}
        create_run(target, config)
        for name in ROWS:
            write_bytes(target.rows(name), read_bytes(source.rows(name), MAX_ROWS_BYTES))
        for name, state in states.items():  # `last` marks the run as begun, so it is written last
            metadata = {**checkpoint.read_metadata(source.folder, name), CONTINUES: run_id(earlier)}
            checkpoint.save(target.folder, name, replace(state, config=config), metadata)
        record_state(target, "pending", f"continues run {run_id(earlier)} from step {earlier.max_iters}")
