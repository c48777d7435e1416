"""How to execute a study, checked before anything is imported or written."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Literal, Optional

from isoloss.errors import ConfigError

Device = Literal["auto", "cpu", "cuda", "mps"]
PrecisionChoice = Literal["auto", "fp32", "bf16", "fp16"]
Compile = Literal["auto", "on", "off"]

Count = Optional[int]  # noqa: UP045  (the command line's help would take twice as long to show `int | None`)


def _shown(help: str, otherwise: str | None = None) -> Mapping[str, str | None]:
    """What the command line's help shows of a field; `otherwise` says in words what None stands for."""
    return {"help": help, "otherwise": otherwise}


@dataclass(frozen=True)
class RunOptions:
    """How to execute a study; nothing here changes what is computed, but for `precision` where the study has none.

    Runs begun with other numerics (threads, kernels, stack width, another machine) are refused unless accepted. The
    command line's options are these, with their descriptions. Example: RunOptions(device="cpu", workers=1)
    """

    device: Device = field(default="auto", metadata=_shown("Where to train."))
    precision: PrecisionChoice = field(
        default="auto",
        metadata=_shown("Arithmetic of training; auto: bf16 where the hardware multiplies it, else fp32."),
    )
    workers: Count = field(default=None, metadata=_shown("Worker processes.", "one a core on a CPU"))
    stack: Count = field(
        default=None,
        metadata=_shown("Runs of equal shape that train together in one program.", "1 on a CPU, what fits on a GPU"),
    )
    compile: Compile = field(
        default="auto",
        metadata=_shown(
            "Kernels built by this machine's C++ compiler, or on CUDA by Triton; auto: not for short studies on a CPU."
        ),
    )
    offline: bool = field(default=False, metadata=_shown("Fetch nothing; use what is in the cache."))
    accept_other_numerics: bool = field(
        default=False,
        metadata=_shown("Continue runs that began with other threads, kernels, stacks or hardware, and record it."),
    )

    def __post_init__(self) -> None:
        for name in ("workers", "stack"):
            value = getattr(self, name)
            if value is not None and value < 1:
                raise ConfigError(f"--{name} {value}: at least 1 is needed", (name,))
