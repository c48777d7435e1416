"""How the values of a column read, by the kind of quantity: the same on the page, on paper and in a terminal."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, Literal

from isoloss import wording as say
from isoloss.analysis.estimate import Estimate

Kind = Literal[
    "text", "count", "loss", "difference", "number", "si", "percent", "probability", "ratio", "duration", "milliseconds"
]
"""What a column holds. Seconds for `duration` and `milliseconds`, shares of 1 for `percent`, nats for `loss`."""

_FORMATS: Mapping[Kind, Callable[[Any], str]] = {
    "text": say.level,
    "count": say.count,
    "loss": say.loss,
    "difference": lambda value: say.number(value, "+.4f"),
    "number": say.number,
    "si": say.si,
    "percent": say.percent,
    "probability": say.probability,
    "ratio": lambda value: say.number(value, ".2f"),
    "duration": say.duration,
    "milliseconds": say.milliseconds,
}


def spelled(value: Any, kind: Kind) -> str:
    """A value as words; what is missing is a dash."""
    return say.MISSING if value is None else _FORMATS[kind](value)


def spelled_interval(value: Any, low: Any, high: Any, kind: Kind) -> str:
    """A value with the ends of its interval in brackets, '−0.2110 [−0.2240, −0.1970]'; without them the value alone.

    So is a value that is known, as one that follows from parameters that are given.
    """
    alone = spelled(value, kind)
    if value is None or low is None or high is None or low == high:
        return alone
    return f"{alone} [{spelled(low, kind)}, {spelled(high, kind)}]"


def spelled_estimate(estimate: Estimate, kind: Kind = "number") -> str:
    """An estimate with its interval in brackets; without one, the method that gives none."""
    alone = spelled_interval(estimate.value, estimate.low, estimate.high, kind)
    return f"{alone} ({estimate.method}: no interval)" if estimate.low is None else alone
