"""What a measured column is called in sentences and on axes, in which unit, and which way is better."""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Literal

from isoloss.wording import number, si

Better = Literal["lower", "higher"]

_KNOWN: dict[str, tuple[str, str, Better | None]] = {
    "best_val_loss": ("best validation loss", "nats", "lower"),
    "final_val_loss": ("final validation loss", "nats", "lower"),
    "final_train_loss": ("final training loss", "nats", "lower"),
    "train_val_gap": ("train-val gap", "nats", None),
    "best_step": ("step of the lowest loss", "", None),
    "loss_roughness": ("roughness of the training loss", "nats", None),
    "median_step_time_s": ("median step time", "s", "lower"),
    "tokens_per_s": ("throughput", "tokens/s", "higher"),
    "mfu": ("MFU", "", "higher"),
    "mfu_a100": ("MFU by the peak of an A100", "", "higher"),
    "train_time_s": ("training time", "s", "lower"),
    "eval_time_s": ("evaluation time", "s", "lower"),
    "checkpoint_time_s": ("checkpoint time", "s", "lower"),
    "wall_time_s": ("wall time", "s", "lower"),
    "steps_to_target": ("number of steps to the target", "", "lower"),
}


@dataclass(frozen=True)
class Response:
    """A measured column. `name` fits into a sentence; `better` is None where neither way is."""

    column: str
    name: str
    unit: str
    better: Better | None

    @property
    def title(self) -> str:
        """The words of an axis: 'best validation loss (nats)'."""
        return f"{self.name.removeprefix('the ')}{f' ({self.unit})' if self.unit else ''}"

    def amount(self, value: float, spec: str = ".3g") -> str:
        """A size with its unit, '0.211 nats'."""
        return f"{short(value, spec)} {self.unit}".strip()


def short(value: float, spec: str = ".3g") -> str:
    """A number in a format; from ten thousand on three digits with a prefix, '1.2 M'."""
    return (
        (si(value) if value < 0 or "+" not in spec else f"+{si(value)}") if abs(value) >= 1e4 else number(value, spec)
    )


def to_digits(values: Iterable[float], digits: int = 3) -> str:
    """The format of numbers to as many decimals as give the largest of them so many digits."""
    largest = max(map(abs, values), default=0.0)
    return f".{max(0, digits - 1 - math.floor(math.log10(largest)))}f" if largest else ".0f"


def response_of(column: str) -> Response:
    """What is known of a column; of a stranger's, that a loss should be low."""
    if column in _KNOWN:
        name, unit, better = _KNOWN[column]
        return Response(column, f"the {name}", unit, better)
    return Response(column, column, "", "lower" if "loss" in column.lower() else None)
