"""What the fault tests count, and the table made of it in docs/reliability.md."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import TypeVar

PROMISES = {
    1: "a kill at any instant changes nothing",
    2: "a kill at any operation changes nothing",
    3: "after a power cut a file is the old or the new",
    4: "no run is lost or counted twice",
    5: "one owner at a time",
    6: "a full or failing disk loses nothing acknowledged",
    7: "all damage is detected, and repaired",
    8: "a run that fails affects no other",
    9: "an orderly stop",
    10: "no result depends on the clock",
    11: "a run keeps its numerics",
    12: "untrusted input is not executed, and stays in its folder",
    13: "a bad download changes nothing",
}
DOCUMENT = Path(__file__).parents[2] / "docs" / "reliability.md"
BEGIN, END = "<!-- measured by make faults -->\n", "<!-- end of what make faults measured -->\n"
HEAD = ("| | promise | fault | trials | passed | seconds | measured | `tests/faults/` |", "|---" * 8 + "|")
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

    def __str__(self) -> str:
        counts = f"{self.trials:,} | {self.passed:,} | {self.seconds:,.0f} | {datetime.now(UTC).date().isoformat()}"
        return f"| {self.promise} | {PROMISES[self.promise]} | {self.fault} | {counts} | `{self.test}` |"


@dataclass
class Table:
    """The rows of a session by promise and fault."""

    rows: dict[tuple[int, str], Row] = field(default_factory=dict[tuple[int, str], Row])

    def add(self, row: Row) -> None:
        """Count one test more."""
        before = self.rows.setdefault((row.promise, row.fault), Row(row.promise, row.fault, row.test))
        before.trials += row.trials
        before.passed += row.passed
        before.seconds += row.seconds

    def write(self, document: Path = DOCUMENT) -> None:
        """Put the rows into the document, in place of what the same test files measured before."""
        before, rest = document.read_text(encoding="utf-8").split(BEGIN)
        measured, after = rest.split(END)
        known = (line for line in measured.splitlines() if line[:3].strip("| ").isdigit())
        again = tuple(f"`{row.test}` |" for row in self.rows.values())
        lines = {_key(line): line for line in known if not line.endswith(again)}
        lines |= {_key(str(row)): str(row) for row in self.rows.values()}
        table = [*HEAD, *(lines[key] for key in sorted(lines))]
        document.write_text(before + BEGIN + "\n".join(table) + "\n" + END + after, encoding="utf-8")


def _key(line: str) -> tuple[int, str]:
    """Promise and fault of a line of the table."""
    _, promise, _, fault, *_ = (cell.strip() for cell in line.split("|"))
    return int(promise), fault
