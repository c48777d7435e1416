"""The engines of clusters, each imported where it is asked for."""

from __future__ import annotations

import torch

from isoloss.errors import ConfigError
from isoloss.execution.executor import Executor
from isoloss.execution.options import RunOptions


def check_engine(options: RunOptions, ranks: int) -> None:
    """Raises ConfigError where what --on asks for is not installed here, or has no use for several ranks."""
    if options.is_elsewhere and ranks > 1:
        raise ConfigError(f"--on {options.on}: several ranks train on this machine; start it without torchrun", ("on",))
    if options.on == "slurm":
        from isoloss.execution.slurm_queue import check_slurm

        check_slurm()
    elif options.is_elsewhere:
        from isoloss.execution.ray_actors import ray_library

        ray_library()


def engine(options: RunOptions, device: torch.device) -> Executor:
    """What --on asks for. Raises ConfigError where it cannot be reached."""
    if options.on == "slurm":
        from isoloss.execution.slurm import Slurm

        return Slurm(options.slurm_options(), options.workers)
    from isoloss.execution.ray_actors import Ray

    return Ray(options.on.partition(":")[2], options.workers, device)
