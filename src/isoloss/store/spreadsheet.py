"""Tables as CSV that a spreadsheet can open without running anything of them."""

from __future__ import annotations

import re

import polars as pl

RUN_AS_FORMULA = ("=", "+", "-", "@", "\t", "\r", "\n", "\uff1d", "\uff0b", "\uff0d", "\uff20")
"""What a cell begins with that a spreadsheet takes for a formula; the last four are their full-width forms."""
NUMBER = re.compile(r"[+-]?(\d+\.?\d*|\.\d+)([eE][+-]?\d+)?")


def csv_text(frame: pl.DataFrame) -> str:
    """A table as CSV. Text that a spreadsheet would run as a formula gets an apostrophe before it; numbers stay."""
    words = [column for column in frame if column.dtype == pl.String()]
    safe = [pl.Series(each.name, [word and _guarded(word) for word in each.to_list()], pl.String()) for each in words]
    return frame.with_columns(safe).rename(_guarded).write_csv()


def _guarded(word: str) -> str:
    return f"'{word}" if word.startswith(RUN_AS_FORMULA) and not NUMBER.fullmatch(word) else word
