"""A chapter: what typed results say, before anybody decides whether it is read on a page, on paper or in a terminal."""

from __future__ import annotations

import textwrap
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from isoloss.report.table import Table, as_text

if TYPE_CHECKING:
    from isoloss.report.chart import Figure

TERMINAL_WIDTH = 110
MAX_TERMINAL_ROWS = 40


@dataclass(frozen=True)
class Item:
    """One of several statements of a chapter, such as a claim: `label` is a word on it, `details` its method.

    `verbatim` text, such as a sample, keeps its line breaks.
    """

    title: str
    label: str = ""
    text: str = ""
    details: str = ""
    verbatim: bool = False


@dataclass(frozen=True)
class Chapter:
    """An answer in one to three plain sentences, the figures and tables that show it, the method in `details`.

    `items` are statements that each have details of their own.
    """

    id: str
    title: str
    answer: Sequence[str]
    figures: Sequence[Figure] = ()
    tables: Sequence[Table] = ()
    items: Sequence[Item] = ()
    details: Sequence[str] = ()

    @property
    def texts(self) -> list[str]:
        """All sentences and titles, verbatim text apart."""
        titles = [text for figure in self.figures for text in (figure.title, figure.subtitle)]
        titles += [table.title for table in self.tables]
        items = [text for item in self.items if not item.verbatim for text in (item.text, item.details)]
        return [*self.answer, *items, *titles, *self.details]


def chapter_as_text(chapter: Chapter, width: int = TERMINAL_WIDTH, rows: int = MAX_TERMINAL_ROWS) -> str:
    """A chapter for a terminal: answer, items, tables of so many rows at most, method. Folded tables are left out."""
    blocks = ["\n".join(textwrap.fill(sentence, width) for sentence in chapter.answer)]
    for item in chapter.items:
        head = f"{item.title} [{item.label}]" if item.label else item.title
        rest = (
            [item.text]
            if item.verbatim
            else [
                textwrap.fill(t, width, initial_indent="  ", subsequent_indent="  ")
                for t in (item.text, item.details)
                if t
            ]
        )
        blocks.append("\n".join([textwrap.fill(head, width), *rest]))
    blocks += [
        f"{textwrap.fill(table.title, width)}\n\n{as_text(table, width, rows)}"
        for table in chapter.tables
        if not table.folded
    ]
    blocks.append("\n".join(textwrap.fill(sentence, width) for sentence in chapter.details))
    return "\n\n".join(block for block in blocks if block)
