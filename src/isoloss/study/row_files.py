"""Files of JSON lines or Parquet as a study states them: a path or a pattern, and the field that has the text."""

from __future__ import annotations

import glob
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, TypeGuard

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from isoloss.errors import ConfigError
from isoloss.files import user_path

PREFIX = "files:"
"""A corpus whose name begins so is read row by row: 'files:data/*.jsonl.zst,field=text'."""
FIELD = ",field="
_EXPECTED = 'expected {files: "data/*.jsonl", field: text}, with a path, a pattern or a list of them'


class RowFilesShape(BaseModel):
    """What a study file states of them."""

    model_config = ConfigDict(extra="forbid", strict=True)

    files: str | Annotated[list[str], Field(min_length=1)]
    field: str


def is_row_files(corpus: object) -> TypeGuard[str]:
    """Whether this names files that are read row by row."""
    return isinstance(corpus, str) and corpus.startswith(PREFIX)


def row_files_name(pattern: str, field: str) -> str:
    """How such files are named wherever a text is. Example: row_files_name("data/*.jsonl", "text")"""
    return f"{PREFIX}{pattern}{FIELD}{field}"


def row_files_of(value: Mapping[str, Any]) -> tuple[str, ...]:
    """The names of files from what a study file states. Raises ConfigError."""
    try:
        stated = RowFilesShape.model_validate(value)
    except ValidationError as error:
        raise ConfigError(_EXPECTED, ("files",)) from error
    patterns = [stated.files] if isinstance(stated.files, str) else stated.files
    if not all(map(str.strip, [*patterns, stated.field])):
        raise ConfigError(_EXPECTED, ("files",))
    return tuple(row_files_name(pattern.strip(), stated.field) for pattern in patterns)


def pattern_and_field(name: str) -> tuple[str, str]:
    """The parts of a name. Raises ConfigError where there are none."""
    pattern, _, field = name.removeprefix(PREFIX).rpartition(FIELD)
    if not pattern or not field:
        raise ConfigError(f"'{name}' names no field; write {PREFIX}{pattern or field or 'PATH'}{FIELD}NAME")
    return pattern, field


def matching(pattern: str) -> list[Path]:
    """The files of a path or a pattern, by name; `**` stands for any folders."""
    path = user_path(pattern)
    if path.is_file():  # it may have brackets in its name
        return [path]
    names = sorted(glob.glob(str(path), recursive=True))  # noqa: PTH207  # leaves hidden files out, as shells do
    return [found for each in names if (found := Path(each)).is_file()]


def row_files_beside(name: str, folder: Path) -> str:
    """The same with the pattern given from a folder on, where files match it there."""
    pattern, field = pattern_and_field(name)
    literal, escaped = (
        os.path.normpath(Path(each) / user_path(pattern)) for each in (folder, glob.escape(str(folder)))
    )
    there = literal if Path(literal).is_file() else escaped
    return row_files_name(there, field) if matching(there) else name
