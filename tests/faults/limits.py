"""Reading within limits of time and memory: what is outcome_of of a hostile file, and that it is a few typed lines."""

from __future__ import annotations

import os
import resource
import signal
from collections.abc import Callable
from pathlib import Path

from isoloss.errors import MAX_ERRORS, IsolossError

TIMEOUT_S = 20
MAX_MEMORY_BYTES = 512 << 20


def outcome_of(read: Callable[[], object], memory_bytes: int = MAX_MEMORY_BYTES) -> str:
    """What reading leads to, in a fork that is killed at the limits: the error's type and text, or nothing."""
    receive, send = os.pipe()
    child = os.fork()
    if child == 0:
        outcome = "died"
        try:
            signal.alarm(TIMEOUT_S)
            taken = int(Path("/proc/self/statm").read_text().split()[0]) * os.sysconf("SC_PAGE_SIZE")
            resource.setrlimit(resource.RLIMIT_AS, (taken + memory_bytes, taken + memory_bytes))
            read()
            outcome = ""
        except BaseException as error:
            outcome = f"{type(error).__name__}: {error}"
        finally:
            os.write(send, outcome.encode(errors="replace")[:60_000])
            os._exit(0)
    os.close(send)
    with os.fdopen(receive, "rb") as stream:
        outcome = stream.read().decode()
    assert os.waitpid(child, 0)[1] == 0, "over the limit of time, or crashed"
    return outcome


def refused(read: Callable[[], object], kind: type[IsolossError], message: str) -> None:
    outcome = outcome_of(read)
    # One error has its own kind; several at once are of the kind's plural.
    assert outcome.startswith((f"{kind.__name__}: ", f"{kind.__name__}s: ")) and message in outcome, outcome[:500]
    lines = outcome.split("\n")
    assert all(line.isprintable() and len(line) < 2100 for line in lines) and len(lines) <= MAX_ERRORS + 1
    assert "allocate" not in outcome
