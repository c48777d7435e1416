"""The stacked model and optimizer against a plain reference: the same weights and batches give the same losses."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch

from isoloss.data.batches import train_batch
from isoloss.data.token_files import Tokens
from isoloss.study.config import RunConfig
from tests.recording import Recording, recorded
from tests.reference import reference_losses

TOLERANCE = 1e-5


def batches(config: RunConfig, tokens: Tokens) -> list[torch.Tensor]:
    n_micro = config.gradient_accumulation_steps
    return [
        torch.from_numpy(
            train_batch(tokens.train_N, config.seed, step, i, n_micro, config.batch_size, config.block_size)
        )
        for step in range(config.max_iters)
        for i in range(n_micro)
    ]


def losses(recording: Recording) -> list[float]:
    assert all(row.loss is not None for row in recording.steps)
    return [row.loss or 0.0 for row in recording.steps]


@pytest.mark.parametrize("compiled", [False, True])
@pytest.mark.parametrize("settings", [{}, {"bias": True}, {"gradient_accumulation_steps": 2}, {"grad_clip": 0.0}])
def test_a_lone_run_is_the_reference(
    make: Callable[..., RunConfig], tokens: Tokens, settings: dict[str, object], compiled: bool
) -> None:
    config = make(max_iters=50, n_embd=32, n_head=4, **settings)
    [recording] = recorded([config], tokens, compiled=compiled)
    expected = reference_losses(config, batches(config, tokens), config.gradient_accumulation_steps)
    assert losses(recording) == pytest.approx(expected, rel=TOLERANCE)


@pytest.mark.parametrize("compiled", [False, True])
def test_every_member_of_a_mixed_stack_is_its_own_reference(
    make: Callable[..., RunConfig], tokens: Tokens, compiled: bool
) -> None:
    members = [
        make(n_embd=32, n_head=4, max_iters=50, learning_rate=3e-3, grad_clip=0.1, seed=1),
        make(n_embd=32, n_head=2, max_iters=30, learning_rate=1e-3, grad_clip=1.0, seed=2, weight_decay=0.0),
        make(n_embd=32, n_head=8, max_iters=40, learning_rate=1e-2, grad_clip=0.0, seed=1, warmup_iters=10),
    ]
    for config, recording in zip(members, recorded(members, tokens, compiled=compiled), strict=True):
        assert recording.outcome == "done"
        assert losses(recording) == pytest.approx(reference_losses(config, batches(config, tokens)), rel=TOLERANCE)
