"""THE loop: trains a stack of runs from the step it is at until every member is done, diverged or told to stop."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from math import isfinite
from typing import Literal, Protocol

import numpy as np
import torch
from torch import Tensor

from isoloss.data.batches import train_batch
from isoloss.data.tokens import Tokens
from isoloss.model import gpt
from isoloss.model.layers import Dropout
from isoloss.spec.compute import flops_per_token, tokens_per_step
from isoloss.spec.config import RunConfig
from isoloss.training.device import A100_PEAK_FLOPS, peak
from isoloss.training.distributed import Ranks
from isoloss.training.evaluate import evaluate
from isoloss.training.loss_scale import after_step, overflow_is_fatal
from isoloss.training.optimizer import adamw_step, clip_divisors
from isoloss.training.schedule import learning_rate
from isoloss.training.state import MemberState, Progress, StackState


@dataclass(frozen=True)
class StepRow:
    """One optimizer step: loss and gradient norm at the weights before it, None where not finite.

    `step` is 0-based. In a stack, step_time_s is the whole stack's; rates are this member's share.
    """

    step: int
    loss: float | None
    lr: float
    grad_norm: float | None
    step_time_s: float
    tokens_per_s: float
    mfu: float
    mfu_a100: float


@dataclass(frozen=True)
class EvalRow:
    """One evaluation after `step` steps; losses in nats a token, None where not finite."""

    step: int
    train_loss: float | None
    val_loss: float | None
    eval_time_s: float


class Observer(Protocol):
    """What hears of one member's training; the store's run writer is one."""

    def step(self, row: StepRow) -> None:
        """A step was taken."""
        ...

    def evaluation(self, row: EvalRow) -> None:
        """The member was evaluated."""
        ...

    def checkpoint(self, state: MemberState) -> None:
        """The member's state is to be kept; it is its best when best_step is its step."""
        ...

    def end(self, progress: Progress, outcome: Literal["done", "diverged"], reason: str) -> None:
        """The member leaves the stack for good."""
        ...


def train(
    stack: StackState,
    tokens: Tokens,
    observe: Callable[[RunConfig], Observer],
    *,
    ranks: Ranks | None = None,
    should_stop: Callable[[], bool] = lambda: False,
) -> bool:
    """Train every member to its horizon. True when all ended, False when stopped after a checkpoint of each."""
    ranks = ranks or Ranks()
    while stack.members:
        pairs = list(enumerate(zip(stack.members, stack.progress, strict=True)))
        due = [e for e, (config, progress) in pairs if _evaluation_due(config, progress)]
        complete = {e: "" for e, (config, progress) in pairs if _complete(config, progress)}
        if complete:
            _retire(stack, complete, "done", observe)
        elif due:
            _evaluate(stack, due, tokens, observe, ranks)
            _checkpoint(stack, due, observe)
        elif ranks.any(should_stop()):
            _checkpoint(stack, range(len(stack.members)), observe)
            return False
        else:
            rows = _step(stack, tokens, ranks)
            for config, row in zip(stack.members, rows, strict=True):
                observe(config).step(row)
            _retire(stack, _lost(stack, rows), "diverged", observe)
    return True


def _evaluation_due(config: RunConfig, progress: Progress) -> bool:
    at_evaluation = progress.step % config.eval_interval == 0 or progress.step == config.max_iters
    return at_evaluation and progress.evaluated_step != progress.step


def _complete(config: RunConfig, progress: Progress) -> bool:
    return progress.step >= config.max_iters and progress.evaluated_step == progress.step


def _evaluate(
    stack: StackState, due: Sequence[int], tokens: Tokens, observe: Callable[[RunConfig], Observer], ranks: Ranks
) -> None:
    started = time.perf_counter()
    train_losses, val_losses = evaluate(stack, tokens, ranks)
    elapsed = time.perf_counter() - started
    for e in due:
        progress = stack.progress[e]
        progress = replace(progress, evaluated_step=progress.step, eval_time_s=progress.eval_time_s + elapsed)
        if isfinite(val_losses[e]) and (progress.best_val_loss is None or val_losses[e] < progress.best_val_loss):
            progress = replace(progress, best_val_loss=val_losses[e], best_step=progress.step)
        stack.progress[e] = progress
        row = EvalRow(progress.step, _finite(train_losses[e]), _finite(val_losses[e]), elapsed)
        observe(stack.members[e]).evaluation(row)


def _checkpoint(stack: StackState, members: Sequence[int], observe: Callable[[RunConfig], Observer]) -> None:
    for e in members:
        started = time.perf_counter()
        observe(stack.members[e]).checkpoint(stack.member(e))
        spent = stack.progress[e].checkpoint_time_s + time.perf_counter() - started
        stack.progress[e] = replace(stack.progress[e], checkpoint_time_s=spent)


