"""How to execute a study, checked before anything is imported or written."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from re import fullmatch
from typing import Literal, Optional

from isoloss.errors import ConfigError

PrecisionChoice = Literal["auto", "fp32", "bf16", "fp16"]
Compile = Literal["auto", "on", "off"]

SET_BY_ISOLOSS = "array", "error", "job-name", "ntasks", "open-mode", "output", "signal"
"""Options of sbatch by which a study's jobs are found again, told of their time limit, and train a stack once."""

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

    device: str = field(
        default="auto",
        metadata=_shown("Where to train: auto, cpu, cuda (every GPU of this machine), cuda:N (one of them) or mps."),
    )
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
    on: str = field(
        default="here",
        metadata=_shown("What trains: here (this machine), or a cluster: slurm, ray or ray:ADDRESS; docs/clusters.md."),
    )
    slurm: Optional[str] = field(  # noqa: UP045
        default=None,
        metadata=_shown("sbatch's options for each job, as in partition=gpu,gpus_per_node=1,time=2:00:00.", "none"),
    )
    scratch: Optional[Path] = field(  # noqa: UP045
        default=None,
        metadata=_shown(
            "Folder on each machine's own disk to train in; what ends or stops is moved to the study whole.", "none"
        ),
    )
    offline: bool = field(default=False, metadata=_shown("Fetch nothing; use what is in the cache."))
    accept_other_numerics: bool = field(
        default=False,
        metadata=_shown("Continue runs that began with other threads, kernels, stacks or hardware, and record it."),
    )

    def __post_init__(self) -> None:
        if not fullmatch(r"auto|cpu|mps|cuda(:\d{1,3})?", self.device):
            raise ConfigError(f"--device {self.device}: write auto, cpu, cuda, cuda:N or mps", ("device",))
        if not fullmatch(r"here|slurm|ray(:\S+)?", self.on):
            raise ConfigError(f"--on {self.on}: write here, slurm, ray or ray:ADDRESS", ("on",))
        if self.is_elsewhere and self.device not in ("auto", "cpu", "cuda"):
            raise ConfigError(f"--device {self.device}: on a cluster write cuda or cpu", ("device",))
        if self.slurm is not None and self.on != "slurm":
            raise ConfigError("--slurm is for --on slurm", ("slurm",))
        self.slurm_options()
        for name in ("workers", "stack"):
            value = getattr(self, name)
            if value is not None and value < 1:
                raise ConfigError(f"--{name} {value}: at least 1 is needed", (name,))

    @property
    def is_elsewhere(self) -> bool:
        """Whether runs train on a cluster's machines."""
        return self.on != "here"

    def slurm_options(self) -> dict[str, str]:
        """What --slurm states, by the long names of sbatch's options. Raises ConfigError."""
        found: dict[str, str] = {}
        for stated in self.slurm.split(",") if self.slurm else ():
            name, _, value = stated.partition("=")
            key = name.strip().removeprefix("--").replace("_", "-")
            if not fullmatch("[a-z][a-z-]*", key) or not fullmatch(r"[^\s'\"]+", value.strip()):
                raise ConfigError(f"--slurm {self.slurm}: write NAME=VALUE,NAME=VALUE, as in partition=gpu", ("slurm",))
            if key in SET_BY_ISOLOSS:
                raise ConfigError(f"--slurm {self.slurm}: isoloss sets {key} itself, leave it out", ("slurm",))
            found[key] = value.strip()
        return found
