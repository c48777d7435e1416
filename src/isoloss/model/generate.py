"""Sampling from one trained member: temperature, top-k, and a seed that decides every draw."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from isoloss.errors import ConfigError
from isoloss.model import gpt
from isoloss.model.parameters import Parameters
from isoloss.randomness import Purpose, generator
from isoloss.spec.config import RunConfig


@dataclass(frozen=True)
class Sampling:
    """How to sample: `length` new tokens for each of `number` samples; `top_k` None keeps every token."""

    length: int = 500
    number: int = 1
    temperature: float = 0.8
    top_k: int | None = None
    seed: int = 1337

    def __post_init__(self) -> None:
        if self.seed < 0:
            raise ConfigError(f"seed={self.seed}: must not be negative", ("seed",))
        for name in ("length", "number"):
            if getattr(self, name) < 1:
                raise ConfigError(f"{name}={getattr(self, name)}: at least 1 is needed", (name,))
        if not 0 < self.temperature < float("inf"):
            raise ConfigError(
                f"temperature={self.temperature}: must be above 0; 0.01 is nearly greedy", ("temperature",)
            )
        if self.top_k is not None and self.top_k < 1:
            raise ConfigError(f"top_k={self.top_k}: at least 1 is needed", ("top_k",))


@torch.no_grad()
def generate(
    parameters: Parameters, config: RunConfig, prompt_N: NDArray[np.uint16], sampling: Sampling
) -> NDArray[np.int64]:
    """New tokens after a prompt, shape [number, length]; the context is cropped to block_size.

    Sample i draws from its own stream, so it does not depend on how many are asked for. Raises ConfigError when
    the prompt is empty.
    """
    if len(prompt_N) == 0:
        raise ConfigError("the prompt is empty; give at least one character", ("prompt",))
    device = parameters.flat_ExP.device
    draws_SxN = np.stack(
        [generator(sampling.seed, Purpose.GENERATE, i).random(sampling.length) for i in range(sampling.number)]
    )
    context_SxN = torch.from_numpy(prompt_N.astype(np.int64)).repeat(sampling.number, 1).to(device)
    for draws_S in draws_SxN.T:
        logits_SxV = gpt.logits(parameters, [config], context_SxN[None, :, -config.block_size :])[0, :, -1]
        next_S = _draw(logits_SxV, torch.from_numpy(draws_S).to(device), sampling)
        context_SxN = torch.cat([context_SxN, next_S[:, None]], dim=1)
    return context_SxN[:, len(prompt_N) :].cpu().numpy()


def _draw(logits_SxV: Tensor, draws_S: Tensor, sampling: Sampling) -> Tensor:
    """The token at which the cumulative distribution passes each uniform draw, shape [S]."""
    scaled_SxV = logits_SxV.double() / sampling.temperature
    if sampling.top_k is not None:
        kept = min(sampling.top_k, scaled_SxV.shape[1])
        threshold_Sx1 = scaled_SxV.topk(kept, dim=1).values[:, -1:]
        scaled_SxV = scaled_SxV.masked_fill(scaled_SxV < threshold_Sx1, float("-inf"))
    cumulative_SxV = torch.softmax(scaled_SxV, dim=1).cumsum(dim=1)
    below_Sx1 = draws_S[:, None] * cumulative_SxV[:, -1:]
    return torch.searchsorted(cumulative_SxV, below_Sx1, right=True)[:, 0].clamp(max=logits_SxV.shape[1] - 1)
