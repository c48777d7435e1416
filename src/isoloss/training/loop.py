"""The training loop: trains a stack of runs from its step until every member is done, diverged or stopped."""

from __future__ import annotations

import time
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass, replace
from functools import partial
from math import isfinite
from typing import Any, Literal, Protocol

import torch

from isoloss.data.token_files import Tokens
from isoloss.study.compute import flops_per_token, tokens_per_step
from isoloss.study.config import RunConfig
from isoloss.study.schedules import learning_rate
from isoloss.training.device import A100_PEAK_FLOPS, peak
from isoloss.training.distributed import Ranks
from isoloss.training.evaluate import DeviceTokens, Evaluated, evaluate, evaluate_averages
from isoloss.training.loss_scale import after_step, overflow_is_fatal
from isoloss.training.saving import Save, Saved, Saver
from isoloss.training.state import Progress, StackState
from isoloss.training.step import MAX_BLOCK_STEPS, Block, Stepper, block_length


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
    """One evaluation after `step` steps; losses in nats a token, None where not finite.

    `val_bpb` is the validation loss in bits a byte of text, None also where an earlier version evaluated.
    `ema_…` are losses of the average of the weights, None too where a run has none. At the run's end alone there is
    `val_loss_by_position`: mean losses by how many tokens of their window stand before the targets (`Evaluated`).
    """

    step: int
    train_loss: float | None
    val_loss: float | None
    eval_time_s: float
    val_bpb: float | None = None
    ema_train_loss: float | None = None
    ema_val_loss: float | None = None
    ema_val_bpb: float | None = None
    val_loss_by_position: dict[str, float | None] | None = None


Outcome = Literal["done", "diverged"]


class Observer(Protocol):
    """Receives the rows, checkpoints and end of one member; execution/recorder.py writes them to files."""

    def step(self, row: StepRow) -> None:
        """A step was taken."""
        ...

    def evaluation(self, row: EvalRow) -> None:
        """The member was evaluated."""
        ...

    def saving(self, what: Saved) -> Save:
        """How the member's state as of now is to be saved; another thread may do so while further rows come."""
        ...

    def end(self, progress: Progress, outcome: Outcome, reason: str) -> None:
        """The member leaves the stack for good."""
        ...


def train(
    stack: StackState,
    tokens: Tokens,
    observe: Callable[[RunConfig], Observer],
    *,
    ranks: Ranks | None = None,
    should_stop: Callable[[], bool] = lambda: False,
    heartbeat: Callable[[RunConfig, int], None] = lambda config, step: None,
    kept_steps: Callable[[RunConfig], Collection[int]] = lambda config: (),
) -> StackState | None:
    """Train every member to its horizon, and keep its state at `kept_steps` for runs that leave it there.

    An evaluation may take long: `heartbeat` is called after each chunk of it, with an evaluated member and its step.
    A stop is heard within one, which is then done again by whoever goes on. Returns None when all members ended, else
    the stack as it was stopped, after a checkpoint of each member.
    """
    ranks = ranks or Ranks()
    texts = DeviceTokens(tokens, stack.device)
    stepper: Stepper | None = None
    with Saver(stack.device, lambda config, what: observe(config).saving(what)) as saver:
        while True:
            pairs = list(enumerate(zip(stack.members, stack.progress, strict=True)))
            due = [e for e, (config, progress) in pairs if _evaluation_due(config, progress)]
            leaving = {e: "" for e, (config, progress) in pairs if _complete(config, progress)}
            outcome: Outcome = "done"
            if due and not leaving:
                beat = partial(heartbeat, stack.members[due[0]], stack.step)
                if not _evaluate(stack, due, texts, observe, ranks, partial(_goes_on, beat, should_stop, ranks)):
                    _timed(stack, saver.save, stack, range(len(stack.members)), "checkpoint")
                    return stack
                ends = any(stack.step == stack.members[e].max_iters for e in due)
                _timed(stack, partial(saver.after_evaluation, now=ends), stack, due)
            elif not leaving and ranks.any(should_stop()):
                _timed(stack, saver.save, stack, range(len(stack.members)), "checkpoint")
                return stack
            elif not leaving:
                stepper = stepper or Stepper(stack, texts.train_N, ranks, texts.layouts[0])
                if kept := [e for e, config in enumerate(stack.members) if stack.step in kept_steps(config)]:
                    _timed(stack, saver.save, stack, kept, "kept")
                n = block_length(stack.members, stack.step, stack.device, kept_steps)
                goes_on = partial(_trains_on, saver, should_stop, ranks)
                leaving, outcome = _steps(stack, stepper, observe, n, goes_on), "diverged"
            if leaving:
                _timed(stack, saver.settle, [stack.members[e] for e in leaving])
            for e, reason in leaving.items():
                observe(stack.members[e]).end(stack.progress[e], outcome, reason)
            if len(leaving) == len(stack.members):
                return None
            if leaving:
                stepper = None  # its tables and its graph's memory first
                stack = stack.keep([e for e in range(len(stack.members)) if e not in leaving])


def after_evaluation(progress: Progress, row: EvalRow) -> Progress:
    """A member's progress once it was evaluated at its step."""
    progress = replace(progress, evaluated_step=row.step, eval_time_s=progress.eval_time_s + row.eval_time_s)
    if row.val_loss is not None and (progress.best_val_loss is None or row.val_loss < progress.best_val_loss):
        progress = replace(progress, best_val_loss=row.val_loss, best_step=row.step)
    return progress


