"""Training against the peer, in turns on one machine: throughput, evaluation, share of the GEMM peak, whole studies."""

from __future__ import annotations

import heapq
import json
import sys
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from benchmarks.ours import Workers
from benchmarks.outright import outright, startup_s
from benchmarks.peer import Peer, PeerTimes, peers
from benchmarks.timing import Samples, machine, samples, table
from isoloss.data.tokens import prepare
from isoloss.execution.estimate import own_work
from isoloss.execution.study import RunOptions, resolve_study
from isoloss.study.compute import evaluations, flops_per_token, tokens_per_step
from isoloss.study.config import RunConfig
from isoloss.study.studyfile import find_study
from isoloss.training.device import available_cores, resolve_device

STUDY = "group1"
PEER_STEPS = 60
OUR_SECONDS = 5.0
GEMM_SECONDS = 0.5


@dataclass
class Shape:
    """Everything measured of runs of one width and batch size; a list has one entry a round and, for us, a worker."""

    config: RunConfig
    stack: tuple[RunConfig, ...]
    step_s: list[float]
    evaluation_s: list[float]
    checkpoint_s: list[float]
    peer: dict[str, list[PeerTimes]]

    def peer_times(self, mode: str) -> PeerTimes:
        """Medians of one of the peer's modes."""
        rounds = [asdict(times) for times in self.peer[mode]]
        return PeerTimes(**{name: samples([one[name] for one in rounds]).median for name in rounds[0]})

    @property
    def faster_mode(self) -> str:
        """That of the peer's own modes in which it takes its steps faster."""
        own = [mode for mode in self.peer if "processes" not in mode]
        return min(own, key=lambda mode: self.peer_times(mode).step_s)


def run(
    nanogpt: Path | None = None,
    rounds: int = 3,
    full: bool = False,
    device: str = "cpu",
    out: Path = Path("results/benchmarks/train.json"),
) -> None:
    """Measure training against nanoGPT, or against the plain reference model without a checkout.

    Args:
        nanogpt: A nanoGPT checkout with data/shakespeare_char prepared.
        rounds: Turns each side takes.
        full: Also train the whole study with both, from start to end (hours on a CPU); what an interrupted try has
            measured stands beside `out` and is not measured again.
        device: cpu or cuda.
        out: Where the JSON goes; the table goes to stdout.
    """
    place, modes = resolve_device(device), peers(nanogpt, device, available_cores())
    study, _ = resolve_study(find_study(STUDY), RunOptions(device=device))
    tokens = prepare(study.text, study.tokenizer)
    configs = study.expand(tokens.facts)
    shapes = _shapes(configs, stacked=place.type != "cpu")
    workers = Workers(available_cores() if place.type == "cpu" else 1, tokens.folder, place)
    peak: list[float] = []
    for turn in range(rounds):
        for shape in shapes:
            peak += workers.measure("gemm", shape.stack, GEMM_SECONDS)
            _measure_ours(workers, shape)
            _measure_peer(modes, shape)
            print(f"round {turn + 1} of {rounds}: {_name(shape)} done", file=sys.stderr)
    idle_s = samples([startup_s(device) for _ in range(rounds)])
    n_workers = available_cores() if place.type == "cpu" else 1
    result: dict[str, Any] = {
        "machine": machine(place),
        "rounds": rounds,
        "precision": configs[0].precision,
        "gemm_peak_flops": samples(peak).as_dict(),
        "startup_s": idle_s.as_dict(),
        "shapes": [_figures(shape, samples(peak), n_workers) for shape in shapes],
        "samples": [asdict(shape) | {"config": _name(shape), "stack": len(shape.stack)} for shape in shapes],
    }
    if place.type == "cpu":
        result["study"] = _extrapolated(configs, shapes, n_workers, idle_s.median)
    if full:
        faster = {(shape.config.n_embd, shape.config.batch_size): shape.faster_mode for shape in shapes}
        result["full"] = outright(STUDY, configs, modes, faster, device, out.with_suffix(".full.json"))
    out.parent.mkdir(parents=True, exist_ok=True)
    out.write_text(json.dumps(result, indent=2, default=str))
    print(as_text(result))
    print(f"{out}", file=sys.stderr)


def _shapes(configs: Sequence[RunConfig], *, stacked: bool) -> list[Shape]:
    """The study's widths and batch sizes, as their first runs; on an accelerator all runs of one are a stack."""
    found: dict[tuple[int, int], list[RunConfig]] = {}
    for config in configs:
        found.setdefault((config.n_embd, config.batch_size), []).append(config)
    chosen = [tuple(group) if stacked else (group[0],) for _, group in sorted(found.items())]
    return [Shape(group[0], group, [], [], [], {}) for group in chosen]


def _name(shape: Shape) -> str:
    return f"{shape.config.n_embd} wide, batch {shape.config.batch_size}"


