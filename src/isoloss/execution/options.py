"""How to execute a study, checked before anything is imported or written."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from isoloss.errors import ConfigError

Compile = Literal["auto", "on", "off"]


@dataclass(frozen=True)
class RunOptions:
    """How to execute a study; nothing here changes what is computed, but for `precision` where the study has none.

    Runs begun with other numerics (threads, kernels, stack width, another machine) are refused unless accepted.

    `workers` None is one process a core on a CPU; `stack` None is one run a stack on a CPU and as many as fit on
    an accelerator; `compile` auto compiles fast kernels for a CPU where the study is long enough to repay it.
    """

    device: str = "auto"
    precision: str = "auto"
    workers: int | None = None
    stack: int | None = None
    offline: bool = False
    compile: Compile = "auto"
    accept_other_numerics: bool = False

    def __post_init__(self) -> None:
        for name in ("workers", "stack"):
            value = getattr(self, name)
            if value is not None and value < 1:
                raise ConfigError(f"--{name} {value}: at least 1 is needed", (name,))
