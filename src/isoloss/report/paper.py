"""What goes into a paper: figures at the widths of one and two columns, tables, the methods and their references."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import product
from pathlib import Path
from typing import get_args

from isoloss.files import explained, write_bytes
from isoloss.report.chapter import Chapter, Item
from isoloss.report.chart import NARROW, PX_PER_INCH, WIDE, Figure, ImageKind, as_image, plain_name
from isoloss.report.latex import as_latex, escaped
from isoloss.report.references import references_in, with_cite
from isoloss.report.table import Table, as_csv, as_markdown, markdown
from isoloss.store.spreadsheet import csv_text

IMAGE_KINDS: tuple[ImageKind, ...] = get_args(ImageKind)
TABLE_FORMATS = {"csv": as_csv, "md": as_markdown, "tex": as_latex}


def image_file(figure: Figure, width: int, kind: ImageKind) -> str:
    """The name of a figure's picture in the paper's folder: effects-3.3in.pdf."""
    return f"{plain_name(figure.name)}-{width / PX_PER_INCH:.3g}in.{kind}"


def data_file(figure: Figure) -> str:
    """The name of a figure's rows: effects-figure.csv."""
    return f"{plain_name(figure.name)}-figure.csv"


def table_file(table: Table, kind: str) -> str:
    """The name of a table in one of TABLE_FORMATS: effects.tex."""
    return f"{plain_name(table.name)}.{kind}"


def write_paper(folder: Path, chapters: Sequence[Chapter], methods: Sequence[Item]) -> None:
    """Fill a folder with all figures and tables of the chapters, the methods, and the references these name.

    Other files in the folder are removed. Raises StoreError when a figure cannot be drawn or a file not be written.
    """
    figures = [figure for chapter in chapters for figure in chapter.figures]
    tables = [table for chapter in chapters for table in chapter.tables]
    written: set[str] = set()

    def write(name: str, content: bytes | str) -> None:
        write_bytes(folder / name, content.encode() if isinstance(content, str) else content)
        written.add(name)

    for figure in figures:
        write(data_file(figure), csv_text(figure.frame))
        for width, kind in product((NARROW, WIDE), IMAGE_KINDS):
            write(image_file(figure, width, kind), as_image(figure, width, kind))
    for table, (kind, rendered) in product(tables, TABLE_FORMATS.items()):
        write(table_file(table, kind), rendered(table))
    write("figures.tex", "\n".join(map(_figure_in_latex, figures)))
    sources = references_in(item.text for item in methods)
    write(
        "methods.tex", "".join(f"\\paragraph{{{escaped(m.title)}}} {with_cite(m.text, escaped)}\n\n" for m in methods)
    )
    cited = "".join(f"- {markdown(source.full)}\n" for source in sources)
    write("methods.md", "".join(f"**{markdown(m.title)}.** {markdown(m.text)}\n\n" for m in methods) + cited)
    write("references.bib", "\n".join(source.entry for source in sources))
    for path in folder.iterdir():
        if path.name not in written:
            with explained(path):
                path.unlink(missing_ok=True)


def _figure_in_latex(figure: Figure) -> str:
    """A figure of one column with its caption; it needs the package graphicx."""
    return (
        f"\\begin{{figure}}\n\\centering\n\\includegraphics{{{image_file(figure, NARROW, 'pdf')}}}\n"
        f"\\caption{{{escaped(figure.title)}. {escaped(figure.subtitle)}}}\\label{{fig:{plain_name(figure.name)}}}\n"
        "\\end{figure}\n"
    )
