"""The page: chapters as one HTML file that works offline, without a script too, and when it is mailed alone."""

from __future__ import annotations

from base64 import b64encode
from collections.abc import Sequence
from functools import cache
from hashlib import sha256
from importlib import resources

from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup

from isoloss.report.chapter import Chapter
from isoloss.report.chart import NARROW, WIDE, Figure
from isoloss.report.paper import IMAGE_KINDS, data_file, image_file, table_file
from isoloss.report.payload import explore_scripts, explore_styles

MAX_ROWS = 100
"""Of a table on the page; its CSV has all, and a script that takes the table over shows all."""


def render_page(title: str, chapters: Sequence[Chapter], *, question: str = "", files: str = "", data: str = "") -> str:
    """A page that opens with its first chapter as the answer to the question.

    `files` is the folder, relative to the page, of the files that `write_paper` writes; `data` is what `payload` packed
    for the scripts that draw every run, which a page without it does not have. Text of a study is escaped; figures are
    drawn here. Raises StoreError when one cannot be drawn.
    """
    styles = [_read("page.css"), *(explore_styles() if data else ())]
    scripts = explore_scripts() if data else ()
    environment = Environment(
        loader=PackageLoader("isoloss.report"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    return environment.get_template("page.html.j2").render(
        title=title,
        question=question,
        chapters=chapters,
        files=files,
        kinds=IMAGE_KINDS,
        image_file=image_file,
        data_file=data_file,
        table_file=table_file,
        most_rows=MAX_ROWS,
        svg=_svg,
        wide=WIDE,
        narrow=NARROW,
        styles=styles,
        scripts=scripts,
        data=data,
        policy=content_security_policy(styles, scripts),
    )


def content_security_policy(styles: Sequence[str], scripts: Sequence[str] = (), connect: str = "'none'") -> str:
    """A policy that allows a page its own styles and scripts, by their hashes, and nothing else.

    Text of a study that found its way into the markup all the same could neither run nor send anything anywhere.
    """
    sources = {
        "default-src": "'none'",
        "script-src": " ".join(map(_hashed, scripts)) or "'none'",
        "style-src": " ".join(map(_hashed, styles)) or "'none'",
        "connect-src": connect,
        "img-src": "data:",
        "base-uri": "'none'",
        "form-action": "'none'",
    }
    return "; ".join(f"{kind} {allowed}" for kind, allowed in sources.items())


def _svg(figure: Figure, width: int) -> Markup:
    return Markup(figure.svg(width))  # Vega escapes what it draws; tests/faults/test_page.py tries


@cache
def _read(name: str) -> str:
    return (resources.files("isoloss.report") / "templates" / name).read_text(encoding="utf-8")


def _hashed(text: str) -> str:
    return f"'sha256-{b64encode(sha256(text.encode()).digest()).decode()}'"
