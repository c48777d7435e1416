"""Where runs train: on devices of this machine, or on those of a cluster, of which only what is stated is known."""

from __future__ import annotations

from typing import cast, get_args

import torch

from isoloss.errors import ConfigError
from isoloss.execution.options import RunOptions
from isoloss.study.config import Precision
from isoloss.training.device import resolve_device, resolve_precision

_OF_GPUS = "gpus", "gpus-per-node", "gpus-per-task", "gres"
"""Options of sbatch by which a job asks for a GPU."""


def training_device(options: RunOptions) -> torch.device:
    """The device that runs train on, the first of several. Raises ConfigError when this machine does not have it."""
    if not options.is_elsewhere:
        return resolve_device(options.device)
    asks_for_gpus = any(name in _OF_GPUS for name in options.slurm_options())
    if options.device == "cpu" and asks_for_gpus:
        raise ConfigError(f"--device cpu: --slurm {options.slurm} asks for GPUs that nothing would use", ("device",))
    if options.on == "slurm" and options.device == "cuda" and not asks_for_gpus:
        raise ConfigError("--device cuda: ask for a GPU too, as in --slurm gpus_per_node=1", ("slurm",))
    return torch.device("cuda" if asks_for_gpus or options.device == "cuda" else "cpu")


def training_precision(name: str, options: RunOptions) -> Precision:
    """The precision for auto or a name, there. Raises ConfigError where that device lacks it, or is not known here."""
    device = training_device(options)
    if not options.is_elsewhere or device.type == "cpu":
        return resolve_precision(name, device)
    if name not in get_args(Precision):
        raise ConfigError(
            f"--on {options.on}: this machine does not know its GPUs; state --precision bf16, fp16 or fp32",
            ("precision",),
        )
    return cast("Precision", name)
