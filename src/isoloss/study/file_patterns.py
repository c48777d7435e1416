"""Files by a pattern, as a study states them: rows with a field that has the text, or shards of tokens."""

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
TOKENS = "tokens:"
"""One whose name begins so is of GPT-2's tokens: 'tokens:data/fineweb_train_*.bin'."""
FIELD = ",field="
_EXPECTED = 'expected {files: "data/*.jsonl", field: text}, with a path, a pattern or a list of them'


class RowFilesShape(BaseModel):
    """What a study file states of them."""

    model_config = ConfigDict(extra="forbid", strict=True)

    files: str | Annotated[list[str], Field(min_length=1)]
    field: str


class TokenFilesShape(BaseModel):
    """What a study file states of shards."""

    model_config = ConfigDict(extra="forbid", strict=True)

    tokens: Annotated[str, Field(pattern=r"\S")]


def is_pattern(corpus: object) -> TypeGuard[str]:
    """Whether this names files by a pattern."""
    return isinstance(corpus, str) and corpus.startswith((PREFIX, TOKENS))


def token_files_of(value: Mapping[str, Any]) -> str:
    """The name of shards from what a study file states. Raises ConfigError."""
    try:
        return TOKENS + TokenFilesShape.model_validate(value).tokens.strip()
    except ValidationError as error:
        raise ConfigError('expected {tokens: "data/*.bin"}, with a path or a pattern', ("tokens",)) from error


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
    """The parts of a name; shards have no field. Raises ConfigError where there are none."""
    if name.startswith(TOKENS):
        if name == TOKENS:
            raise ConfigError(f"'{name}' names no file; write {TOKENS}PATH, or a pattern such as {TOKENS}data/*.bin")
        return name.removeprefix(TOKENS), ""
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


def pattern_beside(name: str, folder: Path) -> str:
    """The same with the pattern given from a folder on, where files match it there."""
    pattern, field = pattern_and_field(name)
    literal, escaped = (
        os.path.normpath(Path(each) / user_path(pattern)) for each in (folder, glob.escape(str(folder)))
    )
    there = literal if Path(literal).is_file() else escaped
    if not matching(there):
        return name
    return row_files_name(there, field) if field else TOKENS + there
