"""What a page is made of besides sentences: tables, each with its CSV, and figures."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import polars as pl


@dataclass(frozen=True)
class Table:
    """Column heads and rows of words; columns from `numbers_from` on are aligned as numbers.

    `exact` are the values behind the words, unrounded, in columns of their own choice: what its CSV holds. Without it
    the CSV holds the words.
    """

    head: Sequence[str]
    rows: Sequence[Sequence[str]]
    numbers_from: int = 1
    exact: pl.DataFrame | None = None


@dataclass(frozen=True)
class Figure:
    """A Vega-Lite specification, the name of its files, and its caption."""

    name: str
    caption: str
    spec: dict[str, Any]
