"""What is left to train, packed into stacks, longest first."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from typing import Any

from isoloss.errors import StoreError
from isoloss.files import read_record
from isoloss.spec.compute import flops_per_token, tokens_per_step
from isoloss.spec.config import RunConfig, shape_key
from isoloss.spec.identity import run_id
from isoloss.store.layout import RunPaths
from isoloss.store.run import verified_status
from isoloss.store.tables import StudyResults

Stack = tuple[RunConfig, ...]
"""Runs trained together in one program: equal in shape and in the step they continue from."""


def is_missing(results: StudyResults, config: RunConfig) -> bool:
    """Whether a run is still to be trained. Failed runs are tried again; a divergence would only repeat itself."""
    return verified_status(results.paths.run(run_id(config))).state not in ("done", "diverged")


def plan_stacks(results: StudyResults, width: int, among: Sequence[RunConfig] | None = None) -> list[Stack]:
    """Stacks of at most `width` runs that cover what is missing (of `among`), those with most FLOPs left first."""
    together: dict[tuple[Any, ...], list[RunConfig]] = defaultdict(list)
    for config in results.configs if among is None else among:
        if is_missing(results, config):
            together[shape_key(config), resume_step(results.paths.run(run_id(config)))].append(config)
    stacks: list[tuple[float, Stack]] = []
    for (_, step), configs in together.items():
        configs.sort(key=lambda config: -config.max_iters)
        for first in range(0, len(configs), width):
            stack = tuple(configs[first : first + width])
            stacks.append((_flops_left(stack, step), stack))
    return [stack for _, stack in sorted(stacks, key=lambda item: -item[0])]


def resume_step(paths: RunPaths) -> int:
    """The step a run's `last` checkpoint is at, 0 without one."""
    try:
        return int(read_record(paths.folder / "last.json")["progress"]["step"])
    except (StoreError, KeyError, TypeError, ValueError):
        return 0


def _flops_left(stack: Sequence[RunConfig], step: int) -> float:
    return sum((config.max_iters - step) * tokens_per_step(config) * flops_per_token(config) for config in stack)
