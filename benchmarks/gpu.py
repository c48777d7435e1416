"""Everything about one GPU in eight minutes, on a bare image: `python -m benchmarks.gpu --nanogpt path/to/checkout`.

Needs torch, numpy, pydantic, safetensors and filelock alone, for it drives `isoloss.training` directly. Sections come
shortest first, and each writes its JSON line at once, so that a cut-off leaves what was measured. Without a GPU,
`--device cpu --tiny` shows that it runs.
"""

from __future__ import annotations

import argparse
import json
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from functools import cached_property, partial
from itertools import chain, product
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from tests.reference import ReferenceGPT, reference_optimizer, reference_rate
from torch.profiler import ProfilerActivity, profile

from benchmarks.peer import peers
from benchmarks.timing import machine
from isoloss.data.batches import train_batch
from isoloss.data.token_files import Tokens
from isoloss.data.tokenizer import Tokenizer
from isoloss.store.run import RowWriter
from isoloss.study.compute import evaluations, flops_per_token, tokens_per_step, train_flops
from isoloss.study.config import RunConfig, make_config
from isoloss.study.identity import run_id
from isoloss.training import checkpoint
from isoloss.training.backend import kernels_for
from isoloss.training.device import native_precisions, peak
from isoloss.training.distributed import Ranks
from isoloss.training.evaluate import DeviceTokens
from isoloss.training.loop import EvalRow, StepRow, train
from isoloss.training.saving import Save, Saved
from isoloss.training.state import COMPUTE_DTYPES, MemberState, StackState, initial_state, stack
from isoloss.training.step import MAX_BLOCK_STEPS, Stepper

VOCABULARY = 65
GROUP1: dict[str, Any] = {"n_layer": 4, "block_size": 64, "eval_interval": 200, "seed": 1337}
LARGER: dict[str, Any] = {"n_layer": 6, "n_head": 6, "n_embd": 384, "block_size": 256, "batch_size": 64, "dropout": 0.2}
LARGER |= {"max_iters": 5000, "eval_interval": 250}
TINY: dict[str, Any] = {"n_layer": 1, "block_size": 16, "eval_interval": 10, "eval_val_tokens": 256}
WARM_UP_BLOCKS, TIMED_BLOCKS = 2, 8
PEER_STEPS = 60
Line = dict[str, Any]


@dataclass(frozen=True)
class Bench:
    """What all sections share: device, text, and the configurations of group1 and of the larger GPT."""

    device: torch.device
    nanogpt: Path | None
    text: Tokens
    tiny: bool

    def config(self, settings: Mapping[str, Any], **others: Any) -> RunConfig:
        """A run on this text, with nanoGPT's other settings."""
        facts = {"corpus": "benchmark", "corpus_sha256": "", "vocab_size": VOCABULARY}
        rates = {"learning_rate": 1e-3, "min_lr": 1e-4, "warmup_iters": 100, "beta2": 0.99}
        precision = native_precisions(self.device)[0]
        return make_config(
            {**facts, **rates, "precision": precision, "eval_train_tokens": 16_384, **settings, **others}
        )

    @cached_property
    def group1(self) -> dict[str, list[RunConfig]]:
        """The 32 runs by their shape; small and few in a tiny form."""
        widths, sizes, horizons = ((16,), (2,), (12, 20)) if self.tiny else ((128, 256), (8, 16), (1000, 2000))
        base = GROUP1 | (TINY if self.tiny else {})
        return {
            f"{width} wide, batch {size}": [
                self.config(base, n_embd=width, batch_size=size, n_head=heads, max_iters=horizon, dropout=dropout)
                for heads, horizon, dropout in product((4, 8), horizons, (0.1, 0.2))
            ]
            for width, size in product(widths, sizes)
        }

    @cached_property
    def larger(self) -> RunConfig:
        """The GPT of nanoGPT's README, whose best validation loss is 1.4697 there."""
        small = {"n_layer": 2, "n_head": 2, "n_embd": 32, "block_size": 16, "batch_size": 4, "max_iters": 20}
        return self.config(LARGER | (TINY | small if self.tiny else {}))

    def stacked(self, configs: Sequence[RunConfig], states: Sequence[MemberState] | None = None) -> StackState:
        """A stack of these runs, from their beginning or from states."""
        fused = self.device.type == "cuda"
        kernels = kernels_for(COMPUTE_DTYPES[configs[0].precision], self.device, compiled=fused)
        return stack(states or [initial_state(config) for config in configs], self.device, kernels)

    def flops(self) -> float:
        """The peak of the precision that trains, for a share."""
        return peak(self.device, native_precisions(self.device)[0], torch.get_num_threads()).flops


