"""Checkpoints of a run that has ended without their moments, and without the last one: what frees disk."""

from __future__ import annotations

from pathlib import Path

from isoloss.files import (
    path_exists,
    read_record,
    sha256_bytes,
    sha256_file,
    sync_folder,
    write_bytes,
    write_record,
    writing,
)
from isoloss.training import checkpoint


def kept_by(folder: Path) -> list[str]:
    """Names of the checkpoints that a run which has ended keeps."""
    return [name for name in ("best", "last") if path_exists(folder / f"{name}.json")]


def weights_content(folder: Path, name: str) -> bytes:
    """The tensors' file that a checkpoint has without its moments. Raises as `checkpoint.load`."""
    weights = checkpoint.load_weights(folder, name)
    return checkpoint.content_of(weights.config, {checkpoint.WEIGHTS: weights.flat_P})


def drop_moments(folder: Path) -> None:
    """Leave the checkpoints of a run that has ended their weights alone; interrupted or not, it may be called again.

    A sidecar is written before its tensors and describes them with and without moments, so that the pair is whole at
    every instant. Checkpoints of the same weights are one file. Raises as `checkpoint.load`, and StoreError
    when the disk refuses.
    """
    written: dict[str, Path] = {}
    for name in kept_by(folder):
        path, sidecar = folder / f"{name}.safetensors", read_record(folder / f"{name}.json")
        content = weights_content(folder, name)
        digest = sha256_bytes(content)
        if sha256_file(path) == sidecar.get(checkpoint.WEIGHTS_KEY):  # dropped before
            digest = sidecar[checkpoint.WEIGHTS_KEY]
        else:
            write_record(folder / f"{name}.json", {**sidecar, checkpoint.WEIGHTS_KEY: digest})
            if digest in written:
                checkpoint.link_file(written[digest], path)
            else:
                write_bytes(path, content)
        written[digest] = path
    with writing(folder):
        sync_folder(folder)


def drop_last(folder: Path) -> None:
    """Remove the last checkpoint of a run that has ended, unless it is the best one, of which it is a link.

    Raises as `checkpoint.load` where the best one is not whole.
    """
    checkpoint.load_weights(folder, "best")
    digests = [read_record(folder / f"{name}.json").get("sha256") for name in kept_by(folder)]
    if len({*digests}) == len(digests):
        checkpoint.remove(folder, "last")
