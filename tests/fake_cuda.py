"""What waits for the host in a step, an evaluation and sampling on CUDA, found with fake tensors: prints it as JSON.

tests/test_cuda_path.py starts it as a program, with fake_cuda.cpp preloaded. Without data, whatever asks for a value
raises; a recorder sees the rest: tensors of the CPU, and random numbers of torch's own.
"""

from __future__ import annotations

import json
import logging
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, nullcontext
from dataclasses import asdict
from functools import partial
from pathlib import Path
from typing import Any, ClassVar
from unittest.mock import patch

import numpy as np
import torch
from torch import Tensor
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from isoloss.data.token_files import Tokens
from isoloss.data.tokenizer import Tokenizer
from isoloss.model import generate, gpt, operations
from isoloss.model.functions import Kernels
from isoloss.model.parameters import Parameters
from isoloss.study.config import make_config
from isoloss.study.texts import DataFacts
from isoloss.training import evaluate, step
from isoloss.training.distributed import Ranks
from isoloss.training.memory import WITHOUT_SHAPES, stack_memory
from isoloss.training.optimizers.update import Update
from isoloss.training.saving import Saver
from isoloss.training.state import initial_state, stack
from isoloss.training.step import Stepper

CUDA = torch.device("cuda", 0)
SHAPE = {"n_layer": 1, "n_embd": 16, "block_size": 16, "batch_size": 4, "corpus": "", "corpus_sha256": ""}
SHAPE |= {"vocab_size": 65, "max_iters": 20, "dropout": 0.1, "precision": "bf16"}
LLAMA = {"position": "rope", "norm": "rmsnorm", "mlp": "swiglu", "qk_norm": True, "tie_embeddings": False}
STACKS: dict[str, dict[str, Any]] = {
    "adamw, bf16, averages": {"ema": 0.99},
    "adamw, fp32, bias": {"precision": "fp32", "bias": True, "n_layer": 2},
    "adamw, fp16, two micro-batches": {"precision": "fp16", "gradient_accumulation_steps": 2},
    "adamw, mup, window": {"parametrization": "mup", "base_n_embd": 8, "window": 8, "mlp": "relu2"},
    "muon, rope, rmsnorm, swiglu": {"optimizer": "muon", "muon_learning_rate": 0.02, **LLAMA},
    "lion, shared keys": {"optimizer": "lion", "n_kv_head": 1, "n_layer": 2, **LLAMA},
    "sgd, fp16, bias": {"optimizer": "sgd", "precision": "fp16", "bias": True, "position": "none"},
}
EVALUATED = ("adamw, fp32, bias", "lion, shared keys")
"""Stacks that are evaluated and sampled from too, which optimizers make no different."""


def assigned(x: Tensor) -> Tensor:
    """A number assigned to a slice is a tensor of the CPU first."""
    x = x.clone()
    x[..., :1] = 0.0
    return x


MUTANTS: dict[str, Callable[[Tensor], Tensor]] = {
    "item": lambda x: x * x.sum().item(),
    "float": lambda x: x * float(x.detach().mean()),
    "tolist": lambda x: x * x.flatten()[:2].tolist()[0],
    "if tensor": lambda x: x if x.sum() > 0 else -x,
    "torch.equal": lambda x: x if torch.equal(x, x) else -x,
    "numpy": lambda x: x + torch.from_numpy(x.detach().cpu().numpy()).to(x.device),
    "cpu": lambda x: x.cpu().to(x.device),
    "print": lambda x: (str(x.cpu()), x)[1],
    "tensor on the CPU": lambda x: x + torch.zeros(x.shape[-1]),
    "tensor from the CPU": lambda x: x + torch.zeros(x.shape[-1]).to(x.device, non_blocking=True),
    "number made a tensor of the CPU": lambda x: x * torch.tensor(2.0),
    "number assigned to a slice": assigned,
    "number copied to the device": lambda x: x * torch.tensor(2.0, device=x.device),
    "numpy array copied to the device": lambda x: x * torch.from_numpy(np.ones(1, np.float32)).to(x.device),
    "mask as an index": lambda x: x + x[x > 0].sum(),
    "masked_select": lambda x: x + x.masked_select(x > 0).sum(),
    "nonzero": lambda x: x + x.nonzero().sum(),
    "unique": lambda x: x + x.unique().sum(),
    "repeat_interleave": lambda x: x + torch.ones(2, device=x.device).repeat_interleave(x.flatten()[:2].long()).sum(),
    "randomness of torch": lambda x: x + torch.rand_like(x),
    "index_add": lambda x: x.index_add(0, torch.zeros(1, dtype=torch.int64, device=x.device), x[:1]),
}
SEEN_TWO_WAYS = ("item", "number made a tensor of the CPU")
"""Mutants of which fake tensors find the one and the recorder the other, for places where not all are tried."""
PLACES = (("backward", "step"), ("optimizer", "step"), ("forward", "evaluation"), ("forward", "sampling"))
DATA = DataFacts("", 65, 1000, 1000)
NONDETERMINISTIC = ("index_add", "put_", "bincount", "histc", "kthvalue", "median", "cumsum", "_embedding_bag")
"""Operations that may give other results each time on CUDA, by torch.use_deterministic_algorithms; without those that
do so only where an index occurs twice (index_put, scatter_add)."""


