"""SLURM: stacks as jobs of an array, which go on without the command that submitted them and are found again by it.

What is said goes through files, so that nobody needs to listen: before jobs are submitted, `jobs/NAME.json` says which
runs each of them has, NAME being theirs in the queue; each appends its events to a file beside it. A job that is told
of its time limit saves, and puts itself back into the queue.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path
from secrets import token_hex

from isoloss.errors import ConfigError, StoreError
from isoloss.execution.context import TrainingContext
from isoloss.execution.event_file import EventReader
from isoloss.execution.plan import Stack
from isoloss.execution.policy import Transport, Worker, train_stacks
from isoloss.execution.recorder import Emit, Event
from isoloss.execution.slurm_queue import (
    ENDED,
    GONE,
    Queued,
    asked,
    job_folder,
    last_error,
    queued,
    queued_if_known,
    submit_array,
)
from isoloss.execution.worker import THREADS_PER_WORKER
from isoloss.files import make_folder, write_record, writing
from isoloss.store.records import JOBS, read_checked
from isoloss.study.identity import run_id
from isoloss.wording import counted

QUEUE_EVERY_S = 5.0
"""How often the queue is asked: by the owner of many jobs, so rarely."""
ROUND_S = 1.0
SETTLE_S = 5.0
"""How long a file that a job wrote last may be hidden from here by caches of a network's file system."""


class Job(Worker):
    """A SLURM job, which trains one stack; before it is submitted, the wish for one."""

    def __init__(self, jobs: Jobs) -> None:
        super().__init__()
        self._jobs, self.name, self.index, self.ended_s = jobs, "", 0, 0.0
        self.queued = Queued("", "PENDING")
        self.events: EventReader | None = None

    @property
    def noun(self) -> str:
        """What it is called."""
        return f"SLURM job {self.queued.id}"

    def submitted(self, name: str, index: int, stack: Stack) -> None:
        """It is in the queue."""
        self.name, self.index, self.stack = name, index, stack
        self.events = EventReader(self._jobs.folder / f"{name}.{index}.jsonl")

    def begin(self, stack: Stack) -> None:
        """Submitted with all others of its round."""
        self._jobs.waiting.append(self)

    def ask_to_stop(self) -> None:
        """It goes on."""

    def kill(self) -> None:
        """Cancel it."""
        asked(["scancel", self.queued.id])

    def is_alive(self) -> bool:
        """Whether it may still be in the queue, or have written what is not seen here yet."""
        if self.queued.state not in ENDED:
            return True
        return bool(self.stack) and time.monotonic() - self.ended_s < SETTLE_S

    def cancelled(self) -> bool:
        """Whether somebody took it out of the queue."""
        return self.queued.state == "CANCELLED" and not self.hung

    def received(self) -> Iterator[Event | None]:
        """The events of its runs."""
        runs = {*map(run_id, self.stack or ())}
        yield from (event for event in (self.events.new() if self.events else ()) if event.run_id in runs)

    def end(self) -> str:
        """By its state, with where its log is. Raises StoreError where it left no trace."""
        log = self._jobs.log(self.queued.id)
        if self.queued.state in ("FAILED", "COMPLETED") and self.events and not self.events.seen:
            asked(["scancel", f"--name={self.name}"])  # the others could do no better
            raise StoreError(f"{self.noun} failed without a trace in {self._jobs.folder}: {last_error(log)}")
        return f"{ENDED[self.queued.state]}, its log is {log}"

    def finish(self, timeout_s: float = 0.0) -> None:
        """It goes on."""

    def look(self, queue: Mapping[tuple[str, int], Queued]) -> None:
        """Take its state from the queue; time in which it waits is no silence."""
        before, self.queued = self.queued, queue.get((self.name, self.index), replace(GONE, id=self.queued.id))
        if self.queued.state in ENDED and before.state not in ENDED:
            self.ended_s = time.monotonic()
        if self.queued.state not in ("RUNNING", *ENDED):
            self.heard()


