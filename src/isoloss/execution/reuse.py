"""Runs that are, up to their end, the first steps of a longer one: trained once, the longer one goes on from there."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from isoloss.execution.resuming import other_numerics
from isoloss.execution.workplace import Workplace
from isoloss.files import write_text
from isoloss.spec.config import RunConfig
from isoloss.spec.identity import run_id
from isoloss.spec.prefixes import prefix_groups
from isoloss.store.run import RunStatus, create_run, read_status, write_status
from isoloss.store.tables import StudyResults
from isoloss.training import checkpoint

CONTINUES = "continues"
"""Key of a run's provenance: the run whose end it went on from."""


def predecessors(configs: Sequence[RunConfig]) -> dict[str, RunConfig]:
    """By run id, the run that trains this one's first steps, for all that have one: the longest of those.

    A run that ends between two evaluations of the longer one has a row and perhaps a best loss that the longer one
    would not have; it is no predecessor.
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


def waves(configs: Sequence[RunConfig]) -> list[list[RunConfig]]:
    """The runs in the order of their predecessors; nearly every study is one wave."""
    before, depth = predecessors(configs), {}
    for config in sorted(configs, key=lambda config: config.max_iters):
        earlier = before.get(run_id(config))
        depth[run_id(config)] = 0 if earlier is None else depth[run_id(earlier)] + 1
    levels = range(max(depth.values()) + 1)
    return [[config for config in configs if depth[run_id(config)] == level] for level in levels]


def adopt(place: Workplace, results: StudyResults, configs: Sequence[RunConfig]) -> None:
    """Let runs that have not begun go on from where their predecessors ended, as if they had trained so far themselves.

    A predecessor that was trained under other numerics is none: such a run trains its first steps itself.
    Raises StoreError or NumericsError when a predecessor's files cannot be read.
    """
    before = predecessors(results.configs)
    for config in configs:
        earlier = before.get(run_id(config))
        target = results.paths.run(run_id(config))
        if earlier is None or (target.folder / "last.json").exists():
            continue
        source = results.paths.run(run_id(earlier))
        if read_status(source).state != "done" or other_numerics(place, earlier):
            continue
        create_run(target, config)
        for name in ("metrics", "evals"):
            write_text(getattr(target, name), getattr(source, name).read_text(encoding="utf-8"))
        for name in ("best", "last"):  # `last` makes the run one that has begun, so it comes last
            state = checkpoint.load(source.folder, name)
            beside = checkpoint.beside_of(source.folder, name)
            checkpoint.save(target.folder, name, replace(state, config=config), beside)
        reason = f"continues run {run_id(earlier)} from step {earlier.max_iters}"
        write_status(target, RunStatus("pending", reason, provenance={CONTINUES: run_id(earlier)}))
