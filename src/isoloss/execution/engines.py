"""The engines of clusters, each imported where it is asked for."""

from __future__ import annotations

import torch

from isoloss.execution.executor import Executor
from isoloss.execution.options import RunOptions


def engine(options: RunOptions, device: torch.device) -> Executor:
    """What --on asks for. Raises ConfigError where it is not here or cannot be reached."""
    if options.on == "slurm":
        from isoloss.execution.slurm import Slurm

        return Slurm(options.slurm_options(), options.workers)
    from isoloss.execution.ray_actors import Ray

    return Ray(options.on.partition(":")[2], options.workers, device)