class Jobs(Transport):
    """The jobs of a study in the queue."""

    def __init__(self, parameters: Mapping[str, str], at_once: int | None, context: TrainingContext) -> None:
        self.workers = sys.maxsize  # as many as there are stacks: the queue decides
        self._parameters, self._at_once, self._context = parameters, at_once, context
        self.folder, self.waiting, self._looked_s = context.study.jobs, list[Job](), 0.0

    def start(self, context: TrainingContext, pool: Sequence[Worker]) -> Worker:
        """A job to be submitted."""
        return Job(self)

    def attached(self, stacks: Sequence[Stack]) -> list[Worker]:
        """Jobs of an earlier command that are still in the queue, of which each has some of the runs."""
        configs, queue = {run_id(config): config for stack in stacks for config in stack}, self.tidied()
        found: list[Worker] = []
        for path in self.folder.glob("isoloss-*.json"):
            for index, runs in enumerate(read_checked(JOBS, path)["stacks"]):
                stack = tuple(configs[run] for run in runs if run in configs)
                if stack and queue.get((path.stem, index), GONE).state not in ENDED:
                    job = Job(self)
                    job.submitted(path.stem, index, stack)
                    job.look(queue)
                    found.append(job)
        return found

    def tidied(self) -> dict[tuple[str, int], Queued]:
        """The queue, once the files of jobs that are no longer in it are removed."""
        queue = queued()
        names = {name for (name, _), job in queue.items() if job.state not in ENDED}
        for path in self.folder.glob("isoloss-*.json"):
            if path.stem not in names:
                for old in (path, *self.folder.glob(f"{path.stem}.*.jsonl")):
                    old.unlink(missing_ok=True)
        return queue

    def wait(self, pool: Sequence[Worker], timeout_s: float) -> None:
        """Submit what is to be, and look into the queue now and then."""
        if self.waiting:
            self._submit()
        if time.monotonic() - self._looked_s > QUEUE_EVERY_S and (queue := queued_if_known()) is not None:
            for job in pool:
                if isinstance(job, Job):
                    job.look(queue)
            self._looked_s = time.monotonic()
        time.sleep(max(timeout_s, ROUND_S))

    def left(self, pool: Sequence[Worker]) -> str:
        """They go on."""
        left = [job for job in pool if isinstance(job, Job) and job.stack]
        names = ",".join(sorted({job.name for job in left}))
        go_on = counted(len(left), "SLURM job goes on", "SLURM jobs go on")
        return f"{go_on}: the same command follows, scancel --name={names} cancels"

    def log(self, job: str) -> Path:
        """Where a job writes what goes wrong before and beside training."""
        return job_folder() / f"{job}_0_log.err"

    def _submit(self) -> None:
        """Submit what waits as one array. Raises ConfigError with what SLURM says against it."""
        jobs, self.waiting, name = self.waiting, [], f"isoloss-{token_hex(4)}"
        stacks = [job.stack or () for job in jobs]
        with writing(self.folder):
            make_folder(self.folder)
        write_record(self.folder / f"{name}.json", {"stacks": [[*map(run_id, stack)] for stack in stacks]})
        try:
            submit_array(name, self._parameters, self._at_once or len(jobs), self._context, stacks)
        except ConfigError:
            (self.folder / f"{name}.json").unlink(missing_ok=True)
            raise
        for index, job in enumerate(jobs):
            job.submitted(name, index, stacks[index])
            job.heard()
        self._looked_s = 0.0


@dataclass(frozen=True)
class Slurm:
    """Trains each stack in a SLURM job of its own; `parameters` are sbatch's, by their long names."""

    parameters: Mapping[str, str]
    at_once: int | None = None
    name = "slurm"

    @property
    def threads(self) -> int:
        """One a job on a CPU."""
        return THREADS_PER_WORKER

    def run(
        self, stacks: Sequence[Stack], context: TrainingContext, emit: Emit, should_stop: Callable[[], bool]
    ) -> None:
        """Submit the stacks, and follow them until they end."""
        jobs = Jobs(self.parameters, self.at_once, context)
        train_stacks(jobs, stacks, context, emit, should_stop)
        with suppress(StoreError):  # the next start does it
            jobs.tidied()
