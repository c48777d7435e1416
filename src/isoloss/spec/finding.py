"""A finding of the design audit, and how its sentences name things."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any, Literal

Severity = Literal["blocks", "limits", "note"]
SEVERITIES: tuple[Severity, ...] = ("blocks", "limits", "note")
"""Something stated can't be judged; what is concluded is limited; good to know. The gravest first."""


@dataclass(frozen=True)
class Finding:
    """Something to know about a design before it is trained. `code` is stable; both texts end in full stops."""

    code: str
    sentence: str
    remedy: str
    severity: Severity


def counted(n: int, noun: str) -> str:
    """A number with its noun: 1 run, 1,200 runs."""
    return f"{n:,} {noun}{'' if n == 1 else 's'}"


def of_runs(n: int, total: int) -> str:
    """Some of all runs: 16 of 32 runs."""
    return f"{n:,} of {counted(total, 'run')}"


def named(value: Any) -> str:
    """A value as a sentence shows it: 1,000, 0.001, none."""
    if value is None:
        return "none"
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, int):
        return f"{value:,}"
    return f"{value:.4g}" if isinstance(value, float) else str(value)


def listed(values: Iterable[Any]) -> str:
    """Values as a sentence lists them: 4, 8 and 16."""
    words = [named(value) for value in values]
    return " and ".join([", ".join(words[:-1]), words[-1]] if len(words) > 1 else words)


def between(values: Iterable[float]) -> str:
    """The smallest and largest of some numbers: 0.5 to 4.1; one number where they are equal."""
    ordered = sorted(values)
    ends = [named(ordered[0]), named(ordered[-1])]
    return ends[0] if ends[0] == ends[1] else f"{ends[0]} to {ends[1]}"
