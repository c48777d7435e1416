"""Signals: the first SIGINT or SIGTERM asks for a clean stop, a second one kills; SIGHUP is ignored."""

from __future__ import annotations

import os
import signal
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from types import FrameType

from isoloss.errors import Interrupted


@contextmanager
def stop_on_signals(say: Callable[[str], None], *, ctrl_c_alone: bool = False) -> Iterator[Callable[[], bool]]:
    """A should_stop() that turns true at the first SIGINT or SIGTERM; the second raises KeyboardInterrupt.

    With `ctrl_c_alone` other signals than SIGINT stay as they are.
    """
    received: list[int] = []

    def on_signal(number: int, frame: FrameType | None) -> None:
        del frame
        if received:
            raise KeyboardInterrupt
        received.append(number)
        say("stopping: saving checkpoints; press Ctrl-C again to kill")

    numbers = (signal.SIGINT,) if ctrl_c_alone else (signal.SIGINT, signal.SIGTERM)
    previous = {number: signal.signal(number, on_signal) for number in numbers}
    if hasattr(signal, "SIGHUP") and not ctrl_c_alone:  # sent when a terminal is closed; workers inherit this
        previous[signal.SIGHUP] = signal.signal(signal.SIGHUP, signal.SIG_IGN)
    try:
        yield lambda: bool(received)
    finally:
        for number, handler in previous.items():
            signal.signal(number, handler)


def interrupts_are_unhandled() -> bool:
    """Whether a Ctrl-C, or a notebook's stop button, would raise KeyboardInterrupt here."""
    in_main_thread = threading.current_thread() is threading.main_thread()
    return in_main_thread and signal.getsignal(signal.SIGINT) is signal.default_int_handler


@contextmanager
def exit_on_signals() -> Iterator[None]:
    """End the program at a SIGINT or SIGTERM at once, while there is nothing to save.

    A KeyboardInterrupt during the import of a library may come out as another error.
    """

    def on_signal(number: int, frame: FrameType | None) -> None:
        del number, frame
        with suppress(OSError):
            os.write(sys.stderr.fileno(), b"isoloss: interrupted before training; the same command continues\n")
        os._exit(Interrupted.exit_code)

    previous = {number: signal.signal(number, on_signal) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield
    finally:
        for number, handler in previous.items():
            signal.signal(number, handler)
