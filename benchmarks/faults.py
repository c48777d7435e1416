"""The same kills put to isoloss and to nanoGPT, between checkpoints and while one is written: who goes on, and how?"""

from __future__ import annotations

import json
import random
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Protocol

import torch

from benchmarks.peer import Peer, peers
from benchmarks.timing import machine, table
from isoloss.data.tokens import prepare
from isoloss.errors import ConfigError, StoreError
from isoloss.files import read_record
from isoloss.store.run import read_rows
from isoloss.study.config import RunConfig, make_config

SETTINGS = {"n_embd": 256, "batch_size": 4, "max_iters": 50, "warmup_iters": 5, "eval_interval": 20}
"""A model of group1's larger size: its checkpoint of 38 MB takes a while to write."""
EVAL_ITERS = 2
BETWEEN_S, WRITING_S = (0.7, 1.2), (0.0, 0.1)
"""From when a kill comes to when, after the sign it waits for: a checkpoint is there, a checkpoint has changed."""

Losses = dict[int, float]
"""A loss by step."""


class Side(Protocol):
    """One of the two programs, training the same run into a folder."""

    checkpoints: str
    """Pattern of its checkpoint files."""

    def start(self, folder: Path, *, resume: bool) -> subprocess.Popen[str]:
        """Begin, or go on as its manual says."""
        ...

    def checkpointed(self, folder: Path) -> bool:
        """Whether there is something to go on from."""
        ...

    def losses(self, folder: Path, output: str) -> Losses:
        """What a start that ended well has to show."""
        ...


@dataclass(frozen=True)
class NanoGPT:
    """The peer; it goes on by init_from=resume, and shows losses with four decimals."""

    peer: Peer
    config: RunConfig
    checkpoints = "ckpt.pt"

    def start(self, folder: Path, *, resume: bool) -> subprocess.Popen[str]:
        """Its train.py."""
        settings = {"max_iters": self.config.max_iters, "eval_interval": self.config.eval_interval}
        settings |= {"eval_iters": EVAL_ITERS, "log_interval": 1, "init_from": "resume" if resume else "scratch"}
        return self.peer.start(self.config, settings, folder)

    def checkpointed(self, folder: Path) -> bool:
        """Whether its one checkpoint is there."""
        return (folder / "ckpt.pt").exists()

    def losses(self, folder: Path, output: str) -> Losses:
        """As printed, from where it went on."""
        return {step: loss for step, loss, _ in self.peer.steps(output)}


@dataclass(frozen=True)
class Isoloss:
    """This project; it goes on by the same command."""

    checkpoints = "runs/*/*safetensors*"

    def start(self, folder: Path, *, resume: bool) -> subprocess.Popen[str]:
        """`isoloss train`."""
        options = {**SETTINGS, "eval": "sampled", "eval_iters": EVAL_ITERS, "compile": "on", "out": folder}
        command = [sys.executable, "-m", "isoloss", "train", *(f"--{name}={value}" for name, value in options.items())]
        return subprocess.Popen(command, text=True, stdout=subprocess.PIPE, stderr=subprocess.PIPE)

    def checkpointed(self, folder: Path) -> bool:
        """Whether a step has been kept."""
        try:
            return any(read_record(sidecar)["progress"]["step"] for sidecar in folder.glob("runs/*/last.json"))
        except StoreError:
            return False

    def losses(self, folder: Path, output: str) -> Losses:
        """Of all steps, as recorded."""
        return {row["step"]: row["loss"] for path in folder.glob("runs/*/metrics.jsonl") for row in read_rows(path)}


@dataclass
class Count:
    """Of the starts after some fault, how many ended well, and how many with the losses of an unharmed run."""

    trials: int = 0
    went_on: int = 0
    same: int = 0

    def add(self, expected: Losses, found: Losses) -> None:
        """Count a start; no losses, where it did not end well."""
        self.trials += 1
        self.went_on += bool(found)
        self.same += bool(found) and max(found) == max(expected) and found.items() <= expected.items()


def run(nanogpt: Path, trials: int = 10, out: Path = Path("results/benchmarks/faults.json")) -> None:
    """Kill both programs at seeded instants, let them go on, and compare their losses with an unharmed run's.

    Args:
        nanogpt: A nanoGPT checkout with data/shakespeare_char prepared.
        trials: Kills of each kind.
        out: Where the JSON goes; the table goes to stdout.
    """
    facts = prepare("tinyshakespeare").facts
    text = {"corpus": "tinyshakespeare", "corpus_sha256": facts.sha256, "vocab_size": facts.vocab_size}
    peer = next(peer for peer in peers(nanogpt, "cpu", 1) if not peer.compiled)
    sides: dict[str, Side] = {"isoloss": Isoloss(), "nanoGPT": NanoGPT(peer, make_config({**text, **SETTINGS}))}
    rows, result = list[list[str]](), {"machine": machine(torch.device("cpu"))}
    for name, side in sides.items():
        counts = _harmed(side, trials)
        rows += [[f, name, *(f"{n} of {c.trials}" for n in (c.went_on, c.same))] for f, c in counts.items()]
        result[name] = {fault: vars(count) for fault, count in counts.items()}
    print(table(["fault", "program", "went on", "to the losses of an unharmed run"], rows))
    out.parent.mkdir(parents=True, exist_ok=True)
    out.write_text(json.dumps(result, indent=2))


def _harmed(side: Side, trials: int) -> dict[str, Count]:
    none, between, writing = Count(), Count(), Count()
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        begun, torn = folder / "begun", folder / "torn"
        expected = _ended(side, folder / "unharmed", resume=False)
        if not expected:
            raise ConfigError(f"{type(side).__name__} does not train here")
        none.add(expected, _ended(side, folder / "again", resume=False))
        for trial in range(trials):
            generator = random.Random(trial)
            _kill(side, begun, partial(side.checkpointed, begun), generator.uniform(*BETWEEN_S), resume=False)
            shutil.copytree(begun, torn)
            changed = partial(_differs, side, torn, _checkpoints(side, torn))
            between.add(expected, _ended(side, begun, resume=True))
            _kill(side, torn, changed, generator.uniform(*WRITING_S), resume=True)
            writing.add(expected, _ended(side, torn, resume=True))
            shutil.rmtree(begun)
            shutil.rmtree(torn)
    return {"none": none, "SIGKILL between two checkpoints": between, "SIGKILL while one is written": writing}


def _kill(side: Side, folder: Path, sign: Callable[[], bool], then_s: float, *, resume: bool) -> None:
    """Start, wait for a sign and some seconds more, and kill. Raises ConfigError when it ended before."""
    with side.start(folder, resume=resume) as process:
        while not sign() and process.poll() is None:
            time.sleep(0.001)
        time.sleep(then_s)
        if process.poll() is not None:
            raise ConfigError(f"{type(side).__name__} ended before it could be killed")
        process.kill()


def _ended(side: Side, folder: Path, *, resume: bool) -> Losses:
    """Start and wait for the end; nothing where it failed."""
    process = side.start(folder, resume=resume)
    output, _ = process.communicate()
    return {} if process.returncode else side.losses(folder, output)


def _differs(side: Side, folder: Path, before: set[tuple[str, int]]) -> bool:
    """Whether a checkpoint is being written, or has been since."""
    return _checkpoints(side, folder) != before


def _checkpoints(side: Side, folder: Path) -> set[tuple[str, int]]:
    """The checkpoint files there are, and when each was last written to."""
    return {(path.name, path.stat().st_mtime_ns) for path in folder.glob(side.checkpoints) if path.exists()}
