"""The page: chapters as one HTML file that works offline, without scripts too, and when it is mailed alone."""

from __future__ import annotations

from base64 import b64encode
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from hashlib import sha256
from importlib import resources
from typing import Any

from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup

from isoloss.report.chapter import Chapter
from isoloss.report.chart import NARROW, WIDE, Figure
from isoloss.report.paper import IMAGE_KINDS, data_file, image_file, table_file
from isoloss.report.payload import explore_scripts, explore_styles

MAX_ROWS = 100
"""Of a table on the page; its CSV has all, and so has a script that takes the table over."""


@dataclass(frozen=True)
class Section:
    """A chapter's markup."""

    id: str
    title: str
    html: Markup


def render_section(chapter: Chapter, *, files: str = "") -> Section:
    """A chapter as markup; `files` is the folder, relative to the page, with the files of its figures and tables.

    Text of a study is escaped. Raises StoreError when a figure cannot be drawn.
    """
    named: dict[str, Any] = {"image_file": image_file, "data_file": data_file, "table_file": table_file, "svg": _svg}
    named |= {"wide": WIDE, "narrow": NARROW, "kinds": IMAGE_KINDS, "max_rows": MAX_ROWS}
    html = _templates().get_template("chapter.html.j2").render(chapter=chapter, files=files, **named)
    return Section(chapter.id, chapter.title, Markup(html))


def render_page(title: str, sections: Sequence[Section], *, question: str = "", data: str = "", live: str = "") -> str:
    """A page that opens with its first section, as the answer to the question.

    `data` is what `payload` packed for the scripts that draw every run; a page without it has none of them. `live` is
    the version that a page of `isoloss watch` shows; such a page may ask its own server for the next.
    """
    styles, scripts = [_read("page.css"), *(explore_styles() if data else ())], [*(explore_scripts() if data else ())]
    scripts += [_read("live.js")] if live else ()
    return (
        _templates()
        .get_template("page.html.j2")
        .render(
            title=title,
            question=question,
            sections=sections,
            data=data,
            styles=styles,
            scripts=scripts,
            live=live,
            policy=content_security_policy(styles, scripts, connect="'self'" if live else "'none'"),
        )
    )


def content_security_policy(styles: Sequence[str], scripts: Sequence[str], *, connect: str) -> str:
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


@cache
def _templates() -> Environment:
    return Environment(
        loader=PackageLoader("isoloss.report"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )


def _svg(figure: Figure, width: int) -> Markup:
    return Markup(figure.svg(width))  # Vega escapes what it draws


@cache
def _read(name: str) -> str:
    return (resources.files("isoloss.report") / "templates" / name).read_text(encoding="utf-8")


def _hashed(text: str) -> str:
    return f"'sha256-{b64encode(sha256(text.encode()).digest()).decode()}'"
