"""Texts in a field of the rows of a file, JSON lines or Parquet, one after the other and in bounded memory."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any, cast

from isoloss.data.compressed import is_compressed, opened
from isoloss.errors import CorpusError
from isoloss.wording import listed

JSON_LINES = (".jsonl", ".ndjson", ".json")
MAX_ROW_BYTES = 1 << 26
"""A longer row is refused: memory is bounded by it."""
SLICE_BYTES = 1 << 24
"""About as much of a Parquet file is decoded at a time."""
FIRST_SLICE_ROWS, MAX_SLICE_ROWS = 64, 1 << 16
MAX_BYTES_WITHOUT_TEXT, MAX_LINES_WITHOUT_TEXT = 1 << 28, 1 << 22
"""A longer stretch without text is refused: compressed, it may be endless."""

Row = tuple[int, Any, list[str]]
"""Its number from 1 on, what is in the field, None where nothing is, and the fields there are."""


def texts_of(path: Path, field: str) -> Iterator[str]:
    """The text of every row of a file. Raises CorpusError with what is wrong, and how many rows have no text."""
    name = path.with_suffix("") if is_compressed(path) else path
    if name.suffix in JSON_LINES:
        rows, unit = _json_lines(path, field), "line"
    elif path.suffix == ".parquet":
        rows, unit = _parquet(path, field), "row"
    else:
        raise CorpusError(f"'{path}' has no fields; expected a name in .jsonl, .jsonl.gz, .jsonl.zst or .parquet")
    return checked_texts(str(path), rows, unit, field)


def checked_texts(name: str, rows: Iterable[Row], unit: str, field: str) -> Iterator[str]:
    """The texts of rows, each a `unit` of what is called `name`. Raises CorpusError where some have none."""
    count, without, first = 0, 0, ""
    for number, value, there in rows:
        count += 1
        if isinstance(value, str) and not without:
            yield value
        elif not isinstance(value, str):
            without += 1
            found = "missing" if value is None else f"no string but {json.dumps(value, default=str)[:40]}"
            first = first or f"in {unit} {number:,}, the first, it is {found} (fields: {listed(there)})"
    if without:
        raise CorpusError(f"'{name}': {without:,} of {count:,} rows have no text in '{field}'; {first}")


def _json_lines(path: Path, field: str) -> Iterator[Row]:
    with opened(path) as stream:
        number = last = without_text = 0  # the last line that has text, and the bytes since
        while line := stream.readline(MAX_ROW_BYTES + 1):
            number += 1
            if len(line) > MAX_ROW_BYTES:
                raise CorpusError(f"'{path}', line {number:,}: longer than {MAX_ROW_BYTES:,} bytes")
            without_text += len(line)
            if without_text > MAX_BYTES_WITHOUT_TEXT or number - last > MAX_LINES_WITHOUT_TEXT:
                beginning = f"line {number:,} begins with {line[:40]!r}"
                raise CorpusError(f"'{path}': no text in '{field}' after line {last:,}; {beginning}")
            if line.isspace():
                continue
            try:
                row: Any = json.loads(line.decode("utf-8-sig"))
                if not isinstance(row, dict):
                    instead = "; write each object of the array on a line of its own" if isinstance(row, list) else ""
                    raise ValueError(f"expected an object, found {line[:20]!r}{instead}")
                value = cast("dict[str, Any]", row).get(field)
                if isinstance(value, str):
                    value.encode()  # JSON can spell half of a surrogate pair
            except (ValueError, RecursionError) as error:
                raise CorpusError(f"'{path}', line {number:,}: no line of JSON in UTF-8: {error}") from error
            if isinstance(value, str) and value:
                last, without_text = number, 0
            yield number, value, [*row]


def _parquet(path: Path, field: str) -> Iterator[Row]:
    import polars as pl

    try:
        table = pl.scan_parquet(path, glob=False)
        schema = table.collect_schema()
        if schema.get(field) != pl.String:
            found = f"holds {schema[field]}" if field in schema else f"is none of its columns, {listed(schema)}"
            raise CorpusError(f"'{path}': '{field}' {found}; name a column of strings")
        count: int = table.select(pl.len()).collect().item()
        first, rows = 0, FIRST_SLICE_ROWS
        while first < count:
            column = table.select(field).slice(first, rows).collect().to_series()
            lengths = column.str.len_bytes()
            if (longest := cast("int | None", lengths.max())) and longest > MAX_ROW_BYTES:
                place = first + (lengths > MAX_ROW_BYTES).arg_true()[0] + 1
                raise CorpusError(f"'{path}', row {place:,}: longer than {MAX_ROW_BYTES:,} bytes")
            for number in range(len(column)):  # one by one: rows may share their bytes, and be many times as long
                yield first + number + 1, column[number], schema.names()
            first += len(column)
            rows = max(1, min(4 * rows, MAX_SLICE_ROWS, rows * SLICE_BYTES // max(1, int(lengths.sum()))))
    except (pl.exceptions.PolarsError, pl.exceptions.PanicException, OSError) as error:
        raise CorpusError(f"'{path}' is no Parquet file or damaged: {' '.join(str(error).split())[:200]}") from error
