"""Files that may be compressed, as streams of what is in them."""

from __future__ import annotations

import gzip
import sys
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from importlib import import_module
from pathlib import Path
from typing import Any, BinaryIO

from isoloss.errors import CorpusError

SUFFIXES = (".gz", ".zst")


def is_compressed(path: Path) -> bool:
    """Whether a file's name says that it is compressed."""
    return path.suffix in SUFFIXES


@contextmanager
def opened(path: Path) -> Iterator[BinaryIO]:
    """A file's bytes, decompressed as they are read where its name ends in .gz or .zst.

    Raises CorpusError for what is damaged or cannot be read, also while it is read.
    """
    opener, damages = _format(path.suffix)
    try:
        with opener(path, "rb") as stream:
            yield stream
    except EOFError as error:
        raise CorpusError(f"'{path}' is truncated: it ends in the middle of compressed data; fetch it again") from error
    except damages as error:
        raise CorpusError(f"'{path}' is no {path.suffix} file or damaged ({error}); fetch it again") from error
    except OSError as error:
        raise CorpusError(f"cannot read '{path}': {error}") from error


def _format(suffix: str) -> tuple[Any, tuple[type[Exception], ...]]:
    """What opens files of a suffix, and what it raises for damaged ones."""
    if suffix == ".gz":
        return gzip.open, (gzip.BadGzipFile, zlib.error)
    if suffix == ".zst":
        library = zstd()
        return library.open, (library.ZstdError,)
    return Path.open, ()


def zstd() -> Any:
    """The standard library's module, of which earlier Pythons have a copy from PyPI."""
    return import_module("compression.zstd" if sys.version_info >= (3, 14) else "backports.zstd")
