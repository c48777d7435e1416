"""The optimizer step of a stack as a function of tensors on its device alone, on CUDA captured as one graph.

On an accelerator nothing in a step waits for the host: learning rates, dropout keys and starts of blocks are read from
tables on the device, batches are gathered there, and losses are written to a table that is copied to the
host once a block of steps.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from isoloss.data.batches import Layout, possible_starts, text_key, undivided
from isoloss.data.tokenizer import TokenArray
from isoloss.model import gpt
from isoloss.model.dropout import Dropout
from isoloss.randomness import Purpose, keyed_bits, mix, stream_key
from isoloss.study.config import RunConfig
from isoloss.study.parts import function_of, optimizer_of
from isoloss.study.schedules import learning_rate
from isoloss.training.device import pinned_copy
from isoloss.training.distributed import Ranks
from isoloss.training.optimizers.update import Update
from isoloss.training.state import StackState

TABLE_STEPS = 128
"""Steps that one filling of the tables serves."""

MAX_BLOCK_STEPS = 32
"""The most steps of a block, of which the losses are read together."""

WARM_UP_STEPS = 3
"""Steps taken before one is captured, for libraries to allocate what they keep."""


def on_device(data_N: TokenArray, device: torch.device) -> Tensor:
    """A text as a tensor of signed numbers of the same bits, which torch can gather. On a CPU it stays a memory map."""
    return torch.from_numpy(data_N.view(np.dtype(f"i{data_N.itemsize}"))).to(device)


def gather_windows(text_N: Tensor, starts: Tensor, block: int) -> Tensor:
    """Blocks of block + 1 tokens at the given starts, int64 of shape [*starts, T+1]."""
    return tokens_at(text_N, starts[..., None] + torch.arange(block + 1, device=starts.device))


def tokens_at(text_N: Tensor, places: Tensor) -> Tensor:
    """The tokens at some places, int64 in the shape of these."""
    return text_N[places].to(torch.int64) & (1 << 8 * text_N.itemsize) - 1


@dataclass(frozen=True)
class Block:
    """Steps that were taken or, on CUDA, begun, from step `first` on; results are loss and gradient norm."""

    first: int
    n: int
    results_Nx2xE: Tensor
    seconds: float = 0.0
    events: tuple[torch.cuda.Event, torch.cuda.Event] | None = None
    """Before the first step, and when the results have arrived."""

    def read(self) -> tuple[list[list[float]], list[list[float]], float]:
        """The losses and gradient norms, [step][member], and the seconds a step took, once they are there."""
        seconds = self.seconds
        if self.events is not None:
            begun, ended = self.events
            ended.synchronize()
            seconds = begun.elapsed_time(ended) / 1e3
        losses, norms = self.results_Nx2xE.transpose(0, 1).tolist()
        return losses, norms, seconds / self.n


class Stepper:
    """Takes steps of one stack as long as its members stay the same, from its step on.

    The inputs of the next TABLE_STEPS steps (starts of blocks, dropout keys, learning rates) are in tables that a step
    reads at its slot; its losses and gradient norms are written to a table likewise.
    """

    def __init__(self, stack: StackState, text_N: Tensor, ranks: Ranks, layout: Layout | None = None) -> None:
        self._stack, self._text_N, self._ranks = stack, text_N, ranks
        members, device = stack.members, stack.device
        config = members[0]
        self._rows = ranks.rows(config)
        self._starts = possible_starts(layout or undivided(len(text_N)), config.block_size)
        self._until_D = torch.from_numpy(self._starts.until_D).to(device)
        self._shift_D = torch.from_numpy(self._starts.shift_D).to(device)
        self._n_micro = config.gradient_accumulation_steps
        self._dropout = Dropout(members, device)
        keys_Ex2 = np.stack([stream_key(config.seed_of_data, Purpose.BATCH) for config in members])
        self._batch_keys_Ex2 = torch.from_numpy(keys_Ex2).to(device)
        limits = [config.grad_clip or float("inf") for config in members]
        self._clip_E = torch.tensor(limits, device=device)
        self._decay_E = torch.tensor([config.weight_decay for config in members], device=device)
        least = [[1 - members[e].ema] for e in stack.averaged]  # in doubles: 1 - 0.9999 has few digits in fp32
        self._least_weight_Ax1 = torch.tensor(least, device=device)
        self._slot_1 = torch.zeros(1, dtype=torch.int64, device=device)
        shape = TABLE_STEPS * self._n_micro, len(members), self._rows.stop - self._rows.start
        self._starts_RKxExB = torch.zeros(shape, dtype=torch.int64, device=device)
        self._keys_RKxJxEx2 = torch.zeros(0, dtype=torch.int32, device=device)
        self._rates_RxE = torch.zeros(TABLE_STEPS, len(members), device=device)
        self._results_Rx2xE = torch.zeros(TABLE_STEPS, 2, len(members), device=device)
        self._step, self._slot = stack.step, 0
        self._update = function_of(optimizer_of(config.optimizer).step)
        self._graph: torch.cuda.CUDAGraph | None = None
        self._uncaptured_steps = 0

    @torch.no_grad()
    def take(self, n: int) -> Block:
        """Take n steps, or fewer if the tables end before. On CUDA it returns before they are done."""
        started = time.perf_counter()
        if self._slot == 0:
            self.fill_tables()
        first, self._slot = self._slot, min(self._slot + n, TABLE_STEPS)
        n, device = self._slot - first, self._stack.device
        if device.type == "cuda":
            with torch.cuda.device(device):  # graphs are of the current device
                events = torch.cuda.Event(enable_timing=True), torch.cuda.Event(enable_timing=True)
                events[0].record()
                results_Nx2xE = pinned_copy(self._taken(first))
                events[1].record()
            block = Block(self._step, n, results_Nx2xE, events=events)
        else:
            results_Nx2xE = self._taken(first).cpu().clone()
            block = Block(self._step, n, results_Nx2xE, time.perf_counter() - started)
        self._step += n
        if self._slot == TABLE_STEPS:
            self._slot = 0
            self._slot_1.zero_()
        return block

    def _taken(self, first: int) -> Tensor:
        for _ in range(first, self._slot):
            self._take_one()
        return self._results_Rx2xE[first : self._slot]

    def fill_tables(self) -> None:
        """Fill the tables for the next TABLE_STEPS steps, in the same memory."""
        members, step, device = self._stack.members, self._step, self._stack.device
        config = members[0]
        micro_RK = torch.arange(step * self._n_micro, (step + TABLE_STEPS) * self._n_micro, device=device)
        row_B = torch.arange(self._rows.start, self._rows.stop, device=device)
        counter_RKxB = (micro_RK[:, None] * config.batch_size + row_B).int()
        keys = self._batch_keys_Ex2[:, :1], self._batch_keys_Ex2[:, 1:]
        counter_RKx1xB = mix(counter_RKxB)[:, None]
        bits_RKxExB = keyed_bits(*keys, counter_RKx1xB).to(torch.int64)
        of_text_RKxExB = bits_RKxExB
        if len(self._starts.n_texts) > 1:
            of_text_RKxExB = keyed_bits(*text_key(*keys, torch.ones_like(keys[0])), counter_RKx1xB).to(torch.int64)
        number_RKxExB = self._starts.drawn(bits_RKxExB, of_text_RKxExB)
        document_RKxExB = torch.searchsorted(self._until_D, number_RKxExB, right=True)
        self._starts_RKxExB.copy_(number_RKxExB + self._shift_D[document_RKxExB])
        keys_RKxJxEx2 = self._dropout.keys(micro_RK)
        if len(self._keys_RKxJxEx2):
            self._keys_RKxJxEx2.copy_(keys_RKxJxEx2)
        else:
            self._keys_RKxJxEx2 = keys_RKxJxEx2
        rates = [[learning_rate(config, s) for config in members] for s in range(step, step + TABLE_STEPS)]
        self._rates_RxE.copy_(torch.tensor(rates))

    def _take_one(self) -> None:
        if self._graph is not None:
            self._graph.replay()
        elif self._uncaptured_steps < WARM_UP_STEPS or self._stack.device.type != "cuda":
            self._uncaptured_steps += 1
            self.step()
        else:
            self._graph = torch.cuda.CUDAGraph()
            # What other threads do meanwhile is none of it: they save states, and watch over NCCL.
            with torch.cuda.graph(self._graph, capture_error_mode="thread_local"):
                self.step()
            self._graph.replay()  # capturing only records

    def step(self) -> None:
        """One step of every member, in which nothing waits for the host: what is captured.

        A member whose gradient is not finite keeps its weights.
        """
        stack, scale_E, total_ExP = self._stack, self._stack.loss_scale_E, self._stack.gradients.total_ExP
        loss_E = self._gradients(scale_E)
        norm_E = torch.linalg.vector_norm(total_ExP, dim=1) / scale_E
        divisor_E = ((norm_E + 1e-6) / self._clip_E).clamp(min=1.0) * scale_E
        skipped_E = (~norm_E.isfinite()).float()
        lr_E = self._rates_RxE[self._slot_1][0]
        factors = stack.counts_Ex2, lr_E, divisor_E, skipped_E, self._decay_E
        self._update(Update(stack.members, stack.parameters, total_ExP, stack.moments, *factors))
        self._average(skipped_E)
        self._results_Rx2xE[self._slot_1] = torch.stack([loss_E, norm_E])
        self._slot_1 += 1

    def _average(self, skipped_E: Tensor) -> None:
        """Take the updated weights into the averages, by 1 - min(ema, (1 + t) / (10 + t)) after t updates.

        Before the first update the average is the weights, and it forgets them fast, as TensorFlow's
        ExponentialMovingAverage with `num_updates`, torch_ema and diffusers' EMAModel do.
        """
        stack = self._stack
        for a, e in enumerate(stack.averaged):
            warming_1 = 9 / (10 + stack.counts_Ex2[e, :1])
            weight_1 = torch.maximum(self._least_weight_Ax1[a], warming_1) * (1 - skipped_E[e])
            stack.averages_AxP[a].lerp_(stack.parameters.flat_ExP[e], weight_1)

    def _gradients(self, scale_E: Tensor) -> Tensor:
        """Fill the stack's gradients with those of the step's mean loss times `scale_E`; returns that loss, [E]."""
        stack, rows, config = self._stack, self._rows, self._stack.members[0]
        share = (rows.stop - rows.start) / config.batch_size / self._n_micro
        total_E = torch.zeros_like(scale_E)
        for micro in range(self._n_micro):
            index_1 = self._slot_1 * self._n_micro + micro
            masks = self._dropout.masks(self._keys_RKxJxEx2[index_1][0], rows.start)
            blocks_ExBxT1 = gather_windows(self._text_N, self._starts_RKxExB[index_1][0], config.block_size)
            loss_E = gpt.loss_and_gradients(
                stack.parameters, stack.members, blocks_ExBxT1, masks, scale_E * share, stack.gradients
            )
            stack.gradients.collect(first=micro == 0)
            total_E += loss_E * share
        self._ranks.sum(stack.gradients.total_ExP)
        return self._ranks.sum(total_E)


def block_length(
    members: Sequence[RunConfig], step: int, device: torch.device, kept_steps: Callable[[RunConfig], Collection[int]]
) -> int:
    """Steps up to the next event; one where reading the losses is free, or sets a loss scale."""
    if device.type == "cpu" or members[0].precision == "fp16":
        return 1
    kept = [at - step for config in members for at in kept_steps(config) if at > step]
    return min([steps_to_next_event(members, step), *kept])


def steps_to_next_event(members: Sequence[RunConfig], step: int) -> int:
    """Steps until some member is evaluated or ends."""
    return min(min(c.max_iters, (step // c.eval_interval + 1) * c.eval_interval) - step for c in members)