@dataclass
class Record:
    """An observer that keeps rows and, with a folder, writes them and checkpoints as a study does."""

    folder: Path | None = None
    steps: list[StepRow] = field(default_factory=list[StepRow])
    evals: list[EvalRow] = field(default_factory=list[EvalRow])
    last: MemberState | None = None

    @cached_property
    def _writer(self) -> RowWriter | None:
        return None if self.folder is None else RowWriter(self.folder / "metrics.jsonl")

    def step(self, row: StepRow) -> None:
        """Keep a row, and write it."""
        self.steps.append(row)
        if self._writer:
            self._writer.write(asdict(row))

    def evaluation(self, row: EvalRow) -> None:
        """Keep it."""
        self.evals.append(row)

    def saving(self, what: Saved) -> Save:
        """Into the folder, if there is one; else the last is kept."""

        def save(state: MemberState) -> None:
            if self._writer is None or self.folder is None:
                self.last = state.each(lambda tensor: tensor.detach().cpu().clone())
                return
            self._writer.sync()
            (checkpoint.save_best if what == "best" else checkpoint.save_last)(self.folder, state)

        return save

    def end(self, progress: object, outcome: str, reason: str) -> None:
        """Nothing is left to do."""


def trained(
    bench: Bench, configs: Sequence[RunConfig], states: Sequence[MemberState] | None = None, stop_at: int | None = None
) -> list[Record]:
    """Train runs as one stack, perhaps to a step, and return what each did."""
    records = {run_id(config): Record() for config in configs}
    first = records[run_id(configs[0])]
    train(
        bench.stacked(configs, states),
        bench.text,
        lambda config: records[run_id(config)],
        should_stop=lambda: stop_at is not None and len(first.steps) >= stop_at,
    )
    return [records[run_id(config)] for config in configs]


def about_the_machine(bench: Bench) -> Line:
    """What the figures have to be read with."""
    kernels = bench.stacked([bench.larger]).parameters.kernels.name
    return {**machine(bench.device), "peak_flops": bench.flops(), "kernels": kernels}


def parity(bench: Bench) -> Line:
    """Ten steps in fp32 against a plain model by torch; both products in full fp32."""
    shape = {"n_head": 4, "batch_size": 8, **(TINY if bench.tiny else {})}
    config = bench.config(GROUP1 | shape, n_embd=128, dropout=0.0, precision="fp32", max_iters=10)
    [ours] = trained(bench, [config])
    model = ReferenceGPT(config).to(bench.device)
    optimizer, theirs = reference_optimizer(model, config), list[float]()
    for step in range(config.max_iters):
        batch = train_batch(bench.text.train_N, config.seed, step, 0, 1, config.batch_size, config.block_size)
        block = torch.from_numpy(batch).to(bench.device)
        for group in optimizer.param_groups:
            group["lr"] = reference_rate(config, step)
        loss = F.cross_entropy(model(block[:, :-1]).flatten(0, 1), block[:, 1:].flatten())
        optimizer.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), config.grad_clip)
        optimizer.step()
        theirs.append(loss.item())
    return _difference([row.loss for row in ours.steps], theirs, tolerance=1e-4)


def stack_and_solo(bench: Bench) -> Line:
    """Runs of other heads, dropout and horizons as one stack, and each alone."""
    configs = next(iter(bench.group1.values()))[::3]
    configs = [config.model_copy(update={"max_iters": 40 + i, "eval_interval": 40}) for i, config in enumerate(configs)]
    stacked = [[row.loss for row in record.steps] for record in trained(bench, configs)]
    solo = [[row.loss for row in trained(bench, [config])[0].steps] for config in configs]
    return _difference([*chain(*stacked)], [*chain(*solo)], tolerance=1e-2)