class FaultError(Exception):
    """What a step on CUDA must not do."""


class Recorder(TorchDispatchMode):
    """Sees operation by operation what a step on CUDA must not do, and raises FaultError, or counts."""

    def __init__(self, *, counts: bool = False) -> None:
        super().__init__()
        self._counts, self.n_faults = counts, 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        result = None if func in WITHOUT_SHAPES else func(*args, **(kwargs or {}))
        tensors = [leaf for leaf in tree_leaves((args, kwargs, result)) if isinstance(leaf, Tensor)]
        name = func.name().removeprefix("aten::")
        random = torch.Tag.nondeterministic_seeded in func.tags or name.startswith(NONDETERMINISTIC)
        if random or any(tensor.device != CUDA for tensor in tensors):
            self.n_faults += 1
            if not self._counts:
                raise FaultError(f"{name} {'is not deterministic' if random else 'has a tensor of the CPU'}")
        return result


def fault(work: Callable[[], object]) -> str:
    """What is wrong with a piece of work on CUDA, first of all; empty where nothing is."""
    with Recorder(), torch.no_grad():
        try:
            work()
        except Exception as error:  # fake tensors raise many kinds of them
            return f"{type(error).__name__}: {error}".splitlines()[0]
    return ""


class FakeEvent:
    """Notes when the host waits for the device."""

    waits: ClassVar[list[str]] = []

    def __init__(self, enable_timing: bool = False) -> None: ...
    def record(self) -> None: ...
    def synchronize(self) -> None:
        self.waits.append(type(self).__name__)

    def elapsed_time(self, other: FakeEvent) -> float:
        return 1.0


class FakeStream(FakeEvent):
    """Notes likewise, and which streams wait for which."""

    def __init__(self, device: torch.device) -> None:
        self.device, self.waits_for = device, list[str]()

    def wait_stream(self, other: str) -> None:
        self.waits_for.append(other)


class Copies(TorchDispatchMode):
    """Notes what comes to the host: pinned memory that is taken for it, and whether a copy is waited for."""

    def __init__(self) -> None:
        super().__init__()
        self.made: list[str] = []

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = dict(kwargs or {})
        if func in WITHOUT_SHAPES:
            return None
        if kwargs.pop("pin_memory", False):  # there is no such memory here
            self.made.append("pinned memory")
        result = func(*args, **kwargs)
        devices = {leaf.device.type for leaf in tree_leaves((args, kwargs, result)) if isinstance(leaf, Tensor)}
        if devices == {"cpu", "cuda"}:
            self.made.append(f"{func.name()}{', waited for' * _waits(func, args)}")
        return result


def _waits(func: Any, args: tuple[Any, ...]) -> bool:
    return func is not torch.ops.aten.copy_.default or len(args) < 3 or not args[2]


@contextmanager
def streams_and_events() -> Iterator[None]:
    """Those of CUDA, in name."""
    fakes = {"Event": FakeEvent, "Stream": FakeStream, "device": nullcontext, "stream": nullcontext}
    with ExitStack() as patched:
        for name, fake in {**fakes, "current_stream": lambda device: "training"}.items():
            patched.enter_context(patch.object(torch.cuda, name, fake))
        yield