def _retire(
    stack: StackState,
    leaving: Mapping[int, str],
    outcome: Literal["done", "diverged"],
    observe: Callable[[RunConfig], Observer],
) -> None:
    """Let members (with their reasons) leave the stack; the others go on as they are."""
    for e, reason in leaving.items():
        observe(stack.members[e]).end(stack.progress[e], outcome, reason)
    if leaving:
        stack.keep([e for e in range(len(stack.members)) if e not in leaving])


def _step(stack: StackState, tokens: Tokens, ranks: Ranks) -> list[StepRow]:
    """One optimizer step of every member. A member whose gradient is not finite keeps its weights."""
    started = time.perf_counter()
    step, device = stack.step, stack.exp_avg_ExP.device
    rates = [learning_rate(config, step) for config in stack.members]
    scales_E = torch.tensor([progress.loss_scale for progress in stack.progress], device=device)
    loss_E = _gradients(stack, tokens, ranks, scales_E)
    norms_E = torch.linalg.vector_norm(stack.grad_ExP, dim=1) / scales_E
    adamw_step(
        stack.parameters.flat_ExP,
        stack.grad_ExP,
        stack.exp_avg_ExP,
        stack.exp_avg_sq_ExP,
        members=stack.members,
        decay_end=stack.layout.decay_end,
        updates=[progress.updates for progress in stack.progress],
        rates=rates,
        divisors_E=clip_divisors(stack.members, norms_E) * scales_E,
        skipped_E=(~norms_E.isfinite()).float(),
    )
    stack.parameters.refresh()
    losses, norms = loss_E.tolist(), norms_E.tolist()
    elapsed = time.perf_counter() - started
    threads = torch.get_num_threads()
    rows: list[StepRow] = []
    for e, config in enumerate(stack.members):
        progress = after_step(stack.progress[e], config, overflowed=not isfinite(norms[e]))
        stack.progress[e] = replace(progress, train_time_s=progress.train_time_s + elapsed)
        n_tokens = tokens_per_step(config)
        achieved = n_tokens * flops_per_token(config) / elapsed
        rows.append(
            StepRow(
                step=step,
                loss=_finite(losses[e]),
                lr=rates[e],
                grad_norm=_finite(norms[e]),
                step_time_s=elapsed,
                tokens_per_s=n_tokens / elapsed,
                mfu=achieved / peak(device, config.precision, threads).flops,
                mfu_a100=achieved / A100_PEAK_FLOPS,
            )
        )
    return rows


def _gradients(stack: StackState, tokens: Tokens, ranks: Ranks, scales_E: Tensor) -> Tensor:
    """Fill stack.grad_ExP with the gradient of the step's mean loss times `scales_E`; returns that loss, shape [E]."""
    config, device = stack.members[0], scales_E.device
    rows, n_micro = ranks.rows(config), config.gradient_accumulation_steps
    share = (rows.stop - rows.start) / config.batch_size / n_micro
    total_E = torch.zeros_like(scales_E)
    for micro in range(n_micro):
        blocks_ExBxT1 = _batch(stack.members, tokens, stack.step, micro, rows).to(device)
        dropout = Dropout(stack.members, stack.step, micro, rows, device)
        loss_E = gpt.loss(stack.parameters, stack.members, blocks_ExBxT1, dropout) * share
        (loss_E * scales_E).sum().backward()
        stack.parameters.move_gradients(stack.grad_ExP, add=micro > 0)
        total_E += loss_E.detach()
    ranks.sum(stack.grad_ExP)
    return ranks.sum(total_E)


def _batch(members: Sequence[RunConfig], tokens: Tokens, step: int, micro: int, rows: slice) -> Tensor:
    """This rank's rows of every member's micro-batch, shape [E, B, T+1]."""
    blocks = [train_batch(tokens.train_N, c.seed, step, micro, c.batch_size, c.block_size)[rows] for c in members]
    return torch.from_numpy(np.stack(blocks))


def _lost(stack: StackState, rows: Sequence[StepRow]) -> dict[int, str]:
    """Members that diverged in the step just taken, with the reason."""
    lost: dict[int, str] = {}
    for e, (config, row) in enumerate(zip(stack.members, rows, strict=True)):
        if row.loss is None:
            lost[e] = f"loss is not finite at step {row.step}"
        elif row.grad_norm is None and overflow_is_fatal(stack.progress[e], config):
            lost[e] = f"gradient is not finite at step {row.step}"
    return lost


def _finite(value: float) -> float | None:
    return value if isfinite(value) else None
