"""Words on a terminal. They may be a stranger's, and what a terminal would obey is shown instead."""

from __future__ import annotations

import os
import sys
from contextlib import suppress
from io import StringIO
from queue import SimpleQueue
from threading import Thread
from typing import TextIO

from isoloss.errors import printable

MAX_WAITING, FAREWELL_S = 1000, 1.0
"""Texts that may wait for a reader who does not read, and how long they may at the end."""


class Unhindered(StringIO):
    """A stream to write to that waits for nobody: a terminal that is gone or frozen, or a pager, holds no study up.

    What finds no reader is left out.
    """

    def __init__(self, stream: TextIO) -> None:
        super().__init__()
        self._stream = stream
        self._texts: SimpleQueue[str | None] = SimpleQueue()  # one that a signal handler may put into at any moment
        self._writer: Thread | None = Thread(target=self._write_on, daemon=True)
        try:
            self._writer.start()
        except RuntimeError:  # the system has no thread to give: whoever writes waits
            self._writer = None

    def write(self, text: str, /) -> int:
        """Have it written, in a moment."""
        if self._writer is None:
            self._write(text)
        elif self._texts.qsize() < MAX_WAITING:
            self._texts.put(text)
        return len(text)

    def finish(self) -> None:
        """Let what waits be written, if that takes no longer than a moment."""
        self._texts.put(None)
        if self._writer is not None:
            self._writer.join(FAREWELL_S)

    def isatty(self) -> bool:
        """Whether somebody may be looking."""
        return self._stream.isatty()

    def fileno(self) -> int:
        """The descriptor, by which the width of a terminal is known."""
        return self._stream.fileno()

    def _write_on(self) -> None:
        while (text := self._texts.get()) is not None:
            self._write(text)

    def _write(self, text: str) -> None:
        with suppress(OSError, ValueError):
            _write_past_buffer(self._stream, text)


def _write_past_buffer(stream: TextIO, text: str) -> None:
    """Write to a stream's descriptor: whoever is held up in its buffer would keep the program from ending."""
    try:
        descriptor = stream.fileno()
    except OSError:  # a stream in memory
        stream.write(text)
        return
    left = text.encode(stream.encoding, errors="backslashreplace")
    while left:
        left = left[os.write(descriptor, left) :]


def say(line: str) -> None:
    """One line for the person, on stderr."""
    stream = Unhindered(sys.stderr)
    stream.write(f"{printable(line)}\n")
    stream.finish()


def show(text: str) -> None:
    """An answer on stdout, of any number of lines."""
    print("\n".join(map(printable, text.split("\n"))))
