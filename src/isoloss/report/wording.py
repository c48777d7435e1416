"""Numbers and runs as words. What is missing is a dash, never 0."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from isoloss.analysis.estimate import Estimate

MISSING = "–"
_SI = ((1e15, "P"), (1e12, "T"), (1e9, "G"), (1e6, "M"), (1e3, "k"))


def loss(value: float | None) -> str:
    """A loss to four decimals."""
    return MISSING if value is None else f"{value:.4f}"


def count(value: int | None) -> str:
    """A whole number with thousands separators."""
    return MISSING if value is None else f"{value:,}"


def si(value: float | None) -> str:
    """Three significant digits with a decimal prefix, like 410 k."""
    if value is None:
        return MISSING
    for scale, prefix in _SI:
        if abs(value) >= scale:
            return f"{value / scale:.3g} {prefix}"
    return f"{value:.3g}"


def percent(share: float | None) -> str:
    """A share as a percentage with three significant digits."""
    return MISSING if share is None else f"{100 * share:.3g} %"


def milliseconds(seconds: float | None) -> str:
    """A short time in milliseconds."""
    return MISSING if seconds is None else f"{1000 * seconds:.3g} ms" if seconds < 1 else f"{1000 * seconds:,.0f} ms"


def duration(seconds: float | None) -> str:
    """A span of time in its two largest units."""
    if seconds is None:
        return MISSING
    if seconds < 60:
        return f"{seconds:.1f} s"
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours} h {minutes} min" if hours else f"{minutes} min {rest} s"


def level(value: Any) -> str:
    """A factor level as a study file spells it."""
    if value is None:
        return "null"
    return str(value).lower() if isinstance(value, bool) else str(value)


def plural(n: int, noun: str, nouns: str | None = None) -> str:
    """'1 run', '3 runs', '2 hypotheses'."""
    return f"{n:,} {noun}" if n == 1 else f"{n:,} {nouns or noun + 's'}"


def listed(parts: Sequence[str]) -> str:
    """'a', 'a and b', 'a, b and c'."""
    return " and ".join([", ".join(parts[:-1]), parts[-1]]) if len(parts) > 1 else "".join(parts)


def run_label(row: Mapping[str, Any], factors: Sequence[str], *, with_seed: bool) -> str:
    """A run's short name from its factor levels, like 'n_embd 128 · dropout 0.2 · seed 1337'."""
    parts = [f"{factor} {level(row[factor])}" for factor in factors]
    return " · ".join([*parts, f"seed {row['seed']}"] if with_seed or not parts else parts)


def number(value: float | None, fmt: str = ".4g") -> str:
    """A number to four significant digits, with a true minus sign."""
    return MISSING if value is None else format(value, fmt).replace("-", "−")


def signed(value: float | None) -> str:
    """A difference to four significant digits, with its sign."""
    return number(value, "+.4g")


def probability(p: float | None) -> str:
    """A p-value to three decimals; small ones by their bound."""
    return MISSING if p is None else "< 0.001" if p < 0.001 else f"{p:.3f}"


def interval(estimate: Estimate | None, fmt: str = "+.4g") -> str:
    """The ends of an interval, 'a to b'."""
    if estimate is None or estimate.low is None or estimate.high is None:
        return MISSING
    return f"{number(estimate.low, fmt)} to {number(estimate.high, fmt)}"
