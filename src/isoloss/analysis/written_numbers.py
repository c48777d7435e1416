"""Numbers as people write them in tables: 110,678,115 and 1.3B, and 0,5 where the comma is the decimal sign."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

import polars as pl

Comma = Literal["decimal", "thousands"]

_SIGN, _END = r"^[-+]?", r"([eE][-+]?\d+)? ?[kKmMbBgGtT]?$"
_THOUSANDS = f"{_SIGN}[1-9]\\d{{0,2}}(,\\d{{3}})+(\\.\\d*)?{_END}"
"""A word whose commas can stand between thousands."""
_DECIMAL = f"{_SIGN}(\\d+|[1-9]\\d{{0,2}}(\\.\\d{{3}})+),\\d+{_END}"
"""A word whose one comma can be the decimal sign; points may then stand between thousands."""
_POINTS = f"{_SIGN}[1-9]\\d{{0,2}}(\\.\\d{{3}})+{_END}"
"""A word whose points can stand between thousands."""
_SPACES = r"(\d)[_'\u00a0\u202f\u2009 ](\d{3})(\D|$)"
_TIMES = {"[kK]": 3, "[mM]": 6, "[bBgG]": 9, "[tT]": 12}
"""Powers of ten by the letter that stands for them."""
_NUMBER = r"^([-+\u2212]?[.,]?\d.*|[-+]?(?i:nan|inf))$"
_SMALL_LETTER = r"[mbgt]$"
"""Small letters are taken for labels (a model called 70m) until a number is asked for."""


def comma_of(columns: Sequence[pl.Series], default: Comma) -> Comma:
    """What commas mean in a table: what those columns say that can be read in one way only, where they agree."""
    said: set[Comma] = {meaning for column in columns if (meaning := _own_comma(_words(column))) is not None}
    return said.pop() if len(said) == 1 else default


def parsed(column: pl.Series, comma: Comma = "thousands") -> pl.Series:
    """Words as floats, null where a word is no number. A comma means what the column's own words say, else `comma`."""
    words = _words(column)
    for _ in range(2):  # neighbouring groups share a digit
        words = words.str.replace_all(_SPACES, "$1$2$3")
    words = words.str.replace_all("\u2212", "-", literal=True)
    if (_own_comma(words) or comma) == "decimal":
        words = _without(words, ".", words.str.contains(_DECIMAL) | words.str.contains(_POINTS))
        words = words.str.replace(r"^([-+]?\d+),(\d)", "$1.$2")
    else:
        words = _without(words, ",", words.str.contains(_THOUSANDS))
    for letter, power in _TIMES.items():
        words = words.str.replace(rf"(\d\.?) ?{letter}$", f"${{1}}e{power}")
    return words.cast(pl.Float64(), strict=False).rename(column.name)


def all_numbers(column: pl.Series, comma: Comma) -> pl.Series | None:
    """The column as numbers, whole ones where all are, if every word of it is one; None where any is not."""
    words = _words(column)
    given = words.drop_nulls()
    if not given.str.contains(_NUMBER).all() or given.str.contains(_SMALL_LETTER).any():
        return None
    numbers = parsed(words, comma)
    if numbers.null_count() > words.null_count():
        return None
    finite = numbers.drop_nulls()
    whole = bool(len(finite)) and bool(((finite == finite.round()) & (finite.abs() < 2**53)).all())
    return numbers.cast(pl.Int64()) if whole else numbers


def _words(column: pl.Series) -> pl.Series:
    return column.str.strip_chars().replace("", None)


def _without(words: pl.Series, mark: str, where: pl.Series) -> pl.Series:
    """The words with a mark taken out of some of them."""
    return words.str.replace_all(mark, "", literal=True).zip_with(where.fill_null(False), words)


def _own_comma(words: pl.Series) -> Comma | None:
    """What commas must mean in a column; None where it has none, or all can be read either way or in neither."""
    commas = words.filter(words.str.contains(",", literal=True).fill_null(False))
    if commas.is_empty():
        return None
    thousands, decimal = commas.str.contains(_THOUSANDS).all(), commas.str.contains(_DECIMAL).all()
    if thousands == decimal:
        return None
    return "thousands" if thousands else "decimal"
