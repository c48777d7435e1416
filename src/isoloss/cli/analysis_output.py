"""What the verbs that analyse a table have in common: the processor they take, and how their result is shown."""

from __future__ import annotations

import gc
import os
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

from isoloss.terminal import say, show

if TYPE_CHECKING:
    from isoloss.report.chapter import Chapter


def spare_the_processor() -> None:
    """Let numpy, not yet loaded, multiply in one thread unless the user has set how many; and collect no garbage.

    The matrices are small: a second thread mostly waits, and beside other programs takes twice the processor time. To
    look for cycles takes a twentieth of the time, and a verb that reads and ends leaves few.
    """
    os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")
    gc.disable()


def check_out(out: Path | None) -> None:
    """Before anything is analysed: whether the folder can be written to. Raises StoreError."""
    if out is not None:
        from isoloss.report.standalone import check_output_folder

        check_output_folder(out)


def conclude(chapter: Callable[[], Chapter], json: str | None, out: Path | None, table: Path | str) -> int:
    """Show what was found in the table, as JSON or text; where there is an `out`, write a page with its files there."""
    from isoloss.analysis.reading import name_of
    from isoloss.report.chapter import chapter_as_text

    if out is None and json is not None:
        show(json)
        return 0
    found = chapter()
    if out is not None:
        from isoloss.report.standalone import write_chapter

        say(f"{write_chapter(out, found, table if isinstance(table, str) else name_of(table))}")
    show(chapter_as_text(found) if json is None else json)
    return 0
