"""Words on a terminal. They may be a stranger's, and what a terminal would obey is shown instead."""

from __future__ import annotations

import sys

from isoloss.errors import printable


def say(line: str) -> None:
    """One line for the person, on stderr."""
    print(printable(line), file=sys.stderr)


def show(text: str) -> None:
    """An answer on stdout, of any number of lines."""
    print("\n".join(map(printable, text.split("\n"))))
