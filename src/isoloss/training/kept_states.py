"""States of a run that are kept on its way, for runs that leave it there: each a pair of checkpoints."""

from __future__ import annotations

import re
from pathlib import Path

from isoloss.files import path_exists, read_record, reading
from isoloss.training.checkpoint import Metadata, link, remove, save
from isoloss.training.state import MemberState


def names_at(step: int) -> dict[str, str]:
    """Names of what is kept for runs that leave this one after a step: its state then, and its best so far."""
    return {"best": f"step-{step}-best", "last": f"step-{step}"}


def keep_state(folder: Path, state: MemberState, metadata: Metadata) -> None:
    """Save a state for the runs that leave this one at its step, and link its best so far. Raises StoreError.

    Nothing is kept where the best on the disk is another than the state's, after a run went back a checkpoint.
    """
    names, best_step = names_at(state.progress.step), state.progress.best_step
    if best_step in (None, state.progress.step):
        save(folder, names["last"], state, metadata)
        link(folder, names["last"], names["best"])
    elif path_exists(folder / "best.json") and read_record(folder / "best.json")["progress"]["step"] == best_step:
        link(folder, "best", names["best"])
        save(folder, names["last"], state, metadata)


def steps_kept(folder: Path) -> list[int]:
    """The steps at which states of a run are kept, whole or in part. Raises UnreadableError."""
    with reading(folder):
        names = [path.name for path in folder.glob("step-*")]
    return sorted({int(found[1]) for name in names if (found := re.match(r"step-(\d+)[-.]", name))})


def drop_states(folder: Path, step: int) -> None:
    """Remove what was kept at a step, if it is there. Raises StoreError."""
    for name in names_at(step).values():
        if path_exists(folder / f"{name}.json") or path_exists(folder / f"{name}.safetensors"):
            remove(folder, name)
