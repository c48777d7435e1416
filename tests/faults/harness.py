"""Fault injection by name, point and seed: a study fails at one operation, is started again, and is compared with one
without a fault.
"""

from __future__ import annotations

import errno
import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from io import StringIO
from pathlib import Path
from typing import Any, Literal

import pytest
from rich.console import Console

from isoloss.errors import StoreError
from isoloss.execution.compacting import Keep
from isoloss.execution.display import Display
from isoloss.execution.recorder import Event
from isoloss.files import read_record, sha256_file
from isoloss.store.outcome import measure
from isoloss.store.run import eval_rows, read_rows, step_rows
from isoloss.store.tables import load_study

Fault = Literal["none", "kill", "half", "ENOSPC", "EIO", "EFBIG", "unreadable", "no handles"]
_CODES: dict[Fault, int] = {
    "none": 0,
    "kill": 1,
    "half": 2,
    "ENOSPC": 1000 + errno.ENOSPC,
    "EIO": 1000 + errno.EIO,
    "EFBIG": 1000 + errno.EFBIG,
    "unreadable": 2000 + errno.EIO,
    "no handles": 2000 + errno.EMFILE,
}
FOREVER = 1 << 40
Points = Callable[[Sequence[Any], int], Iterator[Any]]
"""The type of the fixture `points`: of all the points of a fault, those to try."""


@dataclass(frozen=True)
class Outcome:
    """The outcome of one start of a study; `began` is the smallest step from which its runs continued."""

    killed: bool
    operations: int = 0
    reads: int = 0
    message: str = ""
    states: tuple[str, ...] = ()
    began: int | None = None
    reasons: tuple[str, ...] = ()
    traceback: str = ""


class Trials:
    """Starts a study in forks of a process that has the shim loaded."""

    def __init__(self, study: Path, stack: int, beside: bool, process: subprocess.Popen[str]) -> None:
        self._study, self._stack, self._beside, self._process = study, stack, beside, process

    def start(
        self,
        out: Path,
        fault: Fault = "none",
        at: int = 0,
        *,
        times: int = 1,
        record: Path | None = None,
        kill_after: float | None = None,
        jumps: int | None = None,
        compact: Keep | None = None,
    ) -> Outcome:
        """Run the study into `out` with a fault at operation number `at`, from 1, or killed after so many seconds.

        Faults of reads count reads instead of operations. `compact` compacts a study that was run in place of that.
        `record` takes every operation; `jumps` seeds the days by which the clock is off from one step to the next.
        """
        request = {
            "study": str(self._study),
            "out": str(out),
            "fault": _CODES[fault],
            "at": at,
            "times": times,
            "record": str(record or ""),
            "kill_after": kill_after,
            "jumps": jumps,
            "stack": self._stack,
            "beside": self._beside,
            "compact": compact,
        }
        assert self._process.stdin and self._process.stdout
        print(json.dumps(request), file=self._process.stdin, flush=True)
        answer = json.loads(self._process.stdout.readline())
        outcome = Outcome(**{**answer, **{name: tuple(answer.get(name, ())) for name in ("states", "reasons")}})
        assert not outcome.traceback, outcome.traceback
        return outcome

    def finish(self, out: Path, *, jumps: int | None = None) -> Outcome:
        """Run the study to its end; asserts that it continues from what was kept, and not from an earlier step."""
        kept = acknowledged(out, by_rows=not self._beside)
        outcome = self.start(out, jumps=jumps)
        assert outcome.states and set(outcome.states) == {"done"}, outcome
        assert outcome.began is None or outcome.began >= kept, f"kept to step {kept}, went on from {outcome.began}"
        return outcome


def compiled_shim(folder: Path) -> Path:
    """The shim as a library that can be preloaded."""
    shim, source = folder / "shim.so", Path(__file__).with_name("shim.c")
    compiler = os.environ.get("CC") or shutil.which("cc") or shutil.which("gcc")
    assert compiler, "the fault tests need a C compiler"
    subprocess.run([compiler, "-O2", "-shared", "-fPIC", "-o", str(shim), str(source), "-ldl"], check=True)
    return shim


@contextmanager
def serving(study: Path, folders: pytest.TempPathFactory, stack: int = 1, *, beside: bool = False) -> Iterator[Trials]:
    """A server of trials of a study file, with so many runs a stack and a cache shared by all trials.

    With `beside` checkpoints are written while training goes on, as on CUDA.
    """
    shim = compiled_shim(folders.mktemp("shim"))
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("ISOLOSS_CACHE", str(folders.mktemp("cache")))
        with subprocess.Popen(
            [sys.executable, "-m", "tests.faults.server"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            env={**os.environ, "LD_PRELOAD": str(shim), "OMP_NUM_THREADS": "1"},
        ) as process:
            yield Trials(study, stack, beside, process)
            assert process.stdin
            process.stdin.close()


class RecordingDisplay(Display):
    """Keeps what it would show, the smallest step from which runs continued, and why some failed."""

    def __init__(self) -> None:
        self._page = StringIO()
        super().__init__(Console(file=self._page))
        self.began: int | None = None
        self.reasons: list[str] = []

    def emit(self, event: Event) -> None:
        """Keep an event."""
        super().emit(event)
        if event.kind == "running" and event.loss is None and not event.reason:
            self.began = event.step if self.began is None else min(event.step, self.began)
        if event.kind == "failed":
            self.reasons.append(event.reason)

    def text(self) -> str:
        """All that was shown."""
        return self._page.getvalue()


def acknowledged(folder: Path, *, by_rows: bool = True) -> int:
    """The smallest step at which the runs of a study were kept, by their last checkpoints or by their rows.

    Rows of an evaluation are written when the checkpoint of the evaluation before has been acknowledged, unless
    checkpoints are written beside training.
    """
    return min((_kept(run, by_rows) for run in folder.glob("runs/*")), default=0)


def _kept(run: Path, by_rows: bool) -> int:
    try:
        last = int(read_record(run / "last.json")["progress"]["step"])
    except StoreError:
        last = 0
    evaluated = sorted({row["step"] for row in read_rows(run / "evals.jsonl")})
    return max([last, *(evaluated[:-1] if by_rows else ())])


def results_of(folder: Path) -> dict[str, Any]:
    """The results of a study, apart from times: every row, and the SHA-256 of all weights.

    What a run kept of its rows when it ended must be what they come to.
    """
    results = load_study(folder)
    found: dict[str, Any] = {}
    for run, status in results.statuses().items():
        paths, state = results.paths.run(run), status.state
        assert status.measured in (None, measure(step_rows(paths), eval_rows(paths))), run
        steps = [(row["step"], row["loss"], row["lr"], row["grad_norm"]) for row in read_rows(paths.metrics)]
        losses = ("step", "train_loss", "val_loss", "ema_train_loss", "ema_val_loss")
        evals = [tuple(map(row.get, losses)) for row in read_rows(paths.evals)]
        weights = [sha256_file(paths.folder / f"{name}.safetensors") for name in ("last", "best")]
        found[run] = (state, steps, evals, weights)
    return found
