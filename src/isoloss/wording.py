"""Numbers and lists as words, the same in audits, claims, page, paper and terminal; what is missing is a dash."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

MISSING = "–"
_SI = ((1e24, "Y"), (1e21, "Z"), (1e18, "E"), (1e15, "P"), (1e12, "T"), (1e9, "G"), (1e6, "M"), (1e3, "k"))


def counted(n: int, noun: str, plural: str | None = None) -> str:
    """A number with its noun: 1 run, 1,200 runs, 2 hypotheses."""
    return f"{n:,} {noun if n == 1 else plural or noun + 's'}"


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
    return number(value) if isinstance(value, float) else str(value)


def level(value: Any) -> str:
    """A factor's level as a study file spells it: 256, 0.1, true, null."""
    if value is None:
        return "null"
    return str(value).lower() if isinstance(value, bool) else str(value)


def listed(values: Iterable[Any]) -> str:
    """Values as a sentence lists them: 4, 8 and 16."""
    words = [named(value) for value in values]
    return " and ".join([", ".join(words[:-1]), words[-1]] if len(words) > 1 else words)


def between(values: Iterable[float]) -> str:
    """The smallest and largest of some numbers: 0.5 to 4.1; one number where they are equal."""
    ordered = sorted(values)
    ends = [named(ordered[0]), named(ordered[-1])]
    return ends[0] if ends[0] == ends[1] else f"{ends[0]} to {ends[1]}"


def shortened(text: str, most: int = 80) -> str:
    """A label as a sentence has room for it; of a longer one the beginning."""
    return text if len(text) <= most else f"{text[: most - 1].rstrip()}…"


def number(value: float | None, spec: str = ".4g") -> str:
    """A number to four significant digits, with a true minus sign."""
    return MISSING if value is None else format(value, spec).replace("-", "−")


def signed(value: float | None) -> str:
    """A difference to four significant digits, with its sign."""
    return number(value, "+.4g")


def loss(value: float | None) -> str:
    """A loss in nats to four decimals."""
    return number(value, ".4f")


def count(value: float | None) -> str:
    """A whole number with thousands separators."""
    return number(value, ",.0f")


def si(value: float | None) -> str:
    """Three significant digits with a decimal prefix: 410 k, 1.2 M."""
    if value is None:
        return MISSING
    for scale, prefix in _SI:
        if abs(value) >= 0.9995 * scale:
            return f"{number(value / scale, '.3g')} {prefix}"
    return number(value, ".3g")


def size(n_bytes: float) -> str:
    """An amount of bytes in decimal units: 410 kB, 1.2 MB, 0 B."""
    return f"{si(n_bytes)}B" if n_bytes >= 1000 else f"{count(n_bytes)} B"


def percent(share: float | None) -> str:
    """A share as a percentage with three significant digits."""
    return MISSING if share is None else f"{number(100 * share, '.3g')} %"


def probability(p: float | None) -> str:
    """A p-value to three decimals; small ones by their bound."""
    return MISSING if p is None else "< 0.001" if p < 0.001 else f"{p:.3f}"


def milliseconds(seconds: float | None) -> str:
    """A short time in milliseconds."""
    return MISSING if seconds is None else f"{1000 * seconds:.3g} ms" if seconds < 1 else f"{1000 * seconds:,.0f} ms"


def duration(seconds: float | None) -> str:
    """A span of time in its two largest units: 31.0 s, 4 min 5 s, 2 h 10 min, 3 d 4 h."""
    if seconds is None:
        return MISSING
    if seconds < 60:
        return f"{seconds:.1f} s"
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    days, hours_left = divmod(hours, 24)
    if days:
        return f"{days} d {hours_left} h"
    return f"{hours} h {minutes} min" if hours else f"{minutes} min {rest} s"
