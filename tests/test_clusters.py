"""SLURM and Ray themselves, where they are installed: twelve runs with faults have the bits of a local run."""

from __future__ import annotations

import importlib.util
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from isoloss.files import read_record
from isoloss.store.tables import load_study
from tests.faults.harness import results_of

LONGEST_S = 900.0
STUDY = """\
name: twelve
corpus: {corpus}
base: {{n_layer: 1, n_embd: 16, n_head: 2, block_size: 16, batch_size: 4, precision: fp32, warmup_iters: 2,
  max_iters: 300, eval_interval: 100, eval_train_tokens: 64}}
factors: {{weight_decay: [0.0, 0.1, 0.2]}}
seeds: 4
"""


@pytest.fixture(scope="module")
def twelve(tmp_path_factory: pytest.TempPathFactory, text_file: Path) -> Iterator[Path]:
    """The study's file; the cache is where every node of this machine finds it."""
    folder = tmp_path_factory.mktemp("clusters")
    (folder / "twelve.yaml").write_text(STUDY.format(corpus=text_file))
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("ISOLOSS_CACHE", str(folder / "cache"))
        yield folder / "twelve.yaml"


@pytest.fixture(scope="module")
def expected(twelve: Path) -> dict[str, Any]:
    """What a local run finds."""
    subprocess.run(command(twelve, "local"), check=True, capture_output=True, timeout=LONGEST_S)
    return results_of(twelve.with_name("local"))


def command(study: Path, out: str, *options: str) -> list[str]:
    chosen = ["--out", str(study.with_name(out)), "--compile", "off", "--device", "cpu", *options]
    return [sys.executable, "-m", "isoloss", "run", str(study), *chosen]


def until(holds: Callable[[], Any], process: subprocess.Popen[str]) -> Any:
    """What comes to hold, while a command runs."""
    until_s = time.monotonic() + LONGEST_S
    while not (found := holds()):
        assert process.poll() is None and time.monotonic() < until_s, process.communicate()
        time.sleep(0.5)
    return found


def processes(of: str, **environment: str) -> list[int]:
    """Processes with these words in their command and these variables."""
    found: list[int] = []
    for folder in Path("/proc").glob("[0-9]*"):
        try:
            line, variables = ((folder / name).read_bytes().decode(errors="replace") for name in ("cmdline", "environ"))
        except OSError:
            continue
        if of in line.replace("\0", " ") and all(f"{k}={v}" in variables.split("\0") for k, v in environment.items()):
            found.append(int(folder.name))
    return found


def provenance(out: Path) -> set[tuple[str, bool]]:
    statuses = load_study(out).statuses().values()
    return {(status.provenance["executor"], bool(status.provenance["node"])) for status in statuses}


def slurm_answers() -> bool:
    return bool(shutil.which("sinfo")) and not subprocess.run(["sinfo"], capture_output=True, check=False).returncode


def running(names: set[str]) -> list[str]:
    """Jobs of these names that run now: their ids as `scontrol` takes them."""
    asked = ["squeue", "--me", "--array", "--noheader", "--states=running", "--format=%j|%i"]
    lines = subprocess.run(asked, capture_output=True, text=True, check=True).stdout.splitlines()
    return [line.partition("|")[2] for line in lines if line.partition("|")[0] in names]


