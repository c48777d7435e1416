"""Moving a run's files in from elsewhere, whole: a kill in the middle is made good by whoever writes the run next."""

from __future__ import annotations

import os
import shutil
from pathlib import Path

from pydantic import TypeAdapter
from typing_extensions import TypedDict

from isoloss.errors import StoreError
from isoloss.files import make_folder, path_exists, sync_folder, write_record, writing
from isoloss.store.layout import RunPaths
from isoloss.store.records import read_checked


class _NamesRecord(TypedDict):
    names: list[str]


_NAMES = TypeAdapter(_NamesRecord)
_STAGED, _COPYING = ".moving", ".moving.tmp"
"""Folders beside a run's files: what is being moved in once it is whole, and before."""
_LIST = ".names.json"
"""Beside what is being moved: what the run will consist of."""


def move_in(source: RunPaths, target: RunPaths) -> None:
    """Let a run have the files of another folder, and no others; its lock must be held. Raises StoreError.

    They are copied beside it, which changes nothing; that copy is whole once it is called `.moving`. A folder without a
    status has no run's files, or no longer: nothing is moved.
    """
    if not path_exists(source.status):
        return
    staged = target.folder / _COPYING
    with writing(target.folder):
        shutil.rmtree(staged, ignore_errors=True)
        copy_run(source.folder, staged)
        for path in _files(staged):
            with path.open("rb") as stream:
                os.fsync(stream.fileno())
        write_record(staged / _LIST, {"names": [path.name for path in _files(staged)]})
        staged.replace(target.folder / _STAGED)
        sync_folder(target.folder)
    finish_moving(target)


def finish_moving(run: RunPaths) -> None:
    """Put what is being moved in into its place, the status last; its lock must be held. Raises StoreError.

    A copy that a kill left unfinished is removed. Does nothing where nothing is being moved.
    """
    staged, copying = run.folder / _STAGED, run.folder / _COPYING
    if path_exists(copying):
        with writing(copying):
            shutil.rmtree(copying)
    if not path_exists(staged):
        return
    with writing(run.folder):
        if path_exists(staged / _LIST):
            names = read_checked(_NAMES, staged / _LIST)["names"]
            for path in _files(run.folder):
                if path.name not in names:
                    path.unlink()
            for path in sorted(_files(staged), key=lambda path: path.name == run.status.name):
                path.replace(run.folder / path.name)
            sync_folder(run.folder)
            (staged / _LIST).unlink()
        staged.rmdir()


def copy_run(source: Path, target: Path) -> None:
    """Copy a run's files into a new folder; those that are one file by several names stay one. Raises OSError."""
    make_folder(target)
    copies: dict[int, Path] = {}
    for path in _files(source):
        first, copy = copies.get(path.stat().st_ino), target / path.name
        if first is not None:
            try:
                os.link(first, copy)
                continue
            except OSError:
                pass
        shutil.copyfile(path, copy)
        copies[path.stat().st_ino] = copy


def _files(folder: Path) -> list[Path]:
    """A run's files, without locks and what is temporary."""
    if not folder.is_dir():
        return []
    found = [path for path in folder.iterdir() if not path.name.startswith(".")]
    if others := [path for path in found if path.is_symlink() or not path.is_file()]:
        raise StoreError(f"{others[0]} is no file: remove it")
    return found