class Work:
    """A step, an evaluation and sampling on CUDA, of a stack of two runs with the same settings."""

    def __init__(self, settings: dict[str, Any]) -> None:
        self.members = [make_config({**SHAPE, "n_head": 2, "seed": seed, **settings}) for seed in (1, 2)]
        if "n_kv_head" not in settings:  # else its members must be alike in heads
            self.members[1] = self.members[1].model_copy(update={"n_head": 4, "dropout": 0.0})
        self.stack = stack([initial_state(config) for config in self.members], CUDA)
        data_N = np.zeros(100, np.uint16)
        self.texts = evaluate.DeviceTokens(Tokens("", Tokenizer("byte"), data_N, data_N, Path()), CUDA)
        self._stepper = Stepper(self.stack, self.texts.train_N, Ranks())
        self._stepper.fill_tables()
        self._starts_ExB = torch.zeros(2, 3, dtype=torch.int64, device=CUDA)

    def step(self) -> None:
        """What is captured as a graph."""
        self._stepper.step()

    def evaluation(self) -> None:
        """A chunk, and one of windows that overlap, with the losses at each position."""
        block = self.members[0].block_size
        blocks_ExBxT1 = step.gather_windows(self.texts.val_N, self._starts_ExB, block)
        gpt.loss(self.stack.parameters, self.members, blocks_ExBxT1)
        scored_ExBx2 = torch.zeros(2, 3, 2, dtype=torch.int64, device=CUDA)
        gpt.loss(self.stack.parameters, self.members, blocks_ExBxT1, scored_ExBx2, torch.zeros(2, block, device=CUDA))

    def sampling(self) -> None:
        """A prompt of three tokens, and one more."""
        parameters = Parameters(self.stack.layout, self.stack.parameters.flat_ExP[:1], Kernels(torch.float32))
        cache = generate._Cache(self.members[0], 2, CUDA)
        for length in 3, 1:
            tokens_BxT = torch.zeros(2, length, dtype=torch.int64, device=CUDA)
            gpt.next_logits(parameters, self.members[0], tokens_BxT, cache)
            cache.length += length

    def copies_of_a_block(self) -> list[str]:
        """What a block of steps brings to the host, after the first, of which the tables are filled."""
        with streams_and_events(), torch.no_grad():
            with Copies():
                self._stepper.take(1)
            FakeEvent.waits.clear()
            with Copies() as copies:
                self._stepper.take(2)
            return [*copies.made, *FakeEvent.waits]

    def copies_of_a_checkpoint(self) -> list[list[str]]:
        """What saving a checkpoint brings to the host and waits for, as training and as the thread sees it."""
        with streams_and_events(), torch.no_grad():
            saver = Saver(CUDA, lambda config, what: lambda state: None)
            tasks = list[Callable[[], None]]()
            assert saver._thread is not None and isinstance(saver._stream, FakeStream)
            with patch.object(saver._thread, "submit", lambda task, *given: tasks.append(partial(task, *given))):
                FakeEvent.waits.clear()
                with Copies() as in_training:
                    saver.save(self.stack, [0, 1], "checkpoint")
                seen = [*in_training.made, *FakeEvent.waits]
                with Copies() as in_thread:
                    tasks[0]()
            return [seen, saver._stream.waits_for, in_thread.made, FakeEvent.waits]

    def transfers(self, chunk_bytes: int) -> int:
        """Operations of a whole evaluation of one split that touch the host."""
        with patch.object(evaluate, "MAX_ACCELERATOR_CHUNK_BYTES", chunk_bytes), Recorder(counts=True) as recorder:
            evaluate.split_loss(
                self.stack.parameters, self.stack.members, self.stack.step, self.texts, 1, Ranks(), lambda: True
            )
        return recorder.n_faults


@contextmanager
def mutated(place: str, mutant: Callable[[Tensor], Tensor]) -> Iterator[None]:
    """A mistake made in a forward pass, a backward pass or an optimizer."""
    embed, backward, put = gpt.embed, operations.Linear.branch_backward, Update.put
    with {
        "forward": patch.object(gpt, "embed", lambda run: mutant(embed(run))),
        "backward": patch.object(operations.Linear, "branch_backward", lambda self, x: mutant(backward(self, x))),
        "optimizer": patch.object(Update, "put", lambda self, old, new: put(self, old, mutant(new))),
    }[place]:
        yield


def main() -> None:
    logging.disable()  # of torch, on the errors that are meant
    stacks, mutants = dict[str, str](), dict[str, str]()
    with FakeTensorMode():
        for name, settings in STACKS.items():
            work = Work(settings)
            parts = (work.step, work.evaluation, work.sampling) if name in EVALUATED else (work.step,)
            stacks |= {f"{part.__name__}: {name}": fault(part) for part in parts}
        work = Work({"optimizer": "lion"})
        transfers = [work.transfers(chunk_bytes) for chunk_bytes in (1 << 30, 1)]
        for name, mutant in MUTANTS.items():
            with mutated("forward", mutant):
                mutants[name] = fault(work.step)
        for place, part in PLACES:
            for name in SEEN_TWO_WAYS:
                with mutated(place, MUTANTS[name]):
                    mutants[f"{name}, {place} of {part}"] = fault(getattr(work, part))
        copies = [Work({}).copies_of_a_block(), *Work({"ema": 0.9}).copies_of_a_checkpoint()]
        memory = stack_memory(work.members, DATA, CUDA)
    memories = asdict(memory), asdict(stack_memory(work.members, DATA))
    found = {"stacks": stacks, "mutants": mutants, "transfers": transfers, "copies": copies, "memory": memories}
    print(json.dumps(found))


if __name__ == "__main__":
    main()
