"""The reference model of the tests as a training program with nanoGPT's options and log lines, fp32 and eager."""

from __future__ import annotations

import sys
import time

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from tests.reference import ReferenceGPT, reference_optimizer

from isoloss.data.batches import train_batch
from isoloss.data.tokens import prepare
from isoloss.study.config import RunConfig, make_config
from isoloss.study.studyfile import parse_scalar

OTHERS = {"eval_iters", "eval_interval", "log_interval", "out_dir", "device", "compile"}


def main(arguments: list[str]) -> None:
    """Train, evaluating as nanoGPT does, and print a line a step."""
    options = {name: parse_scalar(value, name) for name, _, value in (a[2:].partition("=") for a in arguments)}
    eval_iters, eval_interval = int(str(options["eval_iters"])), int(str(options["eval_interval"]))
    tokens = prepare("tinyshakespeare", offline=True)
    facts = {"corpus": "tinyshakespeare", "corpus_sha256": tokens.sha256, "vocab_size": tokens.tokenizer.vocab_size}
    config = make_config({**facts, **{name: value for name, value in options.items() if name not in OTHERS}})
    model, started = ReferenceGPT(config), time.perf_counter()
    optimizer = reference_optimizer(model, config)
    for step in range(config.max_iters + 1):
        if step % eval_interval == 0:
            with torch.no_grad():
                for k in range(2 * eval_iters):
                    _loss(model, batch(config, tokens.val_N, -k))
        loss = _loss(model, batch(config, tokens.train_N, step))
        optimizer.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), config.grad_clip)
        optimizer.step()
        now = time.perf_counter()
        print(f"iter {step}: loss {loss.item():.4f}, time {(now - started) * 1e3:.2f}ms")
        started = now


def batch(config: RunConfig, data_N: NDArray[np.uint16], step: int) -> torch.Tensor:
    """Blocks of a split, [B, T+1]."""
    return torch.from_numpy(train_batch(data_N, config.seed, step, 0, 1, config.batch_size, config.block_size))


def _loss(model: ReferenceGPT, block_BxT1: torch.Tensor) -> torch.Tensor:
    return F.cross_entropy(model(block_BxT1[:, :-1]).flatten(0, 1), block_BxT1[:, 1:].flatten())


if __name__ == "__main__":
    main(sys.argv[1:])