def resume(bench: Bench) -> Line:
    """A run that is stopped, saved, loaded and continued, and one that is not."""
    config = next(iter(bench.group1.values()))[0].model_copy(update={"max_iters": 60, "eval_interval": 20})
    [whole], [first] = trained(bench, [config]), trained(bench, [config], stop_at=30)
    assert first.last is not None
    with tempfile.TemporaryDirectory() as folder:
        checkpoint.save_last(Path(folder), first.last)
        state = checkpoint.load(Path(folder), "last")
    [second] = trained(bench, [config], [state])
    continued = [row.loss for row in (*first.steps, *second.steps)]
    return _difference(continued, [row.loss for row in whole.steps], tolerance=0.0)


def _difference(ours: Sequence[float | None], theirs: Sequence[float | None], tolerance: float) -> Line:
    if len(ours) != len(theirs) or None in ours or None in theirs:
        return {"passed": False, "losses": len(ours), "expected": len(theirs)}
    largest = float(np.abs(np.divide(np.array(ours, float), np.array(theirs, float)) - 1).max())
    return {"passed": largest <= tolerance, "largest_relative_difference": largest, "tolerance": tolerance}


def group1_steps(bench: Bench) -> Line:
    """Steps of each of group1's shapes: its runs in one stack, and a run alone."""
    return {
        name: {"stack": _steps(bench, runs), "alone": _steps(bench, runs[:1])} for name, runs in bench.group1.items()
    }


def larger_steps(bench: Bench) -> Line:
    """Steps of the larger GPT alone, and of four seeds."""
    seeds = [bench.larger.model_copy(update={"seed": seed}) for seed in range(4)]
    return {"alone": _steps(bench, seeds[:1]), "four seeds": _steps(bench, seeds)}


def _steps(bench: Bench, configs: Sequence[RunConfig]) -> Line:
    stepper = Stepper(bench.stacked(configs), DeviceTokens(bench.text, bench.device).train_N, Ranks())
    n = 4 if bench.tiny else MAX_BLOCK_STEPS
    seconds = [stepper.take(n).read()[2] for _ in range(WARM_UP_BLOCKS + TIMED_BLOCKS)][WARM_UP_BLOCKS:]
    step_s = float(np.median(seconds))
    flops = len(configs) * tokens_per_step(configs[0]) * flops_per_token(configs[0]) / step_s
    return {
        "runs": len(configs),
        "step_ms": step_s * 1e3,
        "low_ms": min(seconds) * 1e3,
        "high_ms": max(seconds) * 1e3,
        "mfu": flops / bench.flops(),
    }


def where_time_goes(bench: Bench) -> Line:
    """The kernels of a step of group1's largest shape, by the profiler."""
    configs = list(bench.group1.values())[-1]
    stepper = Stepper(bench.stacked(configs), DeviceTokens(bench.text, bench.device).train_N, Ranks())
    on_gpu, n = bench.device.type == "cuda", 8
    for _ in range(2):
        stepper.take(n).read()
    activities = [ProfilerActivity.CUDA] if on_gpu else [ProfilerActivity.CPU]
    with profile(activities=activities) as profiled:
        step_s = stepper.take(n).read()[2]
    found = [
        (each.self_device_time_total if on_gpu else each.self_cpu_time_total, each.count, each.key)
        for each in profiled.key_averages()
    ]
    kernels = [
        {"kernel": name[:100], "us_a_step": us / n, "launches_a_step": count / n}
        for us, count, name in sorted(found, reverse=True)[:25]
    ]
    busy_us = sum(us for us, _, _ in found) / n
    launches = sum(count for _, count, _ in found) / n
    return {"step_us": step_s * 1e6, "busy_us": busy_us, "launches_a_step": launches, "kernels": kernels}


def whole_group1(bench: Bench) -> Line:
    """All 32 runs through the training loop, with evaluations, rows and checkpoints on the disk."""
    started, per_shape = time.perf_counter(), dict[str, float]()
    for name, configs in bench.group1.items():
        began = time.perf_counter()
        with tempfile.TemporaryDirectory(dir=".") as folder:
            records = {run_id(config): Record(Path(folder) / run_id(config)) for config in configs}
            for record in records.values():
                assert record.folder
                record.folder.mkdir()
            train(bench.stacked(configs), bench.text, lambda config, records=records: records[run_id(config)])
        per_shape[name] = time.perf_counter() - began
    seconds = time.perf_counter() - started
    runs = [config for configs in bench.group1.values() for config in configs]
    mfu = sum(map(train_flops, runs)) / seconds / bench.flops()
    return {"total_s": seconds, "shapes_s": per_shape, "runs": len(runs), "aggregate_mfu": mfu}


