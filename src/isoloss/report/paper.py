"""What goes into a paper: figures at the widths of one and two columns, tables, the methods and their references."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from itertools import product
from pathlib import Path
from typing import get_args

from isoloss.files import path_exists, read_bytes, write_bytes, write_text, writing
from isoloss.report.chapter import Chapter
from isoloss.report.chart import NARROW, PX_PER_INCH, WIDE, Figure, ImageKind, as_image, plain_name
from isoloss.report.latex import as_latex, escaped
from isoloss.report.references import references_in, with_cite
from isoloss.report.table import Table, as_csv, as_markdown, markdown
from isoloss.store.spreadsheet import csv_text

IMAGE_KINDS: tuple[ImageKind, ...] = get_args(ImageKind)
LIST = "files.txt"
"""Names what was written, so that nothing else is ever removed."""
MAX_LIST_BYTES = 1_000_000
FILE_NAME = re.compile(r"[A-Za-z0-9_-][A-Za-z0-9_.-]*\.(csv|md|tex|bib|pdf|svg|png)")
METHOD = "method"
"""The chapter that the methods begin with."""
TABLE_FORMATS = {"csv": as_csv, "md": as_markdown, "tex": as_latex}
MAX_ROWS = 1000
"""Of a table in Markdown and LaTeX: what is longer is not read."""


def image_file(figure: Figure, width: int, kind: ImageKind) -> str:
    """The name of a figure's picture in the paper's folder: effects-3.3in.pdf."""
    return f"{plain_name(figure.name)}-{width / PX_PER_INCH:.3g}in.{kind}"


def data_file(figure: Figure) -> str:
    """The name of a figure's rows: effects-figure.csv."""
    return f"{plain_name(figure.name)}-figure.csv"


def table_file(table: Table, kind: str) -> str:
    """The name of a table in one of TABLE_FORMATS: effects.tex."""
    return f"{plain_name(table.name)}.{kind}"


def write_paper(folder: Path, chapters: Sequence[Chapter]) -> None:
    """Write every figure and table of some chapters, their methods (the `details`), and the references these name.

    What an earlier call wrote and this one does not is removed; other files in the folder stay. Raises StoreError when
    a figure cannot be drawn or a file not be written.
    """
    before = written_files(folder)
    write_text(folder / LIST, "".join(f"{name}\n" for name in before))
    names: list[str] = []
    for name, content in (*_pictures(chapters), *_words(chapters)):
        write_bytes(folder / name, content)
        names.append(name)
    for name in {*before}.difference(names):
        with writing(folder / name):
            (folder / name).unlink(missing_ok=True)
    write_text(folder / LIST, "".join(f"{name}\n" for name in sorted(names)))


def written_files(folder: Path) -> list[str]:
    """What the list in a paper's folder names; nothing where there is none. Raises StoreError when it is unreadable."""
    if not path_exists(folder / LIST):
        return []
    names = read_bytes(folder / LIST, MAX_LIST_BYTES).decode(errors="replace").splitlines()
    return [name for name in names if FILE_NAME.fullmatch(name)]


def _pictures(chapters: Sequence[Chapter]) -> Iterator[tuple[str, bytes]]:
    for figure in (figure for chapter in chapters for figure in chapter.figures):
        for width, kind in product((NARROW, WIDE), IMAGE_KINDS):
            yield image_file(figure, width, kind), as_image(figure, width, kind)


def _words(chapters: Sequence[Chapter]) -> Iterator[tuple[str, bytes]]:
    figures = [figure for chapter in chapters for figure in chapter.figures]
    for figure in figures:
        yield data_file(figure), csv_text(figure.frame).encode()
    for chapter in chapters:
        for table, (kind, rendered) in product(chapter.tables, TABLE_FORMATS.items()):
            shown = table if kind == "csv" else table.first(MAX_ROWS)
            yield table_file(table, kind), rendered(shown).encode()
    yield "figures.tex", "\n".join(map(_figure_in_latex, figures)).encode()
    ordered = sorted(chapters, key=lambda chapter: chapter.id != METHOD)
    methods = [(chapter.title, " ".join(chapter.details)) for chapter in ordered if chapter.details]
    latex = [
        f"{{\\sloppy\\paragraph{{{escaped(title)}}} {with_cite(text, escaped)}\\par}}\n" for title, text in methods
    ]
    yield "methods.tex", "\n".join(latex).encode()
    sources = references_in(text for chapter in chapters for text in chapter.texts)
    words = [f"**{markdown(title)}.** {markdown(text)}\n" for title, text in methods]
    listed = "".join(f"- {markdown(source.full)}\n" for source in sources)
    yield "methods.md", "\n".join([*words, listed]).encode()
    yield "references.bib", "\n".join(source.entry for source in sources).encode()


def _figure_in_latex(figure: Figure) -> str:
    """A figure of one column with its caption; it needs the package graphicx."""
    caption = with_cite(f"{figure.title.rstrip('.')}. {figure.subtitle}", escaped)
    return (
        f"\\begin{{figure}}\n\\centering\n\\includegraphics{{{image_file(figure, NARROW, 'pdf')}}}\n"
        f"\\caption{{{caption}}}\\label{{fig:{plain_name(figure.name)}}}\n"
        "\\end{figure}\n"
    )
