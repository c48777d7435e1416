"""Faults by name, point and seed: a study is harmed at one operation, started again, compared with an unharmed one."""

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

from isoloss.cli.progress import Display
from isoloss.errors import StoreError
from isoloss.execution.recorder import Event
from isoloss.files import read_record, sha256_file
from isoloss.store.outcome import measure
from isoloss.store.run import eval_rows, read_rows, step_rows
from isoloss.store.tables import load_study

Harm = Literal["none", "kill", "half", "ENOSPC", "EIO", "EFBIG", "unreadable", "no handles"]
_CODES: dict[Harm, int] = {
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
"""What the fixture `points` is: of all the points of a fault, those to try."""


@dataclass(frozen=True)
class Told:
    """What became of one start of a study: `began` is the step from which its runs went on, the first of them."""

    killed: bool
    operations: int = 0
    looks: int = 0
    message: str = ""
    states: tuple[str, ...] = ()
    began: int | None = None
    reasons: tuple[str, ...] = ()
    traceback: str = ""


class Trials:
    """Starts a study in forks of a process that has the shim loaded."""

    def __init__(self, study: Path, stack: int, process: subprocess.Popen[str]) -> None:
        self._study, self._stack, self._process = study, stack, process

    def start(
        self,
        out: Path,
        harm: Harm = "none",
        at: int = 0,
        *,
        times: int = 1,
        record: Path | None = None,
        kill_after: float | None = None,
        jumps: int | None = None,
    ) -> Told:
        """Run the study into `out`, harmed at the operation numbered `at` from 1, or killed after so many seconds.

        What makes it blind strikes at a look, counted apart.
        `record` takes every operation; `jumps` seeds the days by which the clock is off from one step to the next.
        """
        request = {
            "study": str(self._study),
            "out": str(out),
            "harm": _CODES[harm],
            "at": at,
            "times": times,
            "record": str(record or ""),
            "kill_after": kill_after,
            "jumps": jumps,
            "stack": self._stack,
        }
        assert self._process.stdin and self._process.stdout
        print(json.dumps(request), file=self._process.stdin, flush=True)
        answer = json.loads(self._process.stdout.readline())
        told = Told(**{**answer, **{name: tuple(answer.get(name, ())) for name in ("states", "reasons")}})
        assert not told.traceback, told.traceback
        return told

    def finish(self, out: Path, *, jumps: int | None = None) -> Told:
        """Run the study to its end from where it was left, and not from before: all that was kept is gone on from."""
        kept = acknowledged(out)
        told = self.start(out, jumps=jumps)
        assert told.states and set(told.states) == {"done"}, told
        assert told.began is None or told.began >= kept, f"kept to step {kept}, went on from {told.began}"
        return told


@contextmanager
def serving(study: Path, folders: pytest.TempPathFactory, stack: int = 1) -> Iterator[Trials]:
    """A server of trials of the study in a file, so many runs a stack, with a cache that is everybody's meanwhile."""
    shim = folders.mktemp("shim") / "shim.so"
    compiler = os.environ.get("CC") or shutil.which("cc") or shutil.which("gcc")
    assert compiler, "the fault tests need a C compiler"
    source = Path(__file__).with_name("shim.c")
    subprocess.run([compiler, "-O2", "-shared", "-fPIC", "-o", str(shim), str(source), "-ldl"], check=True)
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("ISOLOSS_CACHE", str(folders.mktemp("cache")))
        with subprocess.Popen(
            [sys.executable, "-m", "tests.faults.server"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            env={**os.environ, "LD_PRELOAD": str(shim), "OMP_NUM_THREADS": "1"},
        ) as process:
            yield Trials(study, stack, process)
            assert process.stdin
            process.stdin.close()


class Heard(Display):
    """Shows runs to nobody; remembers the step from which they went on, the first of them, and why some failed."""

    def __init__(self) -> None:
        self._page = StringIO()
        super().__init__(Console(file=self._page))
        self.began: int | None = None
        self.reasons: list[str] = []

    def emit(self, event: Event) -> None:
        """Hear of a run."""
        super().emit(event)
        if event.kind == "running" and event.loss is None and not event.reason:
            self.began = event.step if self.began is None else min(event.step, self.began)
        if event.kind == "failed":
            self.reasons.append(event.reason)

    def words(self) -> str:
        """All that was shown."""
        return self._page.getvalue()


def acknowledged(folder: Path) -> int:
    """The step that every run of a study was kept at: by its last checkpoint, or by its rows.

    Rows of an evaluation are written when the checkpoint of the evaluation before has been acknowledged.
    """
    return min(map(_kept, folder.glob("runs/*")), default=0)


def _kept(run: Path) -> int:
    try:
        last = int(read_record(run / "last.json")["progress"]["step"])
    except StoreError:
        last = 0
    evaluated = sorted({row["step"] for row in read_rows(run / "evals.jsonl")})
    return max([last, *evaluated[:-1]])


def science(folder: Path) -> dict[str, Any]:
    """What a study found, apart from the clock: every row, and the digests of all weights.

    What a run kept of its rows when it ended must be what they come to.
    """
    results = load_study(folder)
    found: dict[str, Any] = {}
    for run, status in results.statuses().items():
        paths, state = results.paths.run(run), status.state
        assert status.measured in (None, measure(step_rows(paths), eval_rows(paths))), run
        steps = [(row["step"], row["loss"], row["lr"], row["grad_norm"]) for row in read_rows(paths.metrics)]
        evals = [(row["step"], row["train_loss"], row["val_loss"]) for row in read_rows(paths.evals)]
        weights = [sha256_file(paths.folder / f"{name}.safetensors") for name in ("last", "best")]
        found[run] = (state, steps, evals, weights)
    return found
