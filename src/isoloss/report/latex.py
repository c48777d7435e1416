"""Text and tables as LaTeX that plain pdflatex compiles, whatever a study calls its things."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Sequence
from functools import cache, lru_cache
from math import ceil
from typing import Any

from pylatexenc.latexencode import UnicodeToLatexEncoder  # pyright: ignore[reportMissingTypeStubs]

from isoloss.report.chart import plain_name
from isoloss.report.references import with_cite
from isoloss.report.table import Column, Table

MAX_LINE, SEPARATOR = 80, 3
"""Characters of 8 points that fit side by side between the margins of an article, and that go between columns."""
MAX_CELLS = (36, 28, 20)
"""Characters at which text wraps in its column: the first of these at which all columns fit side by side."""
MAX_WORD = 16
"""Characters after which a word may break."""
MAX_LINES = 40
"""A table of more lines may break across pages."""
_PLAIN = re.compile(r"[A-Za-z0-9 .,:;()/+=]*")
_WITHOUT_SIGN = re.compile("[^ -~¡-ÿĀ-ſΑ-ω–—‘’“”†‡•…‰′⁰-₉€←-↔−√∞≈≠≤≥]+|[«»ÐÞðþĄąĐđĘęĮįŉŊŋŲų]+")
"""Characters that the fonts of plain LaTeX lack, or that need more packages than a table should ask for."""
_NOT_LITERAL = {"|": "{\\textbar}", "-": "-{}", "\\_": "\\_\\allowbreak{}"}


@lru_cache(maxsize=4096)  # the first column stands in every part of a wide table
def escaped(text: str) -> str:
    """Any text as LaTeX in one line; a character that it has no sign for is named by its code point, ⟨U+4E2D⟩."""
    if len(text) <= MAX_WORD and _PLAIN.fullmatch(text):
        return text
    named = _WITHOUT_SIGN.sub(
        lambda found: f"⟨{' '.join(f'U+{ord(character):04X}' for character in found[0])}⟩",
        re.sub(r"\s+", " ", text),
    )
    pieces = re.sub(rf"([^\s_]{{{MAX_WORD}}})(?=[^\s_])", "\\1\0", named).split("\0")
    encoded = "\\allowbreak{}".join(map(_encoder(), pieces))
    return re.sub(r"\||-(?=-)|\\_", lambda found: _NOT_LITERAL[found[0]], encoded)


def as_latex(table: Table) -> str:
    """A table with caption and label: numbers to the right, a long one over several pages, a wide one in parts.

    It needs the packages array, booktabs and, where it is long, longtable.
    """
    lines = [[column.head for column in table.columns], *table.cells()]
    shapes: list[tuple[int, str]] = []
    for most in MAX_CELLS:
        columns = zip(table.columns, zip(*lines, strict=True), strict=True)
        shapes = [_shape(column, words, most) for column, words in columns]
        if sum(width + SEPARATOR for width, _ in shapes) <= MAX_LINE:
            break
    widths = [width for width, _ in shapes]
    parts = list(_parts(widths))
    height = sum(max(ceil(len(word) / width) for word, width in zip(line, widths, strict=True)) for line in lines)
    caption = f"\\caption{{{with_cite(table.title, escaped)}}}\\label{{tab:{plain_name(table.name)}}}"
    long = len(parts) * height > MAX_LINES
    blocks = [
        _block("".join(shapes[i][1] for i in part), [[line[i] for i in part] for line in lines], long, caption)
        for part, caption in zip(parts, [caption, *[""] * len(parts)], strict=False)
    ]
    if long:
        return f"{{\\footnotesize\n{''.join(blocks)}}}\n"
    return f"\\begin{{table}}\n\\centering\\footnotesize\n{caption}\n{''.join(blocks)}\\end{{table}}\n"


def _block(spec: str, lines: Sequence[Sequence[str]], long: bool, caption: str) -> str:
    """Lines that stand side by side, the first of them the head."""
    head, *rows = (f"{{}}{' & '.join(map(escaped, line))} \\\\\n" for line in lines)  # {}: a [ would be an option
    body = f"\\toprule\n{head}\\midrule\n"
    if not long:
        return f"\\begin{{tabular}}{{{spec}}}\n{body}{''.join(rows)}\\bottomrule\n\\end{{tabular}}\\par\\medskip\n"
    body = f"{caption} \\\\\n{body}" if caption else body
    return (
        f"\\begin{{longtable}}{{{spec}}}\n{body}\\endhead\n\\bottomrule\n\\endfoot\n{''.join(rows)}\\end{{longtable}}\n"
    )


def _shape(column: Column, words: Sequence[str], most: int) -> tuple[int, str]:
    """Characters of a column's longest line, and how LaTeX is to set it: text wraps, numbers do not."""
    longest = max(1, *map(len, words))
    most = min(column.width or most, most)
    if column.numeric or longest <= most:
        return longest, "r" if column.numeric else "l"
    return most, f">{{\\raggedright\\arraybackslash}}p{{{most / 2:g}em}}"


def _parts(widths: Sequence[int]) -> Iterator[list[int]]:
    """The columns that stand side by side; where they do not all fit, the first begins every part."""
    part = [0]
    for i in range(1, len(widths)):
        if len(part) > 1 and sum(widths[j] + SEPARATOR for j in (*part, i)) > MAX_LINE:
            yield part
            part = [0]
        part.append(i)
    yield part


@cache
def _encoder() -> Callable[[str], str]:
    encoder: Any = UnicodeToLatexEncoder(unknown_char_policy="unihex", unknown_char_warning=False)
    return encoder.unicode_to_latex
