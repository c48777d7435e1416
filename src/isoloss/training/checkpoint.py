"""Checkpoints: a run's whole state in safetensors with a JSON sidecar, verified, and replaced atomically.

A checkpoint is a pair `NAME.safetensors`, `NAME.json`; the sidecar holds the tensors' SHA-256, so a pair torn by a
crash between its two renames is recognised. Before `last` is replaced it is kept as `previous`, so that at every
instant one pair is whole. A checkpoint without moments has a second SHA-256 in its sidecar, that of its weights alone.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from pydantic import TypeAdapter
from safetensors import SafetensorError
from safetensors import torch as safetensors_torch

from isoloss.errors import ConfigError, NumericsError, StoreError, UnreadableError
from isoloss.files import (
    path_exists,
    read_bytes,
    read_record,
    sha256_bytes,
    sync_folder,
    unreadable,
    write_bytes,
    write_record,
    writing,
)
from isoloss.model.parameters import Layout, layout_of
from isoloss.study.compute import checkpoint_bytes
from isoloss.study.config import RunConfig, recorded_config
from isoloss.study.identity import run_id
from isoloss.study.parts import optimizer_of
from isoloss.training.state import MemberState, Progress, Weights

Metadata = Mapping[str, Any]
"""Plain values saved with a checkpoint: extents of its rows, numerics, the runs it was stacked with."""
Check = Callable[[Metadata], None]
"""Raises StoreError when a checkpoint's metadata no longer match the files of its run."""
FORMAT_VERSION = 2
METADATA_KEY = "beside"
"""Key of the metadata in a checkpoint's sidecar; a new name would be a new format."""
WEIGHTS_KEY = "weights_sha256"
"""Key, in the sidecar of a checkpoint without moments, of the SHA-256 of its weights' file."""
MAX_HEADER_BYTES = 1024
"""More than a safetensors header takes for one tensor."""
NEXT_BEST = "next-best"
WEIGHTS, AVERAGE = "model", "ema"
"""Prefixes of the names of weights in the file and of their average; those of moments have the moment's name."""
_PROGRESS = TypeAdapter(Progress)


def save_last(folder: Path, state: MemberState, metadata: Metadata | None = None) -> None:
    """Make `state` the run's `last` checkpoint and, if it is the best so far, its `best`. Raises StoreError."""
    if path_exists(folder / "last.json"):
        link(folder, "last", "previous")
    save(folder, "last", state, metadata)
    promote_best(folder, state)


def promote_best(folder: Path, state: MemberState) -> None:
    """Let `best` be the `last` just written, where it is the best so far. Raises StoreError."""
    if state.progress.best_step == state.progress.step == state.progress.evaluated_step:
        link(folder, "last", "best")


def save_best(folder: Path, state: MemberState, metadata: Metadata | None = None) -> None:
    """Make `state`, from before the next `last`, the run's `best`. Raises StoreError.

    Both files of a pair cannot be replaced at once: whoever opens the run after a crash calls `finish_best`.
    """
    save(folder, NEXT_BEST, state, metadata)
    finish_best(folder)


def finish_best(folder: Path) -> None:
    """Let `best` be what was written to become it, if it was written whole. Raises StoreError."""
    if path_exists(folder / f"{NEXT_BEST}.json"):
        link(folder, NEXT_BEST, "best")
    if path_exists(folder / f"{NEXT_BEST}.safetensors"):
        remove(folder, NEXT_BEST)


def drop_previous(folder: Path) -> None:
    """Remove the safety copy of a run that has ended."""
    remove(folder, "previous")


@dataclass(frozen=True)
class Resumed:
    """What a run continues from: a state, or None to begin anew; `problem` is why it is not the last one saved."""

    state: MemberState | None
    metadata: Metadata
    problem: str = ""


