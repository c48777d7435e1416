"""isoloss under the clock: worker processes that stay and time steps, evaluations, checkpoints and GEMMs."""

from __future__ import annotations

import multiprocessing
import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass, replace
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Literal, cast

import torch

from isoloss.data.token_files import Tokens, open_tokens
from isoloss.study.config import RunConfig
from isoloss.training import checkpoint
from isoloss.training.backend import keep_freed_memory, kernels_for
from isoloss.training.device import measured_gemm
from isoloss.training.distributed import Ranks
from isoloss.training.evaluate import DeviceTokens, evaluate
from isoloss.training.state import COMPUTE_DTYPES, StackState, initial_state, stack
from isoloss.training.step import TABLE_STEPS, Stepper

WARM_UP_STEPS = 4
What = Literal["step", "evaluation", "checkpoint", "gemm"]


@dataclass(frozen=True)
class Order:
    """Measure `what` of a stack of runs, for some seconds where it repeats."""

    what: What
    stack: tuple[RunConfig, ...]
    seconds: float


class Workers:
    """As many processes as isoloss would start, all measuring at once: a core is timed beside busy cores."""

    def __init__(self, number: int, tokens_folder: Path, device: torch.device) -> None:
        context = multiprocessing.get_context("spawn")
        self._pipes: list[Connection] = []
        for _ in range(number):
            ours, theirs = context.Pipe()
            context.Process(target=_work, args=(theirs, tokens_folder, device), daemon=True).start()
            self._pipes.append(ours)

    def measure(self, what: What, configs: Sequence[RunConfig], seconds: float = 0.0) -> list[float]:
        """Each worker's figure: seconds a step, evaluation or checkpoint of the stack; FLOP/s of a GEMM."""
        for pipe in self._pipes:
            pipe.send(Order(what, tuple(configs), seconds))
        return [cast("float", pipe.recv()) for pipe in self._pipes]


def _work(pipe: Connection, tokens_folder: Path, device: torch.device) -> None:
    if device.type == "cpu":
        torch.set_num_threads(1)
    keep_freed_memory()
    tokens = open_tokens(tokens_folder)
    stacks: dict[tuple[RunConfig, ...], tuple[StackState, Stepper, DeviceTokens]] = {}
    try:
        while True:
            order = cast("Order", pipe.recv())
            if order.stack not in stacks:
                stacks[order.stack] = _prepared(order.stack, tokens, device)
            pipe.send(_measure(order, *stacks[order.stack]))
    except EOFError:
        return


def _prepared(
    configs: tuple[RunConfig, ...], tokens: Tokens, device: torch.device
) -> tuple[StackState, Stepper, DeviceTokens]:
    kernels = kernels_for(COMPUTE_DTYPES[configs[0].precision], device, compiled=True)
    stacked = stack([initial_state(config) for config in configs], device, kernels)
    texts = DeviceTokens(tokens, device)
    stepper = Stepper(stacked, texts.train_N, Ranks())
    for _ in range(WARM_UP_STEPS):
        _take(stacked, stepper, 1)
    return stacked, stepper, texts


def _take(stacked: StackState, stepper: Stepper, n: int) -> int:
    taken = len(stepper.take(n).read()[0])
    stacked.progress = [replace(progress, step=progress.step + taken) for progress in stacked.progress]
    return taken


def _measure(order: Order, stacked: StackState, stepper: Stepper, texts: DeviceTokens) -> float:
    if order.what == "gemm":
        return measured_gemm(stacked.device, COMPUTE_DTYPES[order.stack[0].precision], seconds=order.seconds)
    started, steps = time.perf_counter(), 0
    if order.what == "evaluation":
        evaluate(stacked, texts, Ranks())
    elif order.what == "checkpoint":
        with tempfile.TemporaryDirectory(dir=".") as folder:
            started = time.perf_counter()
            for e in range(len(stacked.members)):
                checkpoint.save_last(Path(folder), stacked.member(e))
            return time.perf_counter() - started
    else:
        while time.perf_counter() < started + order.seconds:
            steps += _take(stacked, stepper, 1 if stacked.device.type == "cpu" else TABLE_STEPS)
    return (time.perf_counter() - started) / max(1, steps)
