"""Sampling from one trained member: temperature, top-k, and a seed that decides every draw."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from isoloss.errors import ConfigError
from isoloss.model import gpt
from isoloss.model.parameters import Parameters
from isoloss.randomness import Purpose, generator
from isoloss.study.config import RunConfig


@dataclass(frozen=True)
class Sampling:
    """How to sample: `length` new tokens for each of `number` samples; `top_k` None keeps every token.

    A text longer than block_size is continued from its last half block, re-read once every half block. `sliding`
    re-reads the last block_size tokens for every single one, as nanoGPT does: positions are absolute, so that
    nothing cached survives a shift.
    """

    length: int = 500
    number: int = 1
    temperature: float = 0.8
    top_k: int | None = None
    seed: int = 1337
    sliding: bool = False

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


class _Cache:
    """Keys and values of the tokens read so far in every block, within block_size."""

    def __init__(self, config: RunConfig, n_samples: int, device: torch.device) -> None:
        # what queries of a group share is kept once
        shape = (
            config.n_layer,
            2,
            n_samples * (config.n_kv_head or config.n_head),
            config.block_size,
            config.n_embd // config.n_head,
        )
        self._keys_values_Lx2xGxTxD = torch.empty(shape, device=device)
        self.length = 0

    def extended(self, block: int, k_GxTxD: Tensor, v_GxTxD: Tensor) -> tuple[Tensor, Tensor]:
        """Keys and values of a block with the new tokens' behind them."""
        stop = self.length + k_GxTxD.shape[1]
        kept_2xGxTxD = self._keys_values_Lx2xGxTxD[block, :, :, :stop]
        kept_2xGxTxD[:, :, self.length :] = torch.stack((k_GxTxD, v_GxTxD))
        return kept_2xGxTxD[0], kept_2xGxTxD[1]


@torch.no_grad()
def generate(
    parameters: Parameters, config: RunConfig, prompt_N: NDArray[np.unsignedinteger[Any]], sampling: Sampling
) -> NDArray[np.int64]:
    """New tokens after a prompt, shape [number, length]; `parameters` of one member, in fp32.

    Sample i draws from its own stream, so up to rounding it does not depend on how many are asked for. Raises
    ConfigError when the prompt is empty.
    """
    if len(prompt_N) == 0:
        raise ConfigError("the prompt is empty; give at least one character", ("prompt",))
    device, block = parameters.flat_ExP.device, config.block_size
    draws_BxN = np.stack(
        [generator(sampling.seed, Purpose.GENERATE, i).random(sampling.length) for i in range(sampling.number)]
    )
    draws_NxBx1 = torch.from_numpy(draws_BxN.T.copy())[..., None]
    text_BxN = torch.empty(sampling.number, len(prompt_N) + sampling.length, dtype=torch.int64, device=device)
    text_BxN[:, : len(prompt_N)] = torch.from_numpy(prompt_N.astype(np.int64)).to(device)
    cache, re_read = _Cache(config, sampling.number, device), block if sampling.sliding else max(1, block // 2)
    for i, draws_Bx1 in enumerate(draws_NxBx1, start=len(prompt_N)):
        first = i - 1
        if cache.length in (0, block):
            first, cache.length = max(0, i - (block if i == len(prompt_N) else re_read)), 0
        logits_BxV = gpt.next_logits(parameters, config, text_BxN[:, first:i], cache)
        cache.length += i - first
        text_BxN[:, i] = _draw(logits_BxV.cpu(), draws_Bx1, sampling).to(device)  # in fp64, which not every device has
    return text_BxN[:, len(prompt_N) :].cpu().numpy()


def _draw(logits_BxV: Tensor, draws_Bx1: Tensor, sampling: Sampling) -> Tensor:
    """The token at which the cumulative distribution passes each uniform draw, shape [S]."""
    scaled_BxV = logits_BxV.double() / sampling.temperature
    if sampling.top_k is not None:
        kept = min(sampling.top_k, scaled_BxV.shape[1])
        threshold_Bx1 = scaled_BxV.topk(kept, dim=1).values[:, -1:]
        scaled_BxV = scaled_BxV.masked_fill(scaled_BxV < threshold_Bx1, float("-inf"))
    cumulative_BxV = torch.softmax(scaled_BxV, dim=1).cumsum(dim=1)
    below_Bx1 = draws_Bx1 * cumulative_BxV[:, -1:]
    return torch.searchsorted(cumulative_BxV, below_Bx1, right=True)[:, 0].clamp(max=logits_BxV.shape[1] - 1)
