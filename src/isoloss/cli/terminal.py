"""Words on a terminal. They may be a stranger's, and what a terminal would obey is shown instead."""

from __future__ import annotations

import re
import sys
import unicodedata


def plain(text: str) -> str:
    """The text on one line, with every character that is no sign or space written as JSON escapes it.

    So no escape sequence colours, moves, links or retitles anything, no end of line forges a message, and no mark of
    direction turns words round.
    """
    return "".join(map(_visible, text))


def say(line: str) -> None:
    """One line for the person, on stderr."""
    print(plain(line), file=sys.stderr)


def show(text: str) -> None:
    """An answer on stdout, of any number of lines; JSON stays what it is."""
    print("\n".join(map(plain, text.split("\n"))))


def _visible(character: str) -> str:
    kind = unicodedata.category(character)
    if not kind.startswith("C") and kind not in ("Zl", "Zp"):
        return character
    return re.sub("(....)", r"\\u\1", character.encode("utf-16-be", "surrogatepass").hex())