def _goes_on(heartbeat: Callable[[], None], should_stop: Callable[[], bool], ranks: Ranks) -> bool:
    """Whether an evaluation goes on; several ranks have to agree on a stop, which they do between steps."""
    heartbeat()
    return ranks.world > 1 or not should_stop()


def _trains_on(saver: Saver, should_stop: Callable[[], bool], ranks: Ranks) -> bool:
    """Whether to go on between two blocks of steps. Raises the error of a state that could not be saved."""
    _ = saver.busy
    return not ranks.any(should_stop())


def _evaluation_due(config: RunConfig, progress: Progress) -> bool:
    at_evaluation = progress.step % config.eval_interval == 0 or progress.step == config.max_iters
    return at_evaluation and progress.evaluated_step != progress.step


def _complete(config: RunConfig, progress: Progress) -> bool:
    return progress.step >= config.max_iters and progress.evaluated_step == progress.step


def _evaluate(
    stack: StackState,
    due: Sequence[int],
    texts: DeviceTokens,
    observe: Callable[[RunConfig], Observer],
    ranks: Ranks,
    goes_on: Callable[[], bool],
) -> bool:
    """Whether the evaluation was completed, and its members told."""
    started = time.perf_counter()
    ending = [e for e in due if stack.members[e].max_iters == stack.step]
    found = evaluate(stack, texts, ranks, goes_on, by_position=bool(ending))
    if found is None:
        return False
    averages: dict[int, Evaluated] = {}
    if stack.step == 0:  # the average is the weights
        averages = {e: found[e] for e in stack.averaged}
    elif any(e in stack.averaged for e in due):
        of_averages = evaluate_averages(stack, texts, ranks, goes_on)
        if of_averages is None:
            return False
        averages = dict(zip(stack.averaged, of_averages, strict=True))
    elapsed = time.perf_counter() - started
    for e in due:
        of, average = found[e], averages.get(e)
        row = EvalRow(
            stack.step,
            _finite(of.train_loss),
            _finite(of.val_loss),
            elapsed,
            _finite(of.val_bpb),
            average and _finite(average.train_loss),
            average and _finite(average.val_loss),
            average and _finite(average.val_bpb),
            of.val_loss_by_position if e in ending else None,
        )
        stack.progress[e] = after_evaluation(stack.progress[e], row)
        observe(stack.members[e]).evaluation(row)
    return True


def _timed(stack: StackState, work: Callable[..., None], *arguments: Any) -> None:
    """Save states, or wait for it; each member takes its share of the time."""
    started = time.perf_counter()
    work(*arguments)
    share = (time.perf_counter() - started) / len(stack.members)
    stack.progress = [replace(one, checkpoint_time_s=one.checkpoint_time_s + share) for one in stack.progress]


def _steps(
    stack: StackState, stepper: Stepper, observe: Callable[[RunConfig], Observer], n: int, goes_on: Callable[[], bool]
) -> dict[int, str]:
    """Take n steps, tell the observers, and return the members that diverged, with the reason.

    Where a member diverges, or between blocks `goes_on` says no, fewer are taken. A block's rows are written while the
    next one runs on CUDA.
    """
    diverged: dict[int, str] = {}
    unread: list[Block] = []
    while n > 0 and not diverged and (not unread or goes_on()):
        unread.append(stepper.take(min(n, MAX_BLOCK_STEPS)))
        n -= unread[-1].n
        if len(unread) > 1:
            _tell(stack, unread.pop(0), observe, diverged)
    for block in unread:
        _tell(stack, block, observe, diverged)
    return diverged


def _tell(stack: StackState, block: Block, observe: Callable[[RunConfig], Observer], diverged: dict[int, str]) -> None:
    """Tell the observers of a block of steps, but of members that diverged before, and add to these."""
    losses, norms, elapsed = block.read()
    for e, config in enumerate(stack.members):
        if e in diverged:
            continue
        for step, (loss_E, norm_E) in enumerate(zip(losses, norms, strict=True), start=block.first):
            stack.progress[e] = after_step(stack.progress[e], config, elapsed, overflowed=not isfinite(norm_E[e]))
            observe(config).step(_row(config, step, loss_E[e], norm_E[e], elapsed, stack.device))
            reason = _divergence(stack.progress[e], config, step, loss_E[e], norm_E[e])
            if reason:
                diverged[e] = reason
                break
    if stack.members[0].precision == "fp16":
        stack.loss_scale_E.copy_(torch.tensor([progress.loss_scale for progress in stack.progress]))


def _row(config: RunConfig, step: int, loss: float, norm: float, elapsed: float, device: torch.device) -> StepRow:
    n_tokens = tokens_per_step(config)
    achieved = n_tokens * flops_per_token(config) / elapsed
    return StepRow(
        step=step,
        loss=_finite(loss),
        lr=learning_rate(config, step),
        grad_norm=_finite(norm),
        step_time_s=elapsed,
        tokens_per_s=n_tokens / elapsed,
        mfu=achieved / peak(device, config.precision, torch.get_num_threads()).flops,
        mfu_a100=achieved / A100_PEAK_FLOPS,
    )


def _divergence(progress: Progress, config: RunConfig, step: int, loss: float, norm: float) -> str:
    """Why a member counts as diverged after a step; empty when it does not."""
    if not isfinite(loss):
        return f"loss is not finite at step {step}"
    if not isfinite(norm) and overflow_is_fatal(progress, config):
        return f"gradient is not finite at step {step}"
    return ""


def _finite(value: float) -> float | None:
    return value if isfinite(value) else None
