"""Memory of a stack on an accelerator, computed without one, and the width of stacks that follows from it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import asdict
from math import ceil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch.profiler import ProfilerActivity, profile

from isoloss.data.token_files import Tokens
from isoloss.data.tokenizer import Tokenizer
from isoloss.execution import width
from isoloss.execution.options import RunOptions
from isoloss.execution.width import MAX_MEMORY_SHARE, stack_width, widest, widths
from isoloss.model.parameters import Parameters
from isoloss.store.run import RunStatus, write_status
from isoloss.study.config import RunConfig
from isoloss.study.datasets import dataset_of
from isoloss.study.identity import run_id
from isoloss.study.study import Study
from isoloss.study.texts import DataFacts, joined_facts
from isoloss.training import evaluate
from isoloss.training.distributed import Ranks
from isoloss.training.evaluate import DeviceTokens, split_loss
from isoloss.training.gpus import Gpu
from isoloss.training.memory import CONTEXT_BYTES, StackMemory, stack_memory
from isoloss.training.numerics import numerics_here
from isoloss.training.state import initial_state, stack
from isoloss.training.step import Stepper
from tests.fake_studies import fake_study

Make = Callable[..., RunConfig]
DATA = DataFacts("", 65, val_tokens=4_000, train_tokens=20_000)
CPU, CUDA = torch.device("cpu"), torch.device("cuda")
LLAMA = {"position": "rope", "norm": "rmsnorm", "mlp": "swiglu", "bias": True}


def allocated(work: Callable[[], object]) -> int:
    """The most bytes that are allocated at one time while it works, as torch's allocator for the CPU counts."""
    with profile(activities=[ProfilerActivity.CPU], profile_memory=True) as profiled:
        work()
    assert profiled.profiler is not None and profiled.profiler.kineto_results is not None
    events: list[Any] = [each for each in profiled.profiler.kineto_results.events() if each.name() == "[memory]"]
    return int(np.cumsum([event.nbytes() for event in sorted(events, key=lambda event: event.start_ns())]).max())


@pytest.mark.parametrize(
    "settings",
    [
        {"precision": "bf16", "dropout": 0.1},
        {"precision": "bf16", "ema": 0.99},
        {
            "precision": "fp16",
            "optimizer": "muon",
            "muon_learning_rate": 0.02,
            "gradient_accumulation_steps": 2,
            **LLAMA,
        },
    ],
)
def test_memory_is_what_torch_allocates(make: Make, monkeypatch: pytest.MonkeyPatch, settings: dict[str, Any]) -> None:
    """A step and an evaluation on a CPU, where a chunk of the evaluation is made as long as on an accelerator."""
    monkeypatch.setattr(evaluate, "_chunk_tokens", lambda members, device: 1024)
    members = [make(n_embd=64, batch_size=16, block_size=32, seed=seed, **settings) for seed in range(3)]
    computed = stack_memory(members, DATA)
    stacked = stack([initial_state(config) for config in members], CPU)
    data_N = np.zeros(DATA.train_tokens or 0, np.uint16)
    texts = DeviceTokens(Tokens("", Tokenizer("byte"), data_N, data_N, Path()), CPU)
    stepper = Stepper(stacked, texts.train_N, Ranks())
    with torch.no_grad():
        stepper.fill_tables()
        assert computed.step == pytest.approx(allocated(stepper.step), rel=0.01)

    def evaluated() -> None:
        parameters = stacked.parameters
        if stacked.averaged:
            parameters = Parameters(stacked.layout, stacked.averages_AxP, parameters.kernels)
        split_loss(parameters, stacked.members, stacked.step, texts, 1, Ranks(), lambda: False)

    assert computed.evaluation == pytest.approx(allocated(evaluated), rel=0.01)
    flat = 4 * stacked.parameters.flat_ExP.numel()
    assert computed.held > (3 + len(stacked.moments)) * flat  # weights, moments, gradients of a micro-batch and a step
    states = [stacked.member(e).each(torch.clone) for e in range(len(members))]
    copied = [t for state in states for t in (state.flat_P, *state.moments.values(), state.average_P) if t is not None]
    assert computed.saved == 2 * sum(4 * tensor.numel() for tensor in copied)


