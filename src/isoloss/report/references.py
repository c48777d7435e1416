"""Citations: sentences hold them as they are read, (Holm 1979); LaTeX gets \\cite and BibTeX entries for the same.

So page, terminal and JSON need no step of their own, and what a text cites can be told from the text.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from functools import cache
from importlib import resources

_WHERE = ("journal", "booktitle", "institution", "publisher", "howpublished")
_CITATION = re.compile(r"\(([^()]*)\)")


@dataclass(frozen=True)
class Reference:
    """A source: its BibTeX entry word for word, and the fields of it."""

    key: str
    entry: str
    fields: dict[str, str]

    @property
    def short(self) -> str:
        """Authors and year as a sentence names them: Holm 1979, Clopper and Pearson 1934, Hoffmann et al. 2022."""
        names = [author.partition(",")[0] for author in self.fields["author"].split(" and ")]
        return f"{' and '.join(names) if len(names) < 3 else f'{names[0]} et al.'} {self.fields['year']}"

    @property
    def full(self) -> str:
        """The source in one line, as a list of references has it."""
        known = {name: value.strip("{}").replace("--", "–") for name, value in self.fields.items()}
        where = next(known[name] for name in _WHERE if name in known)
        number = f" ({known['number']})" if "number" in known else ""
        place = f"{where} {known['volume']}{number}" if "volume" in known else where
        pages = f", {known['pages']}" if "pages" in known else ""
        authors = known["author"].replace(" and others", " et al.").replace(" and ", "; ")
        return f"{authors}: {known['title']}. {place}{pages}, {known['year']}."


def cited(*keys: str) -> str:
    """A citation for a sentence, by the keys of references.bib: (Holm 1979; Lenth 1989).

    Example: `f"p-values are adjusted for their number {cited('holm1979')}"`.
    """
    return f"({'; '.join(_known()[key].short for key in keys)})"


def references_in(texts: Iterable[str]) -> list[Reference]:
    """The sources that some texts cite, in the order of their keys."""
    keys = {key for text in texts for found in _CITATION.finditer(text) for key in _keys(found) or ()}
    return [_known()[key] for key in sorted(keys)]


def with_cite(text: str, escaped: Callable[[str], str]) -> str:
    """A text as LaTeX, its citations as \\cite; `escaped` makes LaTeX of what is between them."""
    pieces: list[str] = []
    end = 0
    for found in _CITATION.finditer(text):
        if keys := _keys(found):
            pieces += [escaped(text[end : found.start()]), f"\\cite{{{','.join(keys)}}}"]
            end = found.end()
    return "".join([*pieces, escaped(text[end:])])


def _keys(found: re.Match[str]) -> list[str] | None:
    """The keys of what stands in parentheses; None where it is no citation."""
    by_short = {reference.short: reference.key for reference in _known().values()}
    parts = found[1].split("; ")
    return [by_short[part] for part in parts] if all(part in by_short for part in parts) else None


@cache
def _known() -> dict[str, Reference]:
    text = (resources.files("isoloss.report") / "references.bib").read_text(encoding="utf-8")
    entries = re.findall(r"(@\w+\{(\w+),.*?\n\}\n)", text, re.DOTALL)
    return {key: Reference(key, entry, dict(re.findall(r"(\w+) = \{(.*)\},", entry))) for entry, key in entries}