def resume(folder: Path, check: Check = lambda metadata: None) -> Resumed:
    """What to continue from: `last`, else `previous` where `last` is torn or damaged, else nothing.

    Where neither is valid and passes the check, both are removed. The one found becomes `last`. Raises UnreadableError,
    with nothing changed, when a checkpoint cannot be read now; StoreError when the folder cannot be written.
    """
    problems: list[str] = []
    for name in ("last", "previous"):
        if not path_exists(folder / f"{name}.json"):
            continue
        try:
            state, metadata = load(folder, name), read_metadata(folder, name)
            check(metadata)
        except UnreadableError:
            raise
        except (NumericsError, StoreError) as error:
            problems.append(str(error))
            continue
        if name == "previous":
            link(folder, "previous", "last")
            problems.append(f"continuing from step {state.progress.step:,}")
        return Resumed(state, metadata, "; ".join(problems))
    begin_anew(folder)
    return Resumed(None, {}, "; ".join([*problems, "training it from the start"]) if problems else "")


def begin_anew(folder: Path) -> None:
    """Remove what a run would continue from. Raises StoreError."""
    for name in ("last", "previous"):
        remove(folder, name)


def step_back(folder: Path, step: int, check: Check) -> Resumed:
    """Make `previous` the `last` again, if it is valid and at this step; else change nothing and return no state.

    Raises UnreadableError as `resume` does, StoreError when the folder cannot be written.
    """
    try:
        state, metadata = load(folder, "previous"), read_metadata(folder, "previous")
        check(metadata)
    except UnreadableError:
        raise
    except (NumericsError, StoreError) as error:
        return Resumed(None, {}, str(error))
    if state.progress.step != step:
        return Resumed(None, {}, f"{folder}: no checkpoint of step {step:,}")
    link(folder, "previous", "last")
    return Resumed(state, metadata)


def load(folder: Path, name: str) -> MemberState:
    """One checkpoint, verified against its sidecar, to go on training from.

    Raises StoreError or NumericsError for one that is missing, damaged or without moments, UnreadableError for one not
    readable now.
    """
    found = load_weights(folder, name)
    if not isinstance(found, MemberState):
        raise StoreError(f"{folder / name}.safetensors: compacted, it has no optimizer moments to go on from")
    return found


def load_weights(folder: Path, name: str) -> Weights:
    """One checkpoint, verified likewise: a MemberState, unless its moments were dropped. Raises as `load`."""
    tensors_path, sidecar = folder / f"{name}.safetensors", read_record(folder / f"{name}.json")
    if (version := sidecar.get("format_version")) != FORMAT_VERSION:
        raise NumericsError(f"{tensors_path}: checkpoint format {version}, expected {FORMAT_VERSION}")
    try:
        config = recorded_config(sidecar["config"])
        if sidecar["run_id"] != run_id(config):
            raise ValueError(f"it says run {sidecar['run_id']}, its configuration is that of run {run_id(config)}")
        progress, layout = _progress(sidecar["progress"], config), layout_of(config)
        names = (WEIGHTS, *optimizer_of(config.optimizer).moments, *([AVERAGE] if config.ema else []))
        content = read_bytes(tensors_path, checkpoint_bytes(config) + MAX_HEADER_BYTES * len(names) * len(layout.slots))
        digest, compacted = sha256_bytes(content), WEIGHTS_KEY in sidecar
        if digest not in (sidecar.get("sha256"), sidecar.get(WEIGHTS_KEY)):
            if read_record(folder / f"{name}.json") != sidecar:  # replaced or compacted between the two readings
                return load_weights(folder, name)
            raise ValueError("not the file its sidecar describes (damaged or half written)")
        tensors = safetensors_torch.load(content)
        in_file = names if digest == sidecar.get("sha256") else (WEIGHTS,)
        _check_shapes(tensors, layout, in_file)  # before memory is taken for the configuration's size
        flats = {
            name: layout.join({slot.name: tensors[f"{name}.{slot.name}"] for slot in layout.slots})
            for name in ((WEIGHTS,) if compacted else names)
        }
    except (ConfigError, KeyError, TypeError, ValueError, SafetensorError) as error:
        raise NumericsError(f"{tensors_path}: not a checkpoint of this format: {error}") from error
    except (MemoryError, RuntimeError) as error:  # the allocator's: the content has been checked
        raise unreadable(tensors_path, error) from error
    flat_P, average_P = flats.pop(WEIGHTS), flats.pop(AVERAGE, None)
    return Weights(config, progress, flat_P) if compacted else MemberState(config, progress, flat_P, flats, average_P)