def _measure_ours(workers: Workers, shape: Shape) -> None:
    shape.step_s += workers.measure("step", shape.stack, OUR_SECONDS)
    shape.evaluation_s += workers.measure("evaluation", shape.stack)
    shape.checkpoint_s += workers.measure("checkpoint", shape.stack)


def _measure_peer(modes: Sequence[Peer], shape: Shape) -> None:
    for mode in modes:
        shape.peer.setdefault(mode.name, []).append(mode.time(shape.config, PEER_STEPS))


def _figures(shape: Shape, peak: Samples, n_workers: int) -> dict[str, Any]:
    config, members = shape.config, len(shape.stack)
    step_s, peer = samples(shape.step_s), shape.peer_times(shape.faster_mode)
    flops = members * tokens_per_step(config) * flops_per_token(config) / step_s.median
    return {
        "name": _name(shape),
        "step_s": step_s.as_dict(),
        "tokens_per_s": n_workers * members * tokens_per_step(config) / step_s.median,
        "evaluation_s": samples(shape.evaluation_s).as_dict(),
        "checkpoint_s": samples(shape.checkpoint_s).as_dict(),
        "peer_mode": shape.faster_mode,
        "peer_step_s": {mode: samples([one.step_s for one in times]).as_dict() for mode, times in shape.peer.items()},
        "peer_evaluation_s": peer.evaluation_s,
        "peer_startup_s": peer.startup_s,
        "ratio": n_workers * members * peer.step_s / step_s.median,
        "share_of_gemm_peak": flops / peak.median,
    }


def _extrapolated(
    configs: Sequence[RunConfig], shapes: Sequence[Shape], n_workers: int, startup_s: float
) -> dict[str, Any]:
    """Both sides' time for the whole study from its measured parts: longest first over the workers, and in a row."""
    by_shape = {(shape.config.n_embd, shape.config.batch_size): shape for shape in shapes}
    ours: list[float] = []
    theirs = dict.fromkeys(("its faster mode", *(mode for mode in shapes[0].peer if "processes" in mode)), 0.0)
    evaluating = 0.0
    for config, own in zip(configs, own_work(configs, len(shapes[0].stack), n_workers), strict=True):
        shape, n = by_shape[config.n_embd, config.batch_size], evaluations(config)
        evaluated_s = own.evaluations * samples(shape.evaluation_s).median
        ours.append(own.steps * samples(shape.step_s).median + evaluated_s + n * samples(shape.checkpoint_s).median)
        evaluating += evaluated_s
        for mode in theirs:
            times = shape.peer_times(shape.faster_mode if mode == "its faster mode" else mode)
            theirs[mode] += times.startup_s + (config.max_iters + 1) * times.step_s + n * times.evaluation_s
    ends = [0.0] * n_workers
    for seconds in sorted(ours, reverse=True):
        heapq.heapreplace(ends, ends[0] + seconds)
    total = max(ends) + startup_s
    against = {mode: {"peer_s": seconds, "ratio": seconds / total} for mode, seconds in theirs.items()}
    return {"ours_s": total, "ours_evaluation_share": evaluating / sum(ours), "against": against}


def as_text(result: dict[str, Any]) -> str:
    """The result as Markdown: median, and in brackets the lowest and highest."""
    modes = list(result["shapes"][0]["peer_step_s"])
    header = ["shape", "ours, ms a step", *(f"{mode}, ms a step" for mode in modes), "ratio", "of GEMM peak"]
    header += ["our evaluation, s", "the peer's, s"]
    rows = [
        [
            shape["name"],
            _milliseconds(shape["step_s"]),
            *(_milliseconds(shape["peer_step_s"][mode]) for mode in modes),
            f"{shape['ratio']:.2f}",
            f"{shape['share_of_gemm_peak']:.0%}",
            f"{shape['evaluation_s']['median']:.2f}",
            f"{shape['peer_evaluation_s']:.1f}",
        ]
        for shape in result["shapes"]
    ]
    peak = result["gemm_peak_flops"]
    lines = [table(header, rows), "", f"GEMM peak, {result['precision']}: {peak['median'] / 1e9:,.0f} GFLOP/s a worker"]
    for kind, how in (("study", "from these parts"), ("full", "outright")):
        for mode, found in result.get(kind, {"against": {}})["against"].items():
            ours, theirs = result[kind]["ours_s"] / 60, found["peer_s"] / 60
            lines.append(f"{STUDY} {how}: {ours:.1f} min; peer, {mode}: {theirs:.1f} min; ratio {found['ratio']:.2f}")
    return "\n".join(lines)


def _milliseconds(figure: dict[str, float]) -> str:
    return f"{figure['median'] * 1e3:.1f} ({figure['low'] * 1e3:.1f} to {figure['high'] * 1e3:.1f})"
