"""Where runs train: on devices of this machine, or on those of a cluster, of which only what is stated is known."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path
from typing import cast, get_args

import torch

from isoloss.errors import ConfigError
from isoloss.execution.engines import check_engine
from isoloss.execution.options import RunOptions
from isoloss.study.config import Precision, RunConfig
from isoloss.training.device import available_cores, resolve_device, resolve_devices, resolve_precision

MANY = 1_000_000
"""Stacks that a cluster may train at once: as many as there are."""
_OF_GPUS = "gpus", "gpus-per-node", "gpus-per-socket", "gpus-per-task"
"""Options of sbatch by which a job asks for a GPU; gres may name other things."""


def training_device(options: RunOptions) -> torch.device:
    """The device that runs train on, the first of several. Raises ConfigError when this machine does not have it."""
    if not options.is_elsewhere:
        return resolve_device(options.device)
    stated = options.slurm_options()
    asks_for_gpus = any(name in _OF_GPUS for name in stated) or "gpu" in stated.get("gres", "")
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


def runs_at_once(options: RunOptions, configs: Sequence[RunConfig], device: torch.device, width: int) -> int:
    """How many runs are trained at the same time, at most."""
    return min(len(configs), worker_count(options, device) * width)


def worker_count(options: RunOptions, device: torch.device) -> int:
    """How many stacks are trained at the same time: one a core on a CPU, one a GPU. Raises ConfigError beyond that."""
    if options.is_elsewhere:
        return options.workers or MANY
    if device.type == "cpu":
        return options.workers or available_cores()
    devices = len(resolve_devices(options.device))
    if (options.workers or 1) > devices:
        raise ConfigError(f"--workers {options.workers}: a worker needs a GPU, there are {devices}", ("workers",))
    return options.workers or devices


def check_placement(options: RunOptions, study: Path, ranks: int) -> None:
    """Raises ConfigError where runs cannot train where the options say: before a text is fetched and tokenized."""
    scratch_folder(options, study, ranks)
    check_engine(options, ranks)


def scratch_folder(options: RunOptions, study: Path, ranks: int) -> Path | None:
    """Where --scratch is. Raises ConfigError where nothing can be trained there."""
    if options.scratch is None:
        return None
    scratch = options.scratch.absolute()
    if ranks > 1:
        raise ConfigError("--scratch: several ranks train in the study's own directory", ("scratch",))
    if scratch.is_relative_to(study.absolute()):
        raise ConfigError(f"--scratch {scratch}: name a folder outside {study}", ("scratch",))
    if not options.is_elsewhere and not (scratch.is_dir() and os.access(scratch, os.W_OK)):
        raise ConfigError(f"--scratch {scratch}: not a folder that can be written to here; make it", ("scratch",))
    return scratch
