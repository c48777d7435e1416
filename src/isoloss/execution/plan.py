"""What is left to train, packed into stacks: longest first, or in shuffled order where a study claims a time."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from isoloss.files import sha256_bytes
from isoloss.store.layout import RunPaths
from isoloss.store.run import FINISHED, last_sidecar, verified_status
from isoloss.store.tables import StudyResults
from isoloss.study.compute import flops_per_token, tokens_per_step
from isoloss.study.config import RunConfig
from isoloss.study.hypotheses import claims_time
from isoloss.study.identity import run_id
from isoloss.study.stacking import shape_key
from isoloss.study.study import Study

Stack = tuple[RunConfig, ...]
"""Runs trained together in one program: equal in shape, and in the step they continue from but for a kill."""

STACKED_WITH = "stack"
"""Key, in a checkpoint's metadata, of the ids of the runs it was stacked with, in their order: they stay together."""


@dataclass(frozen=True)
class Point:
    """Where a run's `last` checkpoint stands: its step, and the runs it was trained with."""

    step: int = 0
    stacked_with: tuple[str, ...] = ()


def is_missing(results: StudyResults, config: RunConfig) -> bool:
    """Whether a run is still to be trained. Failed runs are tried again; a divergence would only repeat itself."""
    return verified_status(results.paths.run(run_id(config))).state not in FINISHED


def plan_stacks(results: StudyResults, width: int, among: Sequence[RunConfig] | None = None) -> list[Stack]:
    """Stacks of at most `width` runs that cover what is missing (of `among`).

    They come in the study's order; in that of seeds, no stack has runs of two. A study that claims a time has them
    shuffled, so that no level has its hour of the day: `is_shuffled`.
    """
    configs = results.configs if among is None else among
    if results.study.order == "seeds" and not is_shuffled(results.study):
        of_seeds = ([c for c in configs if c.seed == seed] for seed in results.study.seeds)
        return [stack for of_seed in of_seeds for stack in _longest_first(results, width, of_seed)]
    if is_shuffled(results.study):
        return sorted(_longest_first(results, width, configs), key=_shuffled)
    return _longest_first(results, width, configs)


def _longest_first(results: StudyResults, width: int, configs: Sequence[RunConfig]) -> list[Stack]:
    """Those with most FLOPs left come first, which keeps all workers busy to the end."""
    missing = {run_id(config): config for config in configs if is_missing(results, config)}
    points = {run: resume_point(results.paths.run(run)) for run in missing}
    stacks: list[tuple[float, Stack]] = []
    for runs in _groups(missing, points):
        for first in range(0, len(runs), width):
            part = runs[first : first + width]
            stack = tuple(missing[run] for run in part)
            stacks.append((_flops_left(stack, min(points[run].step for run in part)), stack))
    return [stack for _, stack in sorted(stacks, key=lambda item: -item[0])]


def is_shuffled(study: Study) -> bool:
    """Whether a study's stacks are trained in shuffled order."""
    return study.order == "shuffled" or claims_time(study.hypotheses)


def _shuffled(stack: Stack) -> str:
    return sha256_bytes(" ".join(map(run_id, stack)).encode())


def resume_point(paths: RunPaths) -> Point:
    """Where a run goes on, the beginning without a checkpoint. Raises UnreadableError."""
    sidecar = last_sidecar(paths)
    return Point(sidecar["progress"]["step"], tuple(sidecar["beside"].get(STACKED_WITH, ()))) if sidecar else Point()


def _groups(missing: Mapping[str, RunConfig], points: Mapping[str, Point]) -> Iterator[list[str]]:
    """Runs that may be stacked: what was trained together so far, in its order; of the rest, what is alike.

    A kill between the checkpoints of a stack leaves its runs at different steps, and the latest record of who stood
    in it with those that are ahead.
    """
    taken: set[str] = set()
    for run in sorted(missing, key=lambda run: -points[run].step):
        if run in points[run].stacked_with and run not in taken:
            shape = shape_key(missing[run])
            left = [one for one in dict.fromkeys(points[run].stacked_with) if one in missing and one not in taken]
            group = [one for one in left if shape_key(missing[one]) == shape]
            taken.update(group)
            yield group
    alike: dict[tuple[Any, ...], list[str]] = defaultdict(list)
    for run, config in missing.items():
        if run not in taken:
            alike[shape_key(config), points[run].step].append(run)
    for group in alike.values():
        yield sorted(group, key=lambda run: -missing[run].max_iters)


def _flops_left(stack: Sequence[RunConfig], step: int) -> float:
    return sum((config.max_iters - step) * tokens_per_step(config) * flops_per_token(config) for config in stack)
