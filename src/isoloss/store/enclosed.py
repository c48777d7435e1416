"""A study's folder ends where it ends: nothing in it leads elsewhere, waits for a writer, or never ends.

A study may come from a stranger. Whoever opens its directory, to read or to run, checks this first; after that every
path below it can be opened, truncated and removed without a second thought. The folder itself may be a link.
"""

from __future__ import annotations

import os
from pathlib import Path

from isoloss.errors import StoreError

IN_PLACE = (".jsonl", ".lock")
"""How files end that are written to where they are; all others are replaced whole, whatever other names they have."""


def check_enclosed(folder: Path, *, to_write: bool = False) -> None:
    """Refuse a folder that holds, at any depth, anything but files and folders. One that is missing holds nothing.

    Hard links are files, and isoloss makes them between checkpoints; but to write, no file that is written to where
    it is may have another name elsewhere. Raises StoreError that names what it found.
    """
    folders = [str(folder)]
    while folders:
        here = folders.pop()
        try:
            with os.scandir(here) as entries:
                for entry in entries:
                    if entry.is_dir(follow_symlinks=False):
                        folders.append(entry.path)
                    elif not entry.is_file(follow_symlinks=False) and os.path.lexists(entry.path):
                        kind = "a symbolic link" if entry.is_symlink() else "a pipe, socket or device"
                        raise StoreError(f"{entry.path} is {kind}; a study holds files and folders only, remove it")
                    elif to_write and entry.name.endswith(IN_PLACE) and _names(entry) > 1:
                        raise StoreError(
                            f"{entry.path} has a second name, perhaps elsewhere: copy the study whole first"
                        )
        except (FileNotFoundError, NotADirectoryError):  # gone meanwhile: others may be writing
            continue
        except OSError as error:
            raise StoreError(f"cannot read {here}: {error.strerror}") from error


def _names(entry: os.DirEntry[str]) -> int:
    """How many names a file has; none, if it is gone meanwhile."""
    try:
        return entry.stat(follow_symlinks=False).st_nlink
    except FileNotFoundError:
        return 0