def test_a_graph_keeps_its_memory_in_evaluations_and_not_while_a_stack_is_copied() -> None:
    assert StackMemory(held=10, step=8, evaluation=7, saved=3).peak == CONTEXT_BYTES + 28
    assert StackMemory(held=100, step=8, evaluation=7, saved=3).peak == CONTEXT_BYTES + 203


def test_the_widest_stack_fits_and_the_next_does_not(make: Make) -> None:
    configs = [make(n_layer=1, dropout=dropout, seed=seed) for seed in range(3) for dropout in (0.0, 0.1)]
    peaks = [stack_memory([make(n_layer=1, dropout=0.1)] * n, DATA).peak for n in (4, 5)]
    between = sum(peaks) // 2
    assert (widest(configs, DATA, between), widest(configs, DATA, peaks[0] - 1)) == (4, 3)
    assert widest(configs, DATA, 1 << 40) == 6  # no wider than the runs of a shape
    assert widest(configs, DATA, 1) == 1
    larger = [make(n_layer=1, n_embd=64, seed=seed) for seed in range(4)]
    assert widest([*configs, larger[0]], DATA, between) == 4  # a lone run of another shape is no stack
    assert widest([*configs, *larger], DATA, between) < 4
    assert widest([make(n_layer=1, n_head=8), *configs], DATA, between) < 4  # more heads, more scores
    assert widest([make(n_layer=1, ema=0.9), *configs], DATA, peaks[0]) == 3  # weights once more


def test_a_text_takes_memory_by_its_own_tokenizer(make: Make) -> None:
    alone, longer = DataFacts("", 300, 4_000, 20_000), DataFacts("", 65, 400_000, 2_000_000)
    chars, bpe = make(), make(tokenizer="bpe:300", vocab_size=300)
    both = joined_facts({dataset_of(chars): longer, dataset_of(bpe): alone})
    members = [bpe]
    assert stack_memory(members, both) == stack_memory(members, alone)
    assert stack_memory([make()], both).held - stack_memory([make()], DATA).held > 2 * 2_000_000
    [large] = [make(tokenizer="bpe:70000", vocab_size=70_000, n_embd=8, n_head=1)]
    by_length = [stack_memory([large], DataFacts("", 70_000, 4_000, n)).held for n in (20_000, 1_020_000)]
    assert by_length[1] - by_length[0] == pytest.approx(4_000_000, abs=512)


def test_a_run_trains_with_as_many_as_there_are_of_its_shape(make: Make) -> None:
    configs = [*(make(seed=seed) for seed in range(5)), make(n_embd=64)]
    assert [widths(configs, 3)(config) for config in configs] == [3] * 5 + [1]
    assert [widths(configs, 1)(config) for config in configs] == [1] * 6


def test_free_memory_is_asked_on_an_accelerator_alone(make: Make, monkeypatch: pytest.MonkeyPatch) -> None:
    configs = [make(seed=seed) for seed in range(6)]
    bytes_of_4 = stack_memory(configs[:4], DATA).peak
    gpu = Gpu("NVIDIA L4", free_bytes=ceil(bytes_of_4 / MAX_MEMORY_SHARE))
    monkeypatch.setattr(width, "gpu", lambda device: gpu)
    assert stack_width(RunOptions(), configs, CUDA, DATA) == 4
    monkeypatch.setattr(width, "stack_memory", lambda *_: pytest.fail("nothing is computed on a CPU"))
    assert stack_width(RunOptions(), configs, CPU, DATA) == 1
    assert stack_width(RunOptions(stack=3), configs, CUDA, DATA) == 3


def test_a_study_keeps_the_width_that_it_began_with(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(width, "gpu", lambda device: Gpu("NVIDIA L4", free_bytes=1 << 40))
    study = Study("kept", "a.txt", base={"max_iters": 20, "eval_interval": 5, "n_layer": 1, "n_embd": 16})
    results = fake_study(tmp_path, study, dict.fromkeys(range(study.size), ("pending", "")))
    assert stack_width(RunOptions(), results.configs, CUDA, DATA, results) == study.size
    here = numerics_here(CPU, "torch autograd", threads=1, stack=7, ranks=1)
    for device, expected in (("cpu", study.size), ("NVIDIA L4", 7)):
        numerics = {"step": 0, **asdict(here), "device": device}
        status = RunStatus("running", provenance={"numerics": [numerics]})
        write_status(results.paths.run(run_id(results.configs[-1])), status)
        assert stack_width(RunOptions(), results.configs, CUDA, DATA, results) == expected
