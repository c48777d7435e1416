"""One run over several ranks: each trains its share of every micro-batch, gradients are summed."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import torch
import torch.distributed as dist
from torch import Tensor

from isoloss.errors import ConfigError
from isoloss.study.config import RunConfig


@dataclass(frozen=True)
class Ranks:
    """This process's rank and the number of ranks that train the same run."""

    rank: int = 0
    world: int = 1

    def rows(self, config: RunConfig) -> slice:
        """The sequences of a micro-batch this rank trains; the ranks' shares differ by at most one.

        Raises ConfigError when there are more ranks than sequences.
        """
        size = config.batch_size
        if self.world > size:
            raise ConfigError(f"{self.world} ranks cannot share batch_size={size}; start fewer or raise it")
        return slice(self.rank * size // self.world, (self.rank + 1) * size // self.world)

    def sum(self, tensor: Tensor) -> Tensor:
        """The sum of a tensor over the ranks, in place."""
        if self.world > 1:
            dist.all_reduce(tensor)
        return tensor

    def barrier(self) -> None:
        """Wait for every rank."""
        if self.world > 1:
            dist.barrier()

    def any(self, flag: bool) -> bool:
        """Whether the flag is set on any rank; every rank gets the same answer."""
        return bool(self.sum(torch.tensor(float(flag))).item()) if self.world > 1 else flag


@contextmanager
def ranks_from_environment(device: torch.device) -> Iterator[Ranks]:
    """Join the process group torchrun describes; outside torchrun, a single rank.

    gloo on CPU, NCCL (with gloo for host tensors) on CUDA.
    """
    try:
        world = int(os.environ.get("WORLD_SIZE", "1"))
        if world > 1:
            int(os.environ["RANK"])
    except (KeyError, ValueError) as error:
        raise ConfigError(
            "WORLD_SIZE and RANK are not what torchrun sets; start with torchrun or unset them"
        ) from error
    if world == 1:
        yield Ranks()
        return
    if device.type == "cuda":
        torch.cuda.set_device(device)
    dist.init_process_group("cpu:gloo,cuda:nccl" if device.type == "cuda" else "gloo")
    try:
        yield Ranks(dist.get_rank(), world)
    finally:
        dist.destroy_process_group()
