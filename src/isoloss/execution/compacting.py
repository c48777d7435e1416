"""Compacting: finished runs keep the weights of their checkpoints, or of the best alone, and take less disk."""

from __future__ import annotations

from collections import Counter
from contextlib import nullcontext
from dataclasses import dataclass
from typing import Literal

from isoloss.errors import NumericsError, StoreError
from isoloss.files import bytes_in, reading, remove_temporary_files
from isoloss.store.layout import RunPaths
from isoloss.store.owner import owned
from isoloss.store.run import FINISHED, verified_status
from isoloss.store.tables import StudyResults
from isoloss.study.identity import run_id
from isoloss.training import compacted

Keep = Literal["weights", "best_weights"]
"""What finished runs keep of their checkpoints: the weights of the best and the last, or of the best alone.

A last one that is the best takes no disk, and stays."""


@dataclass(frozen=True)
class Compacted:
    """What compacting a study came to: bytes of the folders of its `finished` runs before and after.

    `unfinished` counts the others by their state, `refused` has by run id why a finished one could not be compacted.
    """

    finished: int
    before: int
    after: int
    unfinished: Counter[str]
    refused: dict[str, str]


def compact_study(results: StudyResults, keep: Keep = "weights", *, dry_run: bool = False) -> Compacted:
    """Compact the finished runs of a study, set aside or not; a `dry_run` tells what that would come to.

    Interrupted, it may be called again: every run is compacted or as it was. Raises StoreError when another process
    runs the study.

    Example: `compact_study(load_study("results/width")).after`
    """
    before = after = finished = 0
    unfinished, refused = Counter[str](), dict[str, str]()
    with nullcontext() if dry_run else owned(results.paths):
        for config in (*results.configs, *results.set_aside):
            paths = results.paths.run(run_id(config))
            status, held = verified_status(paths), bytes_in(paths.folder)
            if status.state not in FINISHED:
                unfinished[status.state] += 1
                continue
            finished, before = finished + 1, before + held
            try:
                freed = _freed_by(paths, keep) if dry_run else compact_run(paths, keep)
            except (NumericsError, StoreError) as error:
                freed, refused[run_id(config)] = held - bytes_in(paths.folder), str(error)
            after += held - freed
    return Compacted(finished, before, after, unfinished, refused)


def compact_run(paths: RunPaths, keep: Keep) -> int:
    """Compact a finished run, and return the bytes that were freed. The caller owns the study.

    Nobody else writes a finished run: its writer closed its files before its status said so. Raises NumericsError or
    StoreError where its checkpoints are damaged or the disk refuses; it is then as it was, or done in part.
    """
    held = bytes_in(paths.folder)
    remove_temporary_files(paths.folder)
    if keep == "best_weights" and "best" in compacted.kept_by(paths.folder):
        compacted.drop_last(paths.folder)  # first, which leaves a full disk with room for the weights
    compacted.drop_moments(paths.folder)
    return held - bytes_in(paths.folder)


def _freed_by(paths: RunPaths, keep: Keep) -> int:
    """Bytes of tensors that compacting a run would free. Raises likewise."""
    names = compacted.kept_by(paths.folder)[: 1 if keep == "best_weights" else None]
    left = {compacted.weights_content(paths.folder, name) for name in names}
    with reading(paths.folder):
        held = {(facts := path.stat()).st_ino: facts.st_size for path in paths.folder.glob("*.safetensors")}
    return sum(held.values()) - sum(map(len, left))
