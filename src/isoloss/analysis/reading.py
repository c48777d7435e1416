"""Anyone's table as a data frame: text with commas, semicolons or tabs, JSON lines or Parquet, gzipped or not.

What a file is, its bytes say, not its name. Nothing in a table is executed.
"""

from __future__ import annotations

import codecs
import csv
import io
import json
import stat
import sys
import zlib
from collections import Counter
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, cast

import polars as pl

from isoloss.analysis.written_numbers import all_numbers, comma_of
from isoloss.errors import ConfigError

STDIN = Path("-")
NO_VALUE = ["", "NA", "N/A", "null", "None"]
MAX_BYTES = 2**31
"""Of a table once unpacked."""
SEPARATORS = (",", ";", "\t", "|")
_LOOKED_AT = 50
"""Lines from which the separator is told."""
_KINDS = "CSV (commas, semicolons or tabs), JSON lines or Parquet, gzipped or not"
_OTHERS = {
    b"PK\x03\x04": "a zip archive or a spreadsheet; save the sheet as CSV",
    b"\xd0\xcf\x11\xe0": "a spreadsheet; save the sheet as CSV",
    b"\xfd7zXZ": "packed by xz; unpack it, or use gzip",
    b"\x28\xb5\x2f\xfd": "packed by zstd; unpack it, or use gzip",
    b"BZh": "packed by bzip2; unpack it, or use gzip",
    b"ARROW1": "an Arrow file; save it as Parquet",
    b"\x89HDF": "an HDF5 file; save the table as Parquet",
    b"SQLite format 3": "a database; save the table as CSV",
}
"""What begins like this is no table that can be read, and what to do about it."""


def read_table(path: Path) -> pl.DataFrame:
    """The table in a file, or of standard input where the path is `-`.

    Words that can only be numbers are numbers: 110,678,115, 1.3B, and 0,5 where commas are decimal. Raises ConfigError
    when there is no such file, or no table in it.
    """
    data = _unpacked(_bytes_of(path), path)
    for start, what in _OTHERS.items():
        if data.startswith(start):
            raise _unreadable(path, f"it is {what}")
    parquet = data.startswith(b"PAR1")
    if not parquet and path.suffix == ".parquet":
        raise _unreadable(path, "it is no Parquet file")
    try:
        if parquet:
            return pl.read_parquet(io.BytesIO(data))
        text = _text(data, path)
        return _from_json(text, path) if text.lstrip()[:1] in ("{", "[") else _from_lines(text, path)
    except (pl.exceptions.PolarsError, OSError, csv.Error) as error:
        raise _unreadable(path, str(error).splitlines()[0]) from error


def name_of(path: Path) -> str:
    """What a table is called."""
    return "standard input" if path == STDIN else path.resolve().name


def _unreadable(path: Path, why: str) -> ConfigError:
    return ConfigError(f"{path}: cannot be read as a table: {why}")


def _bytes_of(path: Path) -> bytes:
    if path == STDIN:
        if sys.stdin.isatty():
            raise ConfigError(
                "- reads a table from standard input, which is a terminal: use it after a pipe, or with <"
            )
        return sys.stdin.buffer.read(MAX_BYTES + 1)
    try:
        kind = path.stat().st_mode
        if not stat.S_ISREG(kind) and not stat.S_ISFIFO(kind):
            raise ConfigError(f"{path}: neither a file nor a study directory; give one, or - for standard input")
        with path.open("rb") as file:
            return file.read(MAX_BYTES + 1)
    except (FileNotFoundError, NotADirectoryError) as error:
        kinds = f"give a table as {_KINDS}, - for standard input, or a study directory"
        raise ConfigError(f"{path}: no such file; {kinds}") from error
    except OSError as error:
        raise _unreadable(path, error.strerror or "an error of the system") from error


