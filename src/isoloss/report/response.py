"""What a measured column is called in sentences and on axes, in which unit, and which way is better."""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Literal

from isoloss.analysis.response_scale import NAMES, Scale
from isoloss.wording import number, si

Better = Literal["lower", "higher"]

_KNOWN: dict[str, tuple[str, str, Better | None]] = {
    "best_val_loss": ("best validation loss", "nats", "lower"),
    "final_val_loss": ("final validation loss", "nats", "lower"),
    "best_ema_val_loss": ("best validation loss of the averaged weights", "nats", "lower"),
    "final_ema_val_loss": ("final validation loss of the averaged weights", "nats", "lower"),
    "final_train_loss": ("final training loss", "nats", "lower"),
    "best_val_bpb": ("best validation loss per byte", "bits", "lower"),
    "final_val_bpb": ("final validation loss per byte", "bits", "lower"),
    "best_ema_val_bpb": ("best validation loss per byte of the averaged weights", "bits", "lower"),
    "final_ema_val_bpb": ("final validation loss per byte of the averaged weights", "bits", "lower"),
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

SCALES: tuple[tuple[Scale, str, str], ...] = (
    ("log", "the logarithm of {}", "log units"),
    ("rank", "the rank of {}", "ranks"),
)
"""What a response is called on another scale, and its unit there."""
MAX_LOG = 100.0
"""A difference of logarithms beyond it is no ratio to be read."""


@dataclass(frozen=True)
class Response:
    """A measured column. `name` fits into a sentence; `better` is None where neither way is.

    A difference of a response `in_logs`, of natural logarithms, is the logarithm of a ratio.
    """

    column: str
    name: str
    unit: str
    better: Better | None
    in_logs: bool = False

    @property
    def title(self) -> str:
        """The words of an axis: 'best validation loss (nats)'."""
        return f"{self.name.removeprefix('the ')}{f' ({self.unit})' if self.unit else ''}"

    def amount(self, value: float, spec: str = ".3g") -> str:
        """A size with its unit, '0.211 nats'."""
        return f"{short(value, spec)} {self.unit}".strip()

    def ratio(self, *differences: float) -> str:
        """Differences of logarithms as ratios, ', a factor of 1.02 (1.01 to 1.03)'; empty on any other scale."""
        if not self.in_logs or max(map(abs, differences)) > MAX_LOG:
            return ""
        value, *ends = (short(math.exp(each), ".4g") for each in differences)
        return f", a factor of {value}" + (f" ({' to '.join(ends)})" if ends else "")


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
    """What is known of a column, also on the scales of `on_scale`; of a stranger's, that a loss should be low."""
    for scale, said, unit in SCALES:
        before, after = NAMES[scale].split("{}")
        if column.startswith(before) and column.endswith(after):
            raw = response_of(column.removeprefix(before).removesuffix(after))
            return Response(column, said.format(raw.name), unit, raw.better, scale == "log")
    if column in _KNOWN:
        name, unit, better = _KNOWN[column]
        return Response(column, f"the {name}", unit, better)
    return Response(column, column, "", "lower" if "loss" in column.lower() else None)