def _progress(value: Mapping[str, Any], config: RunConfig) -> Progress:
    """Progress from plain values. Raises ValueError when they cannot be this run's."""
    progress = _PROGRESS.validate_python(value)
    if asdict(progress) != value:
        raise ValueError("its progress is not what a checkpoint states")
    if not max(progress.updates, progress.evaluated_step, progress.best_step or 0) <= progress.step <= config.max_iters:
        raise ValueError(f"its progress contradicts itself: step {progress.step} of {config.max_iters}")
    return progress


def _check_shapes(tensors: Mapping[str, torch.Tensor], layout: Layout, parts: Iterable[str]) -> None:
    """Raises ValueError when the tensors are not, by name, shape and type, those of this layout."""
    expected = {f"{prefix}.{slot.name}": slot.shape for prefix in parts for slot in layout.slots}
    if {name: tuple(tensor.shape) for name, tensor in tensors.items()} != expected:
        raise ValueError("its tensors are not those of its configuration")
    if any(tensor.dtype != torch.float32 for tensor in tensors.values()):
        raise ValueError("its tensors are not all of type fp32")


def save(folder: Path, name: str, state: MemberState, metadata: Metadata | None = None) -> None:
    """Write one checkpoint, tensors before their sidecar. Raises StoreError."""
    average = {} if state.average_P is None else {AVERAGE: state.average_P}
    content = content_of(state.config, {WEIGHTS: state.flat_P, **state.moments, **average})
    write_bytes(folder / f"{name}.safetensors", content)
    sidecar = {
        "format_version": FORMAT_VERSION,
        "sha256": sha256_bytes(content),
        "run_id": run_id(state.config),
        "config": state.config.model_dump(),
        "progress": asdict(state.progress),
        METADATA_KEY: metadata or {},
    }
    write_record(folder / f"{name}.json", sidecar)


def content_of(config: RunConfig, flats: Mapping[str, torch.Tensor]) -> bytes:
    """The file of some flat tensors; as bytes, for safetensors' own writing hides the error of the file system."""
    layout = layout_of(config)
    tensors: dict[str, torch.Tensor] = {
        f"{name}.{key}": tensor.contiguous()
        for name, flat_P in flats.items()
        for key, tensor in layout.split(flat_P.detach().cpu()).items()
    }
    return safetensors_torch.save(tensors)


def remove(folder: Path, name: str) -> None:
    """Remove one checkpoint, if it is there. Raises StoreError."""
    for suffix in (".json", ".safetensors"):
        with writing(folder / f"{name}{suffix}"):
            (folder / f"{name}{suffix}").unlink(missing_ok=True)


def link(folder: Path, source: str, target: str) -> None:
    """Make checkpoint `target` the same as `source`, by hard links where the file system has them."""
    for suffix in (".safetensors", ".json"):
        link_file(folder / f"{source}{suffix}", folder / f"{target}{suffix}")
    with writing(folder):
        sync_folder(folder)


def link_file(source: Path, target: Path) -> None:
    """Replace a file by another of its folder: a hard link where the file system has them, else a copy."""
    temporary = target.with_name(f".{target.name}.tmp")
    with writing(target):
        temporary.unlink(missing_ok=True)
        try:
            os.link(source, temporary)
        except OSError:
            write_bytes(target, source.read_bytes())
        else:
            temporary.replace(target)
            temporary.unlink(missing_ok=True)  # a rename onto another name of the same file leaves both


def read_metadata(folder: Path, name: str) -> Metadata:
    """The metadata saved with a checkpoint. Raises StoreError."""
    return read_record(folder / f"{name}.json").get(METADATA_KEY, {})