def _unpacked(data: bytes, path: Path) -> bytes:
    """Out of gzip, where it is in it. Raises ConfigError for damage and for more than MAX_BYTES."""
    parts: list[bytes] = []
    size = 0
    packed = data.startswith(b"\x1f\x8b")
    while packed and data.startswith(b"\x1f\x8b"):  # one part after another is one file
        unpack = zlib.decompressobj(wbits=31)
        try:
            parts.append(unpack.decompress(data, MAX_BYTES + 1 - size))
        except zlib.error as error:
            raise _unreadable(path, f"its gzip is damaged ({error})") from error
        size += len(parts[-1])
        if size > MAX_BYTES:
            break
        if not unpack.eof:
            raise _unreadable(path, "its gzip ends too early")
        data = unpack.unused_data
    data = b"".join(parts) if packed else data
    if len(data) > MAX_BYTES:
        raise _unreadable(path, f"it has more than {MAX_BYTES >> 30} GiB; leave out rows or columns")
    return data


def _text(data: bytes, path: Path) -> str:
    wide = data.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE))
    try:
        text = data.decode("utf-16" if wide else "utf-8-sig")
    except UnicodeDecodeError as error:
        raise _unreadable(path, f"byte {error.start + 1:,} is no UTF-8; save it as {_KINDS}, in UTF-8") from error
    if "\0" in text.split("\n", 1)[0]:
        raise _unreadable(path, f"it is no text; give {_KINDS}")
    if not text.strip():
        raise _unreadable(path, "it is empty")
    return text


def _from_lines(text: str, path: Path) -> pl.DataFrame:
    lines = (text if "\n" in text else text.replace("\r", "\n")).lstrip("\r\n")
    named, _, rest = lines.partition("\n")
    named = named.rstrip("\r")
    separator = named[4:5] if named[:4].lower() == "sep=" and len(named) == 5 else None  # as Excel writes it
    lines = lines if separator is None else rest
    separator = separator or _separator(lines)
    written = [name.strip() for name in next(csv.reader(io.StringIO(lines), delimiter=separator)) if name.strip()]
    names = _checked_names(next(csv.reader(io.StringIO(lines), delimiter=separator)), path)
    options: dict[str, Any] = {"separator": separator, "null_values": NO_VALUE}
    data = lines.encode()
    try:
        table = pl.read_csv(io.BytesIO(data), infer_schema_length=None, **options)
        words = [table[column] for column in table.columns if table.schema[column] == pl.String()]
        comma = comma_of(words, "decimal" if separator == ";" and words else "thousands")
        if comma == "decimal" and any(word.str.contains(r"\d,\d").any() for word in words):
            # 1.000 is a thousand there, and was read as 1.
            floats = {column: pl.String() for column in table.columns if table.schema[column].is_float()}
            table = pl.read_csv(io.BytesIO(data), infer_schema_length=None, schema_overrides=floats, **options)
    except pl.exceptions.PolarsError as error:
        raise _unreadable(path, _wrong_line(lines, separator, len(names)) or str(error).splitlines()[0]) from error
    table.columns = names
    unnamed = [name for name in names if name not in written and table[name].null_count() == len(table)]
    table = table.drop(unnamed).filter(~pl.all_horizontal(pl.all().is_null()))
    return table.with_columns(
        numbers
        for column in table
        if column.dtype == pl.String() and (numbers := all_numbers(column, comma)) is not None
    )


def _separator(lines: str) -> str:
    """The one that cuts the first line, and most of the next ones likewise, into the most fields."""
    head = list(_first_lines(lines))

    def fit(separator: str) -> tuple[int, int]:
        try:
            rows = [row for row in csv.reader(head, delimiter=separator) if row]
        except csv.Error:
            return 0, 0
        width = len(rows[0]) if rows else 0
        alike = sum(len(row) == width for row in rows)
        return (alike if width > 1 else 0), width

    return max(SEPARATORS, key=fit)


def _first_lines(lines: str) -> Iterator[str]:
    for number, line in enumerate(io.StringIO(lines)):
        if number == _LOOKED_AT:
            return
        yield line


