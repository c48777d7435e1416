"""How many runs train in one program: what fits into an accelerator's memory, settled when a study begins."""

from __future__ import annotations

from bisect import bisect_left
from collections import Counter, defaultdict
from collections.abc import Callable, Sequence
from functools import cache
from math import ceil
from typing import Any

import torch

from isoloss.errors import ConfigError
from isoloss.execution.options import RunOptions
from isoloss.store.records import NUMERICS
from isoloss.store.run import read_status
from isoloss.store.tables import StudyResults
from isoloss.study.compute import training_memory_bytes
from isoloss.study.config import RunConfig
from isoloss.study.identity import run_id
from isoloss.study.stacking import shape_key
from isoloss.study.study_faults import too_large
from isoloss.study.texts import DataFacts
from isoloss.training.device import resolve_devices
from isoloss.training.gpus import gpu
from isoloss.training.memory import stack_memory
from isoloss.wording import size

MAX_MEMORY_SHARE = 0.9
"""Largest share of an accelerator's free memory that a stack may take: what is freed is not always of one piece."""


def stack_width(
    options: RunOptions,
    configs: Sequence[RunConfig],
    device: torch.device,
    data: DataFacts,
    begun: StudyResults | None = None,
) -> int:
    """How many runs are trained in one program, at most.

    On several GPUs no more than there are runs for each. It is part of a run's numerics. So a study that has `begun`
    on an accelerator keeps its width on any other. Raises ConfigError where a GPU has no room for the largest run.
    """
    if options.stack is not None:
        return options.stack
    if device.type != "cuda":
        return 1
    if begun is not None and (settled := _width_begun_with(begun)) is not None:
        return settled
    if options.is_elsewhere:
        raise ConfigError(
            f"--on {options.on}: this machine does not know its GPUs; state how many runs train together: --stack N",
            ("stack",),
        )
    free_bytes = gpu(device).free_bytes
    largest = max(configs, key=training_memory_bytes)
    if (needed := stack_memory([largest], data).peak) > free_bytes:
        raise too_large(
            largest, f"needs about {size(needed)} of memory, {device} ({gpu(device).name}) has {size(free_bytes)} free"
        )
    devices = len(resolve_devices(options.device))
    return min(widest(configs, data, int(free_bytes * MAX_MEMORY_SHARE)), ceil(len(configs) / devices))


def widths(configs: Sequence[RunConfig], width: int) -> Callable[[RunConfig], int]:
    """How many of these runs train in one program with a given one, at most, itself among them."""
    alike = Counter(map(shape_key, configs)) if width > 1 else Counter[object]()
    return lambda config: max(1, min(width, alike[shape_key(config)]))


def _width_begun_with(results: StudyResults) -> int | None:
    """The width that a directory's runs were planned with on an accelerator, if any has begun there."""
    for config in results.configs:
        for numerics in read_status(results.paths.run(run_id(config))).provenance.get(NUMERICS, ())[-1:]:
            if numerics.get("device") != "cpu" and isinstance(numerics.get("stack"), int):
                return numerics["stack"]
    return None


def widest(configs: Sequence[RunConfig], data: DataFacts, n_bytes: int) -> int:
    """The most runs of any shape that fit into so many bytes together, 1 at least, and no more than there are."""
    shapes: dict[tuple[tuple[str, Any], ...], list[RunConfig]] = defaultdict(list)
    for config in configs:
        shapes[shape_key(config)].append(config)
    groups = [*shapes.values()]

    @cache
    def peak(group: int, width: int) -> int:
        return stack_memory([_costliest(groups[group])] * width, data).peak

    def fits(width: int) -> bool:
        return all(peak(i, min(width, len(group))) <= n_bytes for i, group in enumerate(groups))

    most = max(map(len, groups))
    return most if fits(most) else max(1, bisect_left(range(1, most), True, key=lambda width: not fits(width)))


def _costliest(group: Sequence[RunConfig]) -> RunConfig:
    """A run that takes as much memory as any member of a stack: by its number of heads, its dropout and its average."""
    most_heads = max(group, key=lambda config: config.n_head)
    most = {name: max(getattr(config, name) for config in group) for name in ("dropout", "ema")}
    return most_heads.model_copy(update=most)
