"""A plain GPT as one would write it without a member axis: what the stacked model and optimizer must agree with."""

from __future__ import annotations

from math import cos, pi, sqrt
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from isoloss.model.parameters import init_flat, layout_of
from isoloss.study.config import RunConfig


class Norm(nn.Module):
    def __init__(self, width: int, bias: bool) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(width))
        self.bias = nn.Parameter(torch.zeros(width)) if bias else None

    def forward(self, x: Tensor) -> Tensor:
        return F.layer_norm(x, self.weight.shape, self.weight, self.bias, 1e-5)


class Attention(nn.Module):
    def __init__(self, config: RunConfig) -> None:
        super().__init__()
        self.n_head = config.n_head
        self.c_attn = nn.Linear(config.n_embd, 3 * config.n_embd, bias=config.bias)
        self.c_proj = nn.Linear(config.n_embd, config.n_embd, bias=config.bias)

    def forward(self, x: Tensor) -> Tensor:
        batch, length, width = x.shape
        q, k, v = (
            part.view(batch, length, self.n_head, -1).transpose(1, 2) for part in self.c_attn(x).split(width, dim=2)
        )
        scores = (q @ k.transpose(2, 3)) / sqrt(width // self.n_head)
        future = torch.ones(length, length, dtype=torch.bool).triu(1)
        attention = scores.masked_fill(future, float("-inf")).softmax(dim=3)
        return self.c_proj((attention @ v).transpose(1, 2).reshape(batch, length, width))


class MLP(nn.Module):
    def __init__(self, config: RunConfig) -> None:
        super().__init__()
        self.c_fc = nn.Linear(config.n_embd, 4 * config.n_embd, bias=config.bias)
        self.c_proj = nn.Linear(4 * config.n_embd, config.n_embd, bias=config.bias)

    def forward(self, x: Tensor) -> Tensor:
        return self.c_proj(F.gelu(self.c_fc(x)))


class Block(nn.Module):
    def __init__(self, config: RunConfig) -> None:
        super().__init__()
        self.ln_1, self.attn = Norm(config.n_embd, config.bias), Attention(config)
        self.ln_2, self.mlp = Norm(config.n_embd, config.bias), MLP(config)

    def forward(self, x: Tensor) -> Tensor:
        x = x + self.attn(self.ln_1(x))
        return x + self.mlp(self.ln_2(x))


class ReferenceGPT(nn.Module):
    """Without dropout; parameter names are nanoGPT's. Starts from isoloss's initial weights of the same seed."""

    def __init__(self, config: RunConfig) -> None:
        super().__init__()
        self.transformer = nn.ModuleDict(
            {
                "wte": nn.Embedding(config.vocab_size, config.n_embd),
                "wpe": nn.Embedding(config.block_size, config.n_embd),
                "h": nn.ModuleList(Block(config) for _ in range(config.n_layer)),
                "ln_f": Norm(config.n_embd, config.bias),
            }
        )
        weights = layout_of(config).split(init_flat(config))
        self.load_state_dict({f"transformer.{name}": tensor for name, tensor in weights.items()})

    def forward(self, tokens: Tensor) -> Tensor:
        """Logits, shape [B, T, V]."""
        parts: Any = self.transformer
        x = parts["wte"](tokens) + parts["wpe"].weight[: tokens.shape[1]]
        for block in parts["h"]:
            x = block(x)
        return F.linear(parts["ln_f"](x), parts["wte"].weight)


def reference_losses(config: RunConfig, blocks: list[Tensor], micro: int = 1) -> list[float]:
    """Losses of plain training, one for each optimizer step; `blocks` are micro-batches of shape [B, T+1]."""
    model = ReferenceGPT(config)
    optimizer = reference_optimizer(model, config)
    losses: list[float] = []
    for step in range(len(blocks) // micro):
        for group in optimizer.param_groups:
            group["lr"] = reference_rate(config, step)
        total = torch.zeros(())
        for block in blocks[step * micro : (step + 1) * micro]:
            total = total + F.cross_entropy(model(block[:, :-1]).flatten(0, 1), block[:, 1:].flatten()) / micro
        optimizer.zero_grad()
        total.backward()
        if config.grad_clip:
            nn.utils.clip_grad_norm_(model.parameters(), config.grad_clip)
        optimizer.step()
        losses.append(total.item())
    return losses


def reference_optimizer(model: nn.Module, config: RunConfig) -> torch.optim.AdamW:
    decayed = [p for p in model.parameters() if p.dim() >= 2]
    others = [p for p in model.parameters() if p.dim() < 2]
    return torch.optim.AdamW(
        [{"params": decayed, "weight_decay": config.weight_decay}, {"params": others, "weight_decay": 0.0}],
        lr=config.learning_rate,
        betas=(config.beta1, config.beta2),
    )


def reference_rate(config: RunConfig, step: int) -> float:
    if step < config.warmup_iters:
        return config.learning_rate * (step + 1) / (config.warmup_iters + 1)
    end = config.lr_decay_iters or config.max_iters
    share = min(1.0, (step - config.warmup_iters) / (end - config.warmup_iters))
    return config.min_lr + (config.learning_rate - config.min_lr) * (1 + cos(pi * share)) / 2