@pytest.mark.skipif(not importlib.util.find_spec("submitit"), reason="submitit is not installed: make cluster")
@pytest.mark.skipif(not slurm_answers(), reason="there is no SLURM here: docs/clusters.md has one of one machine")
def test_slurm_trains_what_a_local_run_does_whatever_happens_to_its_jobs(
    twelve: Path, expected: dict[str, Any]
) -> None:
    out = twelve.with_name("slurm")

    def names() -> set[str]:
        return {path.stem for path in out.glob("jobs/*.json")}

    def training() -> list[str]:
        begun = {path.stem for path in out.glob("jobs/*.jsonl") if path.stat().st_size > 300}  # some events
        return [job for job in running(names()) if any(name.endswith(f".{job.partition('_')[2]}") for name in begun)]

    start = command(twelve, "slurm", "--on", "slurm")
    with subprocess.Popen(start, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True) as first:
        [job, *_] = until(training, first)
        array, _, index = job.partition("_")
        victims = processes("submitit.core._submit", SLURM_ARRAY_JOB_ID=array, SLURM_ARRAY_TASK_ID=index)
        for victim in victims:
            os.kill(victim, signal.SIGKILL)  # as the kernel does where memory runs out
        assert victims
        [job, *_] = until(lambda: [other for other in training() if other != job], first)
        subprocess.run(["scontrol", "requeue", job], check=True)  # as after a node is taken away
        first.send_signal(signal.SIGINT)
        said, _ = first.communicate(timeout=60)
    assert first.returncode == 130 and "SLURM jobs go on: the same command follows" in said
    left = names()
    assert left
    with subprocess.Popen(start, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True) as second:
        signalled = ["scancel", "--signal=USR2"]  # as SLURM does before a time limit
        until(lambda: any(not subprocess.run([*signalled, j], check=False).returncode for j in training()), second)
        said, _ = second.communicate(timeout=LONGEST_S)
    assert second.returncode == 0, said
    assert results_of(out) == expected and provenance(out) == {("slurm", True)}
    assert not running(left) and not names()


@pytest.mark.skipif(not importlib.util.find_spec("submitit"), reason="submitit is not installed: make cluster")
@pytest.mark.skipif(not slurm_answers(), reason="there is no SLURM here: docs/clusters.md has one of one machine")
def test_slurm_refuses_an_unknown_partition_in_a_line(twelve: Path) -> None:
    start = command(twelve, "refused", "--on", "slurm", "--slurm", "partition=nowhere")
    done = subprocess.run(start, capture_output=True, text=True, check=False, timeout=LONGEST_S)
    assert done.returncode == 2 and len(done.stderr.splitlines()) == 1
    assert "SLURM refuses the jobs" in done.stderr and "partition=nowhere" in done.stderr


@pytest.mark.skipif(not importlib.util.find_spec("ray"), reason="Ray is not installed: make cluster")
def test_ray_trains_what_a_local_run_does_though_actors_are_killed_and_the_command_stops(
    twelve: Path, expected: dict[str, Any]
) -> None:
    out = twelve.with_name("ray")

    def stepped() -> list[Path]:
        return [path for path in out.glob("runs/*/last.json") if read_record(path)["progress"]["step"]]

    start = command(twelve, "ray", "--on", "ray")
    for fault in ("kill", "stop", ""):
        done = len(stepped())
        with subprocess.Popen(start, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True) as process:
            if fault:
                until(lambda done=done: len(stepped()) > done, process)
            if fault == "kill":
                victims = processes("ray::Trainer")
                os.kill(victims[0], signal.SIGKILL)
                until(lambda done=done: len(stepped()) > done + 2, process)
            if fault:
                process.send_signal(signal.SIGTERM)
            said, _ = process.communicate(timeout=LONGEST_S)
        assert process.returncode == (130 if fault else 0), said
        assert fault != "kill" or "its Ray actor died" in said
    assert results_of(out) == expected and provenance(out) == {("ray", True)}


@pytest.mark.skipif(not importlib.util.find_spec("ray"), reason="Ray is not installed: make cluster")
def test_a_ray_that_is_not_reachable_is_named_in_a_line(twelve: Path) -> None:
    start = command(twelve, "unreachable", "--on", "ray:127.0.0.1:1")
    done = subprocess.run(start, capture_output=True, text=True, check=False, timeout=LONGEST_S)
    assert done.returncode == 2 and len(done.stderr.splitlines()) == 1
    assert (
        done.stderr.startswith("isoloss: --on ray:127.0.0.1:1: not reachable (") and "ray start --head" in done.stderr
    )
