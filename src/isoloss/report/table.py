"""A table: a frame of exact values, and how its columns read. It is written as text, CSV, Markdown or HTML."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass, replace

import polars as pl
from rich.console import Console
from rich.table import Table as TextTable

from isoloss.errors import printable
from isoloss.report.format import Kind, spelled, spelled_interval
from isoloss.store.spreadsheet import csv_text

GAP = 2
"""Blanks between columns of text."""


@dataclass(frozen=True)
class Column:
    """A column that is shown: which of the frame, its head, the kind of quantity and its unit.

    `interval` names the frame's columns with the ends of its interval, shown in brackets behind the value. `width` is
    the number of characters at which long text wraps.

    Example: `Column("value", "effect", "difference", unit="nats", interval=("low", "high"))`.
    """

    name: str
    title: str
    kind: Kind = "text"
    unit: str = ""
    interval: tuple[str, str] | None = None
    width: int | None = None

    @property
    def head(self) -> str:
        """The title with its unit, 'effect (nats)'."""
        return f"{self.title} ({self.unit})" if self.unit else self.title

    @property
    def numeric(self) -> bool:
        """Whether it is aligned as a number."""
        return self.kind != "text"


@dataclass(frozen=True)
class Table:
    """Rows of a frame under described columns. What the frame holds besides is in its CSV alone.

    `name` is that of its files and its id on the page; `title` says what it holds, with n and method. A `folded` table
    is opened on demand: what it holds is said elsewhere, or asked for seldom.
    """

    name: str
    title: str
    frame: pl.DataFrame
    columns: Sequence[Column]
    folded: bool = False

    def first(self, rows: int) -> Table:
        """At most so many of its rows; the title says when some are left out."""
        title = " ".join(filter(None, (self.title, self.left_out(rows))))
        return replace(self, title=title, frame=self.frame.head(rows))

    def left_out(self, rows: int) -> str:
        """A sentence for who sees only so many rows; empty where that is all."""
        n = len(self.frame)
        return f"The first {rows:,} of {n:,} rows; the CSV has all." if n > rows else ""

    def cells(self, rows: int | None = None) -> list[list[str]]:
        """The shown columns as words, one list a row; `rows` limits their number."""
        shown = self.frame if rows is None else self.frame.head(rows)
        return [[_cell(row, column) for column in self.columns] for row in shown.iter_rows(named=True)]


def as_csv(table: Table) -> str:
    """Every column of the frame at full precision; text that a spreadsheet would run is defused."""
    return csv_text(table.frame)


def as_markdown(table: Table) -> str:
    """A pipe table under its title."""
    rule = ["---:" if column.numeric else "---" for column in table.columns]
    head, *rows = (list(map(markdown, line)) for line in ([column.head for column in table.columns], *table.cells()))
    body = "\n".join(f"| {' | '.join(line)} |" for line in (head, rule, *rows))
    return f"{markdown(table.title)}\n\n{body}\n"


def markdown(text: str) -> str:
    """Any text as Markdown in one line, in which none of it is markup."""
    return re.sub(r"([\\`*_<>|~&#]|\[(?![−+]?\d))", r"\\\1", printable(" ".join(text.split())))


def as_text(table: Table, width: int, rows: int | None = None) -> str:
    """Lines for a terminal of a width in characters; says how many rows were left out.

    Columns that have no room beside each other follow in blocks below, each led by the first column.
    """
    cells = table.cells(rows)
    columns = list(enumerate(table.columns))
    needs = [_text_width(column, [row[i] for row in cells], width) for i, column in columns]
    blocks: list[list[int]] = [[]]
    for i, _ in columns:
        if blocks[-1] and sum(needs[k] + GAP for k in blocks[-1]) + needs[i] > width:
            blocks.append([0])
        blocks[-1].append(i)
    hidden = 0 if rows is None else len(table.frame) - rows
    texts = [_block(block, table, cells, needs, width) for block in blocks]
    return "\n\n".join(texts) + (f"\n… and {hidden:,} more rows (--json has all)" if hidden > 0 else "")


def _text_width(column: Column, words: Sequence[str], width: int) -> int:
    """Characters that a column takes: a number is never broken, text wraps at a third of the line at the latest."""
    longest = max(map(len, (column.head, *words)))
    return longest if column.numeric else min(longest, column.width or longest, width // 3)


def _block(
    places: Sequence[int], table: Table, cells: Sequence[Sequence[str]], needs: Sequence[int], width: int
) -> str:
    text = TextTable(box=None, pad_edge=False, padding=(0, GAP, 0, 0), header_style="")
    for i in places:
        numeric = table.columns[i].numeric
        text.add_column(
            table.columns[i].head,
            justify="right" if numeric else "left",
            no_wrap=numeric,
            overflow="fold",
            max_width=needs[i],
        )
    for row in cells:
        text.add_row(*(row[i] for i in places))
    console = Console(width=width, markup=False, highlight=False, emoji=False, color_system=None)
    with console.capture() as captured:
        console.print(text)
    return "\n".join(line.rstrip() for line in captured.get().splitlines())


def _cell(row: dict[str, object], column: Column) -> str:
    value = row[column.name]
    if column.interval is None:
        return spelled(value, column.kind)
    low, high = column.interval
    return spelled_interval(value, row[low], row[high], column.kind)
