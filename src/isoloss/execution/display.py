"""Progress on stderr while a study runs: a live table on a terminal, plain lines in a notebook and elsewhere."""

from __future__ import annotations

import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass, field, replace

from rich.console import Console, Group
from rich.live import Live
from rich.table import Table
from rich.text import Text

from isoloss.design.trunks import forks
from isoloss.errors import printable
from isoloss.execution.recorder import ENDED, Event
from isoloss.execution.time_left import Pace, time_left_s
from isoloss.study.config import RunConfig
from isoloss.study.identity import run_id
from isoloss.terminal import NonBlockingStream
from isoloss.wording import duration, loss

PLAIN_INTERVAL_S = 10.0


@dataclass
class Progress:
    """The last known state of all runs, from their events."""

    configs: dict[str, RunConfig]
    factors: Sequence[str]
    events: dict[str, Event] = field(default_factory=dict)
    paces: dict[str, Pace] = field(default_factory=dict)
    begun: dict[str, float] = field(default_factory=dict)
    started: float = field(default_factory=time.monotonic)

    def __post_init__(self) -> None:
        forked = forks([*self.configs.values()])
        for run, config in self.configs.items():
            first = forked[run].step if run in forked else 0
            self.paces[run] = Pace(config, first, first, config.max_iters)

    def take(self, event: Event) -> None:
        """Keep the last event of each run, and how far it is since its first."""
        now, run = time.monotonic(), event.run_id
        self.events[run] = event
        if event.kind == "running" and event.reason:  # a message, at no step
            return
        pace = self.paces[run]
        if event.kind == "running" and run not in self.begun:
            pace = replace(pace, first=event.step)
        step = pace.step if event.kind == "failed" else event.step  # a failure has none
        end = step if event.kind in ENDED else self.configs[run].max_iters
        seconds = now - self.begun.setdefault(run, now)
        self.paces[run] = replace(pace, step=step, end=end, seconds=seconds)

    def label(self, run: str) -> str:
        """A run's factor levels and seed."""
        config = self.configs[run]
        return " ".join(f"{name}={getattr(config, name)}" for name in (*self.factors, "seed"))

    def ended(self) -> int:
        """Runs that have ended, done or not."""
        return sum(event.kind in ENDED for event in self.events.values())

    def counts(self) -> dict[str, int]:
        """Runs by state; those without an event are waiting."""
        kinds = [event.kind for event in self.events.values()]
        waiting = len(self.configs) - len(kinds)
        return {kind: kinds.count(kind) for kind in ("done", "running", "failed", "diverged")} | {"waiting": waiting}

    def eta_s(self) -> float | None:
        """Seconds left by what has been done since the start; None in the first two seconds and 1%."""
        elapsed_s = time.monotonic() - self.started
        return time_left_s([*self.paces.values()], elapsed_s) if elapsed_s > 2 else None

    def tokens_per_s(self) -> float:
        """Tokens a second over all running runs, as last reported."""
        return sum(e.tokens_per_s or 0.0 for e in self.events.values() if e.kind == "running")

    def headline(self) -> str:
        """One line: runs by state, tokens a second, and the time left."""
        counts = ", ".join(f"{n} {kind}" for kind, n in self.counts().items() if n or kind in ("done", "running"))
        eta = self.eta_s()
        left = "" if eta is None else f", ETA {duration(eta)}"
        return f"{counts} of {len(self.configs)}; {self.tokens_per_s():,.0f} tokens/s{left}"

    def table(self) -> Group:
        """The running runs under the headline."""
        table = Table(box=None, pad_edge=False)
        for heading in ("run", "settings", "step", "loss", "tokens/s"):
            table.add_column(heading, justify="right" if heading in ("step", "loss", "tokens/s") else "left")
        for run, event in self.events.items():
            if event.kind == "running":
                step = f"{event.step:,}/{self.configs[run].max_iters:,}"
                rate = f"{event.tokens_per_s:,.0f}" if event.tokens_per_s else "–"
                table.add_row(run, Text(self.label(run)), step, loss(event.loss), rate)
        return Group(self.headline(), table)


class Display:
    """Prints a line for each run that ends and each message; on a terminal, a live table under them."""

    def __init__(self, console: Console) -> None:
        self._console = console
        self._progress = Progress({}, ())
        self._said = time.monotonic()

    def say(self, line: str) -> None:
        """Print one line, above the table where there is one."""
        self._console.print(Text(printable(line)), soft_wrap=True)

    def begin(self, configs: Sequence[RunConfig], factors: Sequence[str]) -> None:
        """Start over with these runs, all waiting."""
        self._progress = Progress({run_id(config): config for config in configs}, factors)

    def emit(self, event: Event) -> None:
        """Take an event; an ended run is a line of its own."""
        self._progress.take(event)
        if event.kind in ENDED:
            position = f"[{self._progress.ended()}/{len(self._progress.configs)}]"
            outcome = event.reason or f"best val loss {loss(event.loss)}"
            self.say(f"{position} {event.run_id} {event.kind}: {outcome}  ({self._progress.label(event.run_id)})")
        elif event.reason:
            self.say(event.reason)
        elif not self._console.is_terminal and time.monotonic() - self._said > PLAIN_INTERVAL_S:
            self._said = time.monotonic()
            self.say(self._progress.headline())

    def table(self) -> Group:
        """The live table."""
        return self._progress.table()


def is_watched() -> bool:
    """Whether somebody reads what is printed: on a terminal, or in a notebook."""
    return sys.stderr.isatty() or "ipykernel" in sys.modules


@contextmanager
def shown() -> Iterator[Display]:
    """A display on stderr whose table is removed from the terminal when it ends."""
    stream = NonBlockingStream(sys.stderr)
    console = Console(file=stream)
    display = Display(console)
    live = Live(console=console, get_renderable=display.table, refresh_per_second=4, transient=True)
    try:
        with live if console.is_terminal else nullcontext():
            yield display
    finally:
        stream.finish()
