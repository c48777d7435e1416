"""An analysis of anyone's table as a folder: a page, and beside it the files of its figures and tables."""

from __future__ import annotations

from pathlib import Path

from isoloss.errors import StoreError
from isoloss.files import write_text, writing
from isoloss.report.chapter import Chapter
from isoloss.report.page import render_page, render_section
from isoloss.report.paper import LIST, write_paper
from isoloss.store.enclosed import check_enclosed

PAGE, FILES = "index.html", "paper"


def check_output_folder(folder: Path) -> None:
    """Refuse a folder that holds anything else than what an earlier `write_chapter` left. Raises StoreError."""
    if not folder.exists():
        return
    with writing(folder):
        found = sorted(path.name for path in folder.iterdir())
    if found and not (set(found) <= {PAGE, FILES} and (folder / FILES / LIST).is_file()):
        other = next((name for name in found if name not in (PAGE, FILES)), found[0])
        raise StoreError(f"{folder} holds {other}, which no earlier --out wrote; choose a new or an empty folder")
    check_enclosed(folder)


def write_chapter(folder: Path, chapter: Chapter, source: str) -> Path:
    """Write a chapter as index.html and its figures, tables and method as files, and return the page's path.

    `source` is the name of the table it is about.

    Raises StoreError when the folder holds anything else, or cannot be written.
    """
    check_output_folder(folder)
    write_paper(folder / FILES, [chapter])
    write_text(folder / PAGE, render_page(f"{chapter.title}: {source}", [render_section(chapter, files=FILES)]))
    return folder / PAGE
