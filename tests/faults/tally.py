"""What `make faults` counts, and the table it makes of it in docs/reliability.md."""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import TypeVar

import torch

PROMISES = {
    1: "a kill at any instant changes nothing",
    2: "a kill at any operation changes nothing",
    3: "what a power cut loses leaves the old or the new",
    4: "no run is lost or counted twice",
    5: "one owner",
    6: "a full or failing disk loses nothing acknowledged",
    7: "every damage is noticed, and mended",
    8: "one bad run is one bad run",
    9: "an orderly stop",
    10: "the clock decides nothing",
    11: "one run, one numerics",
    12: "nothing of a stranger's runs or gets out",
    13: "a bad download leaves nothing",
}
DOCUMENT = Path(__file__).parents[2] / "docs" / "reliability.md"
BEGIN, END = "<!-- measured by make faults -->\n", "<!-- end of what make faults measured -->\n"
Point = TypeVar("Point")


@dataclass
class Tally:
    """The trials of one test."""

    trials: int = 0
    passed: int = 0
    at: str = ""

    def of(self, points: Iterable[Point]) -> Iterator[Point]:
        """The points one after another, each a trial that has passed when the next is asked for."""
        for point in points:
            self.trials, self.at = self.trials + 1, str(point)
            yield point
            self.passed += 1


@dataclass
class Row:
    """All tests of one fault."""

    promise: int
    fault: str
    test: str
    trials: int = 0
    passed: int = 0
    seconds: float = 0.0


@dataclass
class Table:
    """The rows of a session by promise and fault, in the order they came."""

    rows: dict[tuple[int, str], Row] = field(default_factory=dict[tuple[int, str], Row])

    def add(self, row: Row) -> None:
        """Count one test more."""
        before = self.rows.setdefault((row.promise, row.fault), Row(row.promise, row.fault, row.test))
        before.trials += row.trials
        before.passed += row.passed
        before.seconds += row.seconds

    @property
    def whole(self) -> bool:
        """Whether every promise was tried."""
        return {promise for promise, _ in self.rows} == set(PROMISES)

    def write(self, document: Path = DOCUMENT) -> None:
        """Replace what an earlier session measured."""
        before, rest = document.read_text(encoding="utf-8").split(BEGIN)
        _, after = rest.split(END)
        document.write_text(before + BEGIN + "\n".join(self._lines()) + "\n" + END + after, encoding="utf-8")

    def _lines(self) -> Sequence[str]:
        rows = sorted(self.rows.values(), key=lambda row: row.promise)
        day, cores = datetime.now(UTC).date().isoformat(), len(os.sched_getaffinity(0))
        minutes = sum(row.seconds for row in rows) / 60
        return [
            f"Measured on {day} by `make faults`: {cores} cores, torch {torch.__version__}, {minutes:.0f} minutes.",
            "",
            "| | promise | fault | trials | passed | seconds | `tests/faults/` |",
            "|---|---|---|---|---|---|---|",
            *(
                f"| {row.promise} | {PROMISES[row.promise]} | {row.fault} | {row.trials:,} | {row.passed:,} "
                f"| {row.seconds:,.0f} | `{row.test}` |"
                for row in rows
            ),
            "",
        ]