def published(bench: Bench) -> Line:
    """The larger GPT trained as nanoGPT's README does; 1.4697 there, where the text is tiny Shakespeare."""
    [record] = trained(bench, [bench.larger])
    losses = [row.val_loss for row in record.evals if row.val_loss is not None]
    return {
        "best_val_loss": min(losses),
        "published": 1.4697,
        "curve": [(row.step, row.val_loss) for row in record.evals],
    }


def peer(bench: Bench, runs: Sequence[RunConfig], compiled: bool) -> Line:
    """nanoGPT's own train.py on the shape of these runs, and all of them in a row from its parts."""
    times = peers(bench.nanogpt, bench.device.type, 1)[compiled].time(runs[0], PEER_STEPS)
    in_a_row_s = sum(
        times.startup_s + (config.max_iters + 1) * times.step_s + evaluations(config) * times.evaluation_s
        for config in runs
    )
    return {**asdict(times), "runs": len(runs), "in_a_row_s": in_a_row_s}


def sections(bench: Bench) -> Iterator[tuple[str, float, Callable[[Bench], Line]]]:
    """Name, seconds it may take, and section: in the order in which they are worth having."""
    yield "machine", 5, about_the_machine
    yield "parity", 30, parity
    yield "stack and solo", 40, stack_and_solo
    yield "resume", 10, resume
    yield "group1 steps", 60, group1_steps
    yield "where time goes", 15, where_time_goes
    yield "larger steps", 30, larger_steps
    yield "whole group1", 90, whole_group1
    shapes = {**bench.group1, "larger": [bench.larger]} if bench.nanogpt else {}
    for compiled, may_take_s in ((False, 20), (True, 80)):
        for name, runs in shapes.items():
            mode = "compiled" if compiled else "eager"
            yield f"nanoGPT {mode}, {name}", may_take_s, partial(peer, runs=runs, compiled=compiled)
    yield "published", 150, published


def main(arguments: Sequence[str] | None = None) -> None:
    """Run the sections that the time allows."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.gpu", description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--device", default="cuda", choices=("cuda", "cpu"))
    parser.add_argument("--nanogpt", type=Path, help="a checkout with data/shakespeare_char prepared; its text is used")
    parser.add_argument("--seconds", type=float, default=460, help="a section that may take longer is left out")
    parser.add_argument("--tiny", action="store_true", help="small shapes, to see that it runs")
    parser.add_argument("--only", nargs="+", help="names of sections, in place of all")
    parser.add_argument("--out", type=Path, default=Path("results/benchmarks/gpu.jsonl"))
    stated = parser.parse_args(arguments)
    ends = time.monotonic() + stated.seconds
    device = torch.device("cuda", 0) if stated.device == "cuda" else torch.device("cpu")
    bench = Bench(device, stated.nanogpt, _text(stated.nanogpt), stated.tiny)
    stated.out.parent.mkdir(parents=True, exist_ok=True)
    with stated.out.open("a") as out:
        for name, may_take_s, section in sections(bench):
            if stated.only and name not in stated.only:
                continue
            started = time.monotonic()
            if started + may_take_s > ends:
                found = {"left_out": f"may take {may_take_s:.0f} s, {max(0.0, ends - started):.0f} are left"}
            else:
                try:
                    found = section(bench)
                except Exception as error:  # the other sections still have their say
                    found = {"error": f"{type(error).__name__}: {error}"}
            line = json.dumps({"section": name, "seconds": round(time.monotonic() - started, 2), **found}, default=str)
            print(line, file=out, flush=True)
            print(line, flush=True)


def _text(nanogpt: Path | None) -> Tokens:
    """nanoGPT's prepared text, or as many random tokens, which cost as much."""
    tokenizer = Tokenizer("char", "".join(map(chr, range(VOCABULARY))))
    if nanogpt is None:
        drawn = np.random.default_rng(0).integers(0, VOCABULARY, size=1_115_394).astype(np.uint16)
        return Tokens("", tokenizer, drawn[:1_003_854], drawn[1_003_854:], Path())
    folder = nanogpt / "data/shakespeare_char"
    splits = (np.fromfile(folder / f"{split}.bin", dtype=np.uint16) for split in ("train", "val"))
    return Tokens("", tokenizer, *splits, folder=folder)


if __name__ == "__main__":
    main()
