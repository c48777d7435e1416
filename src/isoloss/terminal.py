"""Text on a terminal. It may quote anyone: control characters are shown as escapes and never carried out."""

from __future__ import annotations

import os
import sys
from contextlib import suppress
from io import StringIO
from queue import SimpleQueue
from threading import Thread
from typing import TextIO

from isoloss.errors import printable

MAX_WAITING, FINISH_TIMEOUT_S = 1000, 1.0
"""Texts that may wait to be written, and how long the rest of them may take at the end."""


class NonBlockingStream(StringIO):
    """A stream whose writer never waits: a terminal that is gone or frozen, or a pager, does not stop a study.

    A thread writes; text beyond MAX_WAITING is dropped.
    """

    def __init__(self, stream: TextIO) -> None:
        super().__init__()
        self._stream = stream
        self._texts: SimpleQueue[str | None] = SimpleQueue()  # may be put into by a signal handler
        self._writer: Thread | None = Thread(target=self._write_on, daemon=True)
        try:
            self._writer.start()
        except RuntimeError:  # no thread can be started: writing blocks
            self._writer = None

    def write(self, text: str, /) -> int:
        """Queue text to be written."""
        if self._writer is None:
            self._write(text)
        elif self._texts.qsize() < MAX_WAITING:
            self._texts.put(text)
        return len(text)

    def finish(self) -> None:
        """Write what is queued, for FINISH_TIMEOUT_S at most."""
        self._texts.put(None)
        if self._writer is not None:
            self._writer.join(FINISH_TIMEOUT_S)

    def isatty(self) -> bool:
        """Whether this is a terminal."""
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
    """Write to a stream's descriptor: a thread that blocks in its buffer would keep the program from ending."""
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
    stream = NonBlockingStream(sys.stderr)
    stream.write(f"{printable(line)}\n")
    stream.finish()


def show(text: str) -> None:
    """An answer on stdout, of any number of lines."""
    print("\n".join(map(printable, text.split("\n"))))