def _checked_names(names: list[str], path: Path) -> list[str]:
    """Names without spaces around them. Raises ConfigError for one that is there twice, and for numbers as names."""
    names = [name.strip() for name in names]
    for name, times in Counter(names).items():
        if times > 1 and name:
            places = " and ".join(str(place + 1) for place, each in enumerate(names) if each == name)
            raise ConfigError(f"{path}: {times} columns are called '{name}' (the {places}.): rename or remove one")
    if names and all(_is_number(name) for name in names):
        raise ConfigError(f"{path}: its first line holds numbers, not names of columns: write a line of names above it")
    unnamed = [place for place, name in enumerate(names) if not name]
    for place in unnamed if len(unnamed) > 1 else []:
        names[place] = f"column {place + 1}"
    return names


def _is_number(word: str) -> bool:
    try:
        float(word)
    except ValueError:
        return False
    return word.lower() not in ("nan", "inf")


def _wrong_line(lines: str, separator: str, width: int) -> str | None:
    """The first line with more fields than there are names, in words."""
    reader = csv.reader(io.StringIO(lines), delimiter=separator)
    try:
        for row in reader:
            if len(row) > width:
                return f"line {reader.line_num} has {len(row)} fields, and the first line {width}"
    except csv.Error as error:
        return f"line {reader.line_num}: {error}"
    return "a quotation mark is not closed" if lines.count('"') % 2 else None


def _from_json(text: str, path: Path) -> pl.DataFrame:
    """JSON lines, or one list of objects; objects within objects become columns such as config.lr."""
    columns: dict[str, list[Any]] = {}
    count = 0
    for count, row in enumerate(_json_objects(text, path), start=1):
        for name, value in _flat(row):
            values = columns.setdefault(name, [])
            values.extend([None] * (count - 1 - len(values)))
            values.append(value)
    for values in columns.values():
        values.extend([None] * (count - len(values)))
    return pl.DataFrame([_json_column(name, values) for name, values in columns.items()])


def _json_objects(text: str, path: Path) -> Iterator[dict[str, Any]]:
    listed = text.lstrip().startswith("[")
    for number, line in enumerate([text] if listed else text.split("\n"), start=1):
        if not line.strip():
            continue
        try:
            found: Any = json.loads(line)
        except json.JSONDecodeError as error:
            where = f"line {error.lineno if listed else number}, character {error.colno}"
            hint = "" if listed else "; JSON lines have one object a line"
            raise _unreadable(path, f"{where}: {error.msg}{hint}") from error
        except (RecursionError, ValueError) as error:
            raise _unreadable(path, f"line {number} holds what no table does: {error}") from error
        rows: list[Any] = found if listed else [found]
        for row in rows:
            if not isinstance(row, dict):
                raise _unreadable(path, f"line {number} holds {json.dumps(row)[:40]} in place of an object")
            yield cast("dict[str, Any]", row)


def _flat(row: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    for name, value in row.items():
        if isinstance(value, dict):
            yield from _flat(cast("dict[str, Any]", value), f"{prefix}{name}.")
        else:
            yield prefix + name, json.dumps(value) if isinstance(value, list) else value


def _json_column(name: str, values: list[Any]) -> pl.Series:
    """One type a column: whole numbers, numbers (of them some as words, such as "NaN"), truth values, else words."""
    given = [value for value in values if value is not None]
    if all(isinstance(value, bool) for value in given):
        return pl.Series(name, values, pl.Boolean() if given else pl.Null())
    if not any(isinstance(value, str | bool) for value in given):
        whole = all(isinstance(value, int) and abs(value) < 2**63 for value in given)
        try:
            return pl.Series(name, values if whole else [None if v is None else float(v) for v in values])
        except OverflowError:
            pass  # a whole number beyond all floats: words
    words = pl.Series(name, [None if v is None or v in NO_VALUE else str(v) for v in values], pl.String())
    mixed = any(isinstance(value, int | float) and not isinstance(value, bool) for value in given)
    numbers = all_numbers(words, "thousands") if mixed else None
    return words if numbers is None else numbers
