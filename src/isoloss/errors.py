"""Errors, and the exit code with which each ends the program.

IsolossError (2)
├── ConfigError        a setting, study or command line that cannot be run as written
│   └── ConfigErrors       several of them, a line each
├── CorpusError        a text that cannot be fetched, verified or tokenized
├── StoreError         a study directory that cannot be read or written
│   ├── InUseError         files that another process writes
│   └── UnreadableError    a file the system cannot read now, and that may be undamaged
├── NumericsError      a checkpoint that does not belong to this run or is damaged
├── TrackerError       an experiment tracker that cannot be reached, or refuses what it is sent
├── DeviceLostError    a GPU that does no more work for this process
└── AllFailedError (1) a study of which every run failed
CompilerError          fast kernels that cannot be compiled here: never ends the program, torch's are used
Interrupted (130)      stopped on request; everything finished so far is on disk
"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Callable, Sequence
from typing import TypeVar

Made = TypeVar("Made")

MAX_ERRORS, MAX_COUNTED = 20, 1000
"""How many errors are listed at once, and how many are looked for at all."""
MAX_MESSAGE_CHARACTERS = 2000
"""Characters of an error's text; the middle of a longer one is cut out."""


def printable(text: str) -> str:
    """The text on one line, with every control, format or separator character escaped as in JSON.

    So text from a study can neither send escape sequences to a terminal nor forge lines, and cannot reverse the
    direction of writing.
    """
    return text if text.isprintable() else "".join(map(_visible, text))


def _visible(character: str) -> str:
    kind = unicodedata.category(character)
    if not kind.startswith("C") and kind not in ("Zl", "Zp"):
        return character
    return re.sub("(....)", r"\\u\1", character.encode("utf-16-be", "surrogatepass").hex())


class IsolossError(Exception):
    """Base of every error a user can act on; its text is one line: what, where, what instead.

    It may quote untrusted text, and is printable all the same.
    """

    exit_code = 2

    def __str__(self) -> str:
        text = super().__str__()
        if len(text) > MAX_MESSAGE_CHARACTERS:
            text = f"{text[: MAX_MESSAGE_CHARACTERS // 2]} … {text[-MAX_MESSAGE_CHARACTERS // 2 :]}"
        return printable(text)


class ConfigError(IsolossError):
    """A setting that cannot be run as written. `fields` names the settings involved, the most specific place first."""

    def __init__(self, message: str, fields: tuple[str, ...] = ()) -> None:
        super().__init__(message)
        self.fields = fields

    @property
    def each(self) -> tuple[ConfigError, ...]:
        """The errors one by one."""
        return (self,)


class ConfigErrors(ConfigError):
    """Several settings that cannot be run as written. The text has a line for each, MAX_ERRORS at most."""

    def __init__(self, errors: Sequence[ConfigError]) -> None:
        super().__init__(errors[0].args[0], errors[0].fields)
        self._errors = tuple(errors)

    def __str__(self) -> str:
        lines = [str(error) for error in self._errors[:MAX_ERRORS]]
        more = len(self._errors) - len(lines)
        at_least = "at least " if len(self._errors) >= MAX_COUNTED else ""
        return "\n".join([*lines, f"... and {at_least}{more} more"] if more else lines)

    @property
    def each(self) -> tuple[ConfigError, ...]:
        """The errors one by one."""
        return self._errors


def raise_all(errors: Sequence[ConfigError]) -> None:
    """Raises what is wrong: nothing, a ConfigError, or several as ConfigErrors, each text once."""
    distinct = list({str(error): error for error in reversed(errors)}.values())[::-1]
    if distinct:
        raise distinct[0] if len(distinct) == 1 else ConfigErrors(distinct)


def collect(errors: list[ConfigError], make: Callable[[], Made], default: Made) -> Made:
    """What `make` gives; where it raises a ConfigError, the default, and `errors` grows by what was wrong."""
    try:
        return make()
    except ConfigError as error:
        errors.extend(error.each)
        return default


class CorpusError(IsolossError):
    """A text that cannot be fetched, verified or tokenized."""


class StoreError(IsolossError):
    """A study directory that cannot be read or written."""


class InUseError(StoreError):
    """Files that are locked by another process, which writes them."""


class UnreadableError(StoreError):
    """A file that the system cannot read now: for lack of memory or file handles, or by an I/O error.

    It may be undamaged, so it must not be treated as damaged or missing.
    """


class NumericsError(IsolossError):
    """A checkpoint that does not belong to this run or is damaged."""


class TrackerError(IsolossError):
    """An experiment tracker that cannot be reached, or refuses what it is sent."""


class DeviceLostError(IsolossError):
    """A GPU that does no more work for this process, as after an illegal memory access; a new process may use it."""


class AllFailedError(IsolossError):
    """Every run of a study failed: its text names the first reason. What there is is on disk, summary included."""

    exit_code = 1


class CompilerError(Exception):
    """The fast kernels cannot be compiled or loaded here; its text is one line. Training uses torch's kernels."""


class Interrupted(IsolossError):
    """Stopped on request. What was finished is on disk; the same command continues."""

    exit_code = 130
