"""A plain GPT as one would write it without a member axis: what the stacked model and optimizer must agree with."""

from __future__ import annotations

from math import cos, pi
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from isoloss.model.parameters import init_flat, layout_of
from isoloss.study.config import RunConfig
from isoloss.study.shapes import hidden_width


class Norm(nn.Module):
    def __init__(self, config: RunConfig) -> None:
        super().__init__()
        self.kind = config.norm
        self.weight = nn.Parameter(torch.ones(config.n_embd))
        self.bias = nn.Parameter(torch.zeros(config.n_embd)) if config.bias else None

    def forward(self, x: Tensor) -> Tensor:
        if self.kind == "layernorm":
            return F.layer_norm(x, self.weight.shape, self.weight, self.bias, 1e-5)
        normed = F.rms_norm(x, self.weight.shape, self.weight, 1e-5)
        return normed if self.bias is None else normed + self.bias


def rope(x: Tensor) -> Tensor:
    """Channels i and i + D/2 as one complex number, turned by its position."""
    length, width = x.shape[2:]
    angles = torch.outer(torch.arange(length), 10_000 ** (-torch.arange(0, width, 2) / width))
    turned = torch.complex(x[..., : width // 2], x[..., width // 2 :]) * torch.polar(torch.ones(()), angles)
    return torch.cat((turned.real, turned.imag), dim=3)


class Attention(nn.Module):
    def __init__(self, config: RunConfig) -> None:
        super().__init__()
        self.config, self.n_kv_head = config, config.n_kv_head or config.n_head
        self.size = config.n_embd // config.n_head
        self.c_attn = nn.Linear(config.n_embd, config.n_embd + 2 * self.n_kv_head * self.size, bias=config.bias)
        self.c_proj = nn.Linear(config.n_embd, config.n_embd, bias=config.bias)

    def forward(self, x: Tensor) -> Tensor:
        batch, length, width = x.shape
        parts = self.c_attn(x).split((width, self.n_kv_head * self.size, self.n_kv_head * self.size), dim=2)
        q, k, v = (part.view(batch, length, -1, self.size).transpose(1, 2) for part in parts)
        if self.config.qk_norm:
            q, k = F.rms_norm(q, (self.size,), eps=1e-5), F.rms_norm(k, (self.size,), eps=1e-5)
        if self.config.position == "rope":
            q, k = rope(q), rope(k)
        distance = torch.arange(length)[:, None] - torch.arange(length)
        seen = (distance >= 0) & (distance < (self.config.window or length))
        scale = None if self.config.parametrization == "standard" else 8 / self.size
        y = F.scaled_dot_product_attention(q, k, v, attn_mask=seen, enable_gqa=True, scale=scale)
        return self.c_proj(y.transpose(1, 2).reshape(batch, length, width))


class MLP(nn.Module):
    def __init__(self, config: RunConfig) -> None:
        super().__init__()
        self.kind, hidden = config.mlp, hidden_width(config)
        self.c_fc = nn.Linear(config.n_embd, hidden * (2 if config.mlp == "swiglu" else 1), bias=config.bias)
        self.c_proj = nn.Linear(hidden, config.n_embd, bias=config.bias)

    def forward(self, x: Tensor) -> Tensor:
        x = self.c_fc(x)
        if self.kind == "swiglu":
            gate, x = x.chunk(2, dim=2)
            return self.c_proj(gate * torch.sigmoid(gate) * x)
        return self.c_proj(F.gelu(x) if self.kind == "gelu" else F.relu(x) ** 2)


class Block(nn.Module):
    def __init__(self, config: RunConfig) -> None:
        super().__init__()
        self.ln_1, self.attn = Norm(config), Attention(config)
        self.ln_2, self.mlp = Norm(config), MLP(config)
        deep = config.parametrization == "completep"
        self.share = (config.base_n_layer or 0) / config.n_layer if deep else 1.0

    def forward(self, x: Tensor) -> Tensor:
        x = x + self.attn(self.ln_1(x)) * self.share
        return x + self.mlp(self.ln_2(x)) * self.share


class ReferenceGPT(nn.Module):
    """Without dropout; parameter names are nanoGPT's. Starts from isoloss's initial weights of the same seed."""

    def __init__(self, config: RunConfig) -> None:
        super().__init__()
        self.widths = 1.0 if config.parametrization == "standard" else config.n_embd / (config.base_n_embd or 1)
        self.transformer = nn.ModuleDict(
            {
                "wte": nn.Embedding(config.vocab_size, config.n_embd),
                **({"wpe": nn.Embedding(config.block_size, config.n_embd)} if config.position == "learned" else {}),
                "h": nn.ModuleList(Block(config) for _ in range(config.n_layer)),
                "ln_f": Norm(config),
            }
        )
        if not config.tie_embeddings:
            self.lm_head = nn.Linear(config.n_embd, config.vocab_size, bias=False)
        weights = layout_of(config).split(init_flat(config))
        prefixed = {name if name == "lm_head.weight" else f"transformer.{name}": w for name, w in weights.items()}
        self.load_state_dict(prefixed)

    def forward(self, tokens: Tensor) -> Tensor:
        """Logits, shape [B, T, V]."""
        parts: Any = self.transformer
        x = parts["wte"](tokens)
        if "wpe" in parts:
            x = x + parts["wpe"].weight[: tokens.shape[1]]
        for block in parts["h"]:
            x = block(x)
        head = self.lm_head if hasattr(self, "lm_head") else parts["wte"]
        return F.linear(parts["ln_f"](x), head.weight) / self.widths


def reference_losses(config: RunConfig, blocks: list[Tensor], micro: int = 1) -> list[float]:
    """Losses of plain training, one for each optimizer step; `blocks` are micro-batches of shape [B, T+1]."""
    model = ReferenceGPT(config)
    optimizer = reference_optimizer(model, config)
    losses: list[float] = []
    for step in range(len(blocks) // micro):
        for group in optimizer.param_groups:
            group["lr"] = reference_rate(config, step) * group.get("share", 1.0)
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
    named = list(model.named_parameters())
    matrices = [p for name, p in named if ".h." in name and p.dim() == 2]
    tables = [p for name, p in named if ".h." not in name and p.dim() == 2]
    widths = getattr(model, "widths", 1.0)
    decay = config.weight_decay
    return torch.optim.AdamW(
        [
            {
                "params": matrices,
                "weight_decay": decay * (widths if config.parametrization == "completep" else 1),
                "share": 1 / widths,
            },
            {"params": tables, "weight_decay": decay},
            {"params": [p for _, p in named if p.dim() < 2], "weight_decay": 0.0},
        ],
        lr=config.learning_rate,
        betas=(config.beta1, config.beta2),
    )


def reference_rate(config: RunConfig, step: int) -> float:
    if step < config.warmup_iters:
        return config.learning_rate * (step + 1) / (config.warmup_iters + 1)
    end = config.lr_decay_iters or config.max_iters
    share = min(1.0, (step - config.warmup_iters) / (end - config.warmup_iters))
    return config.min_lr + (config.learning_rate - config.min_lr) * (1 + cos(pi * share)) / 2
