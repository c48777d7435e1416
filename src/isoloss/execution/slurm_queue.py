"""What is asked of SLURM: jobs are submitted by submitit, the queue is read by squeue; and what a job does."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Mapping, Sequence
from contextlib import redirect_stderr
from dataclasses import dataclass
from io import StringIO
from pathlib import Path
from types import FrameType
from typing import Any

from isoloss.errors import ConfigError, StoreError
from isoloss.execution.context import TrainingContext
from isoloss.execution.event_file import EventWriter
from isoloss.execution.plan import Stack, resume_point
from isoloss.execution.scratch import train_placed
from isoloss.execution.worker import prepare_process
from isoloss.files import cache_dir
from isoloss.store.run import FINISHED, read_status
from isoloss.study.identity import run_id

SAVE_S = 120
"""How long before its time limit a job is told to save."""
ENDED = {
    "CANCELLED": "was cancelled",
    "OUT_OF_MEMORY": "was killed (out of memory: --slurm mem=...)",
    "TIMEOUT": "reached its time limit before it could save (--slurm time=...)",
    "DEADLINE": "reached its deadline",
    "NODE_FAIL": "lost its node",
    "BOOT_FAIL": "lost its node",
    "PREEMPTED": "was preempted",
    "COMPLETED": "ended early",
    "FAILED": "failed",
    "": "left the queue",
}
"""States after which a job is no more, in words; the last is that of a job that the queue has forgotten."""
_FORMAT = "%j|%K|%i|%T"
"""Of a line of the queue: name, index in the array, id, state."""


@dataclass(frozen=True)
class Queued:
    """A job as the queue shows it."""

    id: str
    state: str


GONE = Queued("", "")
"""A job that the queue does not know, or no longer."""


def run_job(context: TrainingContext, stack: Stack, events: Path) -> None:
    """Train a stack in a job, until it is told to save; told of its time limit, back into the queue with it."""
    told: list[int] = []

    def on_signal(number: int, frame: FrameType | None) -> None:
        del frame
        told.append(number)

    for number in (signal.SIGTERM, signal.SIGUSR1, signal.SIGUSR2):  # the last is submitit's, before a time limit
        signal.signal(number, on_signal)

    def steps() -> int:
        return sum(resume_point(context.study.run(run_id(config))).step for config in stack)

    prepare_process(context)
    before = steps()
    with EventWriter(events) as writer:
        train_placed(context, stack, writer.write, should_stop=lambda: bool(told))
    unfinished = [c for c in stack if read_status(context.study.run(run_id(c))).state not in (*FINISHED, "failed")]
    if unfinished and {signal.SIGUSR1, signal.SIGUSR2} & {*told} and steps() > before:  # else it would do so for ever
        asked(["scontrol", "requeue", _own_id()])


def _own_id() -> str:
    """This job as SLURM's commands take it; of an array's last job SLURM_JOB_ID alone would mean the whole array."""
    if array := os.environ.get("SLURM_ARRAY_JOB_ID"):
        return f"{array}_{os.environ['SLURM_ARRAY_TASK_ID']}"
    return os.environ["SLURM_JOB_ID"]


def queued() -> dict[tuple[str, int], Queued]:
    """One's own jobs, also those that ended a short while ago. Raises StoreError when SLURM does not answer."""
    answer = asked(["squeue", "--me", "--array", "--noheader", "--states=all", f"--format={_FORMAT}"])
    if answer.returncode:
        raise StoreError(f"SLURM does not answer: {(answer.stderr.strip() or 'no reason given').splitlines()[-1]}")
    found: dict[tuple[str, int], Queued] = {}
    for line in answer.stdout.splitlines():
        name, index, job, state = line.rsplit("|", 3)  # the names of other jobs are anything
        found[name, int(index) if index.isdecimal() else 0] = Queued(job, state)
    return found


def queued_if_known() -> dict[tuple[str, int], Queued] | None:
    """The same, None when SLURM does not answer: a controller that restarts takes no job with it."""
    try:
        return queued()
    except StoreError:
        return None


def asked(command: Sequence[str]) -> subprocess.CompletedProcess[str]:
    """A command of SLURM's, run; one that gives no answer is a failed one."""
    try:
        return subprocess.run(command, capture_output=True, text=True, check=False, timeout=60)
    except (OSError, subprocess.TimeoutExpired) as error:
        return subprocess.CompletedProcess(command, 1, "", str(error))


def check_slurm() -> None:
    """Raises ConfigError where SLURM or submitit is missing."""
    if not all(map(shutil.which, ("sbatch", "srun", "squeue", "scancel"))):
        raise ConfigError(
            "--on slurm: sbatch, srun, squeue and scancel are not all here; start it on a login node of the cluster, "
            "or leave --on out to train on this machine",
            ("on",),
        )
    submitit_library()


def submitit_library() -> Any:
    """The library, imported. Raises ConfigError without it."""
    try:
        import submitit  # pyright: ignore[reportMissingImports]  (an extra)
    except ImportError as error:
        raise ConfigError("--on slurm needs submitit: pip install 'isoloss[slurm]'", ("on",)) from error
    return submitit


def job_folder() -> Path:
    """Where submitit keeps what jobs are started from: beside compiled kernels, not in a directory of a stranger's."""
    return cache_dir() / "slurm"


def submit_array(
    name: str, parameters: Mapping[str, str], at_once: int, context: TrainingContext, stacks: Sequence[Stack]
) -> None:
    """Submit a job a stack. Raises ConfigError with what SLURM says against it."""
    submitit = submitit_library()
    executor = submitit.SlurmExecutor(job_folder(), python=f"{sys.executable} -P")
    executor.update_parameters(
        job_name=name,
        time=None,  # else five minutes
        array_parallelism=at_once,
        signal_delay_s=SAVE_S,
        additional_parameters={"cpus-per-task": 1, "requeue": True, **parameters},
    )
    events = [context.study.jobs.absolute() / f"{name}.{index}.jsonl" for index in range(len(stacks))]
    try:
        with redirect_stderr(StringIO()):  # where it would show all that sbatch says
            executor.map_array(run_job, [context] * len(stacks), stacks, events)
    except submitit.core.utils.FailedJobError as error:
        said = [line for line in str(error).splitlines() if line.startswith("sbatch: error: ")]
        reason = said[-1].removeprefix("sbatch: error: ") if said else str(error).splitlines()[-1]
        stated = ",".join(f"{key}={value}" for key, value in parameters.items()) or "nothing"
        raise ConfigError(f"SLURM refuses the jobs: {reason}; --slurm states {stated}", ("slurm",)) from error


def last_error(log: Path) -> str:
    """The last line of a log that tells of an error; what is likely where there is no log either."""
    try:
        lines = log.read_text(errors="replace").splitlines()
    except OSError:
        return f"nor in {log}; choose an --out and an ISOLOSS_CACHE on a file system that every node sees"
    errors = [line for line in lines if "rror" in line and not line.startswith("srun:")]
    return f"{errors[-1] if errors else 'no error is told'} ({log})"
