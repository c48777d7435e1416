"""Whole studies: trained once, resumed to the bit after kill -9, stopped cleanly, failures kept apart."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from contextlib import nullcontext
from dataclasses import replace
from pathlib import Path
from threading import Thread
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from isoloss.errors import AllFailedError, ConfigError, Interrupted, StoreError
from isoloss.execution import plan, worker
from isoloss.execution.executor import Inline, NullListener
from isoloss.execution.plan import plan_stacks
from isoloss.execution.study import RunOptions, run_study
from isoloss.store.layout import StudyPaths
from isoloss.store.revisions import stated_beforehand
from isoloss.store.run import read_rows, read_status
from isoloss.store.tables import StudyResults, load_study
from isoloss.study.config import RunConfig
from isoloss.study.identity import run_id
from isoloss.study.stated_hypotheses import make_hypothesis
from isoloss.study.study import Study
from isoloss.study.studyfile import dump_study, find_study, parse_study
from isoloss.study.texts import DataFacts
from isoloss.training import checkpoint
from isoloss.training.state import StackState

OPTIONS = RunOptions(device="cpu", precision="fp32")
TINY = {"n_layer": 1, "n_embd": 16, "n_head": 2, "block_size": 16, "batch_size": 4, "max_iters": 12}
TINY |= {"eval_interval": 5, "warmup_iters": 2, "eval_train_tokens": 256}


@pytest.fixture
def study(text_file: Path) -> Callable[..., Study]:
    def build(factors: dict[str, tuple[Any, ...]] | None = None, seeds: tuple[int, ...] = (1,), **base: Any) -> Study:
        varied = factors or {}
        constant = {name: value for name, value in {**TINY, **base}.items() if name not in varied}
        return Study("tiny", str(text_file), base=constant, factors=varied, seeds=seeds)

    return build


def train_here(study: Study, out: Path, options: RunOptions = OPTIONS) -> StudyResults:
    return run_study(study, out, options, executor=Inline())


def results_of(results: StudyResults) -> dict[str, list[tuple[Any, ...]]]:
    """Everything the runs recorded, apart from the clock."""
    rows: dict[str, list[tuple[Any, ...]]] = {}
    for run in results.summary()["run_id"]:
        paths = results.paths.run(run)
        steps = [(row["step"], row["loss"], row["lr"], row["grad_norm"]) for row in read_rows(paths.metrics)]
        rows[run] = steps + [(row["step"], row["train_loss"], row["val_loss"]) for row in read_rows(paths.evals)]
    return rows


def test_a_study_becomes_a_directory_readable_without_isoloss(study: Callable[..., Study], tmp_path: Path) -> None:
    results = train_here(study({"n_head": (1, 2), "dropout": (0.0, 0.5)}, seeds=(1, 2)), tmp_path / "out")
    table = results.summary()
    assert len(table) == 8
    assert table["status"].to_list() == ["done"] * 8
    assert set(table["best_val_loss"].is_null()) == {False}
    assert (tmp_path / "out/summary.csv").read_text().splitlines()[0].split(",")[:4] == [
        "run_id",
        "seed",
        "n_head",
        "dropout",
    ]
    run = results.paths.run(table["run_id"][0])
    assert len(list(read_rows(run.metrics))) == 12
    assert [row["step"] for row in read_rows(run.evals)] == [0, 5, 10, 12]
    names = {path.name for path in run.folder.iterdir() if not path.name.startswith(".")}
    needed = {"config.json", "status.json", "metrics.jsonl", "evals.jsonl", "last.safetensors", "best.safetensors"}
    assert needed | {"last.json", "best.json", "curves.json"} <= names
    kept = results.status(run.folder.name).measured
    assert kept and kept["best_val_loss"] == table["best_val_loss"][0]
    losses = [row["loss"] for row in read_rows(run.metrics)]
    assert results.thinned_curves().steps.filter(run_id=run.folder.name)["loss"].to_list() == pytest.approx(
        losses, rel=1e-5
    )
    assert not {name for name in names if name.startswith("previous")}
    assert load_study(tmp_path / "out").summary().equals(table)


def test_finished_runs_are_not_trained_again(study: Callable[..., Study], tmp_path: Path) -> None:
    tiny = study({"n_head": (1, 2)})
    results = train_here(tiny, tmp_path)
    before = {path: path.stat().st_mtime_ns for path in tmp_path.rglob("runs/*/*") if path.name != ".lock"}
    train_here(tiny, tmp_path)
    assert {path: path.stat().st_mtime_ns for path in before} == before
    assert plan_stacks(results, 1) == []


def test_a_changed_text_is_refused(tmp_path: Path) -> None:
    text = tmp_path / "text.txt"
    text.write_text("to be or not to be " * 50)
    tiny = Study("tiny", str(text), base=TINY)
    train_here(tiny, tmp_path / "out")
    text.write_text("to be or not to bee" * 50)
    with pytest.raises(ConfigError, match="changed since"):
        train_here(tiny, tmp_path / "out")


def test_an_unwritable_directory_is_refused(study: Callable[..., Study], tmp_path: Path) -> None:
    (tmp_path / "file").write_text("in the way")
    with pytest.raises(StoreError, match="cannot write"):
        train_here(study(), tmp_path / "file" / "out")


def test_a_disk_too_small_is_refused_before_anything_trains(
    study: Callable[..., Study], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(shutil, "disk_usage", lambda _: SimpleNamespace(free=1000))
    with pytest.raises(StoreError, match=r"has 0.0 MB free, what is left of the study needs about 0.2"):
        train_here(study(), tmp_path)
    assert not (tmp_path / "runs").exists()


def test_stacked_and_lone_runs_agree(study: Callable[..., Study], tmp_path: Path) -> None:
    grid = study({"n_head": (1, 4), "max_iters": (7, 12), "dropout": (0.0, 0.3)})
    lone = results_of(train_here(grid, tmp_path / "lone"))
    together = train_here(grid, tmp_path / "stacked", replace(OPTIONS, stack=8))
    stacked = results_of(together)
    programs = [status.provenance["program"] for status in together.statuses().values()]
    assert len(set(programs)) == 2  # the shorter runs leave the longer ones after their warm-up
    assert lone.keys() == stacked.keys()
    for run, rows in lone.items():
        for ours, theirs in zip(rows, stacked[run], strict=True):
            assert ours == pytest.approx(theirs, rel=1e-5)


def test_a_diverging_run_is_recorded_and_the_rest_goes_on(study: Callable[..., Study], tmp_path: Path) -> None:
    wild = study({"learning_rate": (1e-3, 1e30)}, grad_clip=0.0, warmup_iters=0)
    results = train_here(wild, tmp_path)
    assert results.summary()["status"].to_list() == ["done", "diverged"]
    lost = results.summary()["run_id"][1]
    assert results.status(lost).reason.startswith("loss is not finite at step ") and results.status(lost).measured
    assert list(read_rows(results.paths.run(lost).metrics))[-1]["loss"] is None


@pytest.mark.parametrize("room", [2, 0])
def test_a_stack_too_large_for_the_memory_is_split_and_a_run_too_large_fails(
    study: Callable[..., Study], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, room: int
) -> None:
    trained = worker.train

    def train(stacked: StackState, *arguments: Any, **options: Any) -> StackState | None:
        if len(stacked.members) > room:
            raise (
                RuntimeError("CUDA error: CUBLAS_STATUS_ALLOC_FAILED") if room else torch.OutOfMemoryError("no memory")
            )
        return trained(stacked, *arguments, **options)

    monkeypatch.setattr(worker, "train", train)
    wide = replace(OPTIONS, stack=5)
    with nullcontext() if room else pytest.raises(AllFailedError, match="failed, all of them: OutOf"):
        train_here(study(seeds=(1, 2, 3, 4, 5)), tmp_path / "out", wide)
    results = load_study(tmp_path / "out")
    table = results.summary()
    assert table["status"].to_list() == ["done" if room else "failed"] * 5
    if not room:
        [reason] = {read_status(results.paths.run(run)).reason for run in table["run_id"]}
        assert reason == "OutOfMemoryError: no memory"


STUDY_FILE = """
name: killed
corpus: {corpus}
base: {{n_layer: 1, n_embd: 16, block_size: 16, batch_size: 4, max_iters: 300, eval_interval: 25,
       warmup_iters: 5, eval_train_tokens: 256}}
factors: {{n_head: [1, 2], dropout: [0.1, 0.2]}}
"""


def start(file: Path, out: Path) -> subprocess.Popen[str]:
    command = [sys.executable, "-m", "isoloss", "run", str(file), "--out", str(out), "--device", "cpu"]
    return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, start_new_session=True)


def wait_for(condition: Callable[[], bool]) -> None:
    deadline = time.monotonic() + 120
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.02)


def under_way(out: Path) -> Callable[[], bool]:
    """True once a run has finished and another has a checkpoint in its middle."""

    def condition() -> bool:
        states = [path.read_text() for path in out.glob("runs/*/status.json")]
        previous = list(out.glob("runs/*/previous.json"))
        return any('"done"' in state for state in states) and any('"running"' in s for s in states) and bool(previous)

    return condition


def test_kill_9_in_mid_study_changes_nothing(text_file: Path, tmp_path: Path) -> None:
    file = tmp_path / "killed.yaml"
    file.write_text(STUDY_FILE.format(corpus=text_file))
    run_study(find_study(str(file)), tmp_path / "whole", RunOptions(device="cpu"), executor=Inline())
    out = tmp_path / "out"
    interrupted = start(file, out)
    wait_for(under_way(out))
    os.killpg(interrupted.pid, signal.SIGKILL)
    interrupted.wait()
    finished = [p.parent for p in out.glob("runs/*/status.json") if '"done"' in p.read_text()]
    stamps = {path: path.stat().st_mtime_ns for run in finished for path in run.iterdir() if path.name != ".lock"}
    again = start(file, out)
    stdout, stderr = again.communicate()
    assert again.returncode == 0, stderr
    assert "report" in stdout
    assert {path: path.stat().st_mtime_ns for path in stamps} == stamps
    assert results_of(load_study(out)) == results_of(load_study(tmp_path / "whole"))


def test_an_interrupt_saves_and_says_so(text_file: Path, tmp_path: Path) -> None:
    file, out = tmp_path / "killed.yaml", tmp_path / "out"
    file.write_text(STUDY_FILE.format(corpus=text_file).replace("300", "30000"))
    process = start(file, out)
    wait_for(lambda: any(path.stat().st_size for path in out.glob("runs/*/metrics.jsonl")))
    os.killpg(process.pid, signal.SIGINT)
    _, stderr = process.communicate(timeout=30)
    assert process.returncode == 130
    assert "the same command continues" in stderr and "Traceback" not in stderr
    results = load_study(out)
    stopped = [results.status(run) for run in results.summary()["run_id"]]
    assert {status.state for status in stopped} == {"pending"}
    assert any("stopped at step" in status.reason for status in stopped)


def test_a_directory_has_one_writer_at_a_time(study: Callable[..., Study], tmp_path: Path) -> None:
    text = tmp_path / "study.yaml"
    text.write_text(dump_study(study()))
    command = [sys.executable, "-m", "isoloss", "run", str(text), "--out", str(tmp_path / "here")]
    second: list[subprocess.CompletedProcess[str]] = []

    class Second(NullListener):
        def begin(self, configs: Sequence[RunConfig], factors: Sequence[str]) -> None:
            second.append(subprocess.run(command, capture_output=True, text=True, check=False))

    run_study(study(), tmp_path / "here", OPTIONS, executor=Inline(), listener=Second())
    [refused] = second
    assert refused.returncode == StoreError.exit_code and f"in use by process {os.getpid()} on" in refused.stderr
    train_here(study(), tmp_path / "here")


def test_runs_that_are_prefixes_of_others_are_trained_once(study: Callable[..., Study], tmp_path: Path) -> None:
    horizons = study({"max_iters": (10, 15, 12, 20)}, lr_decay_iters=20)
    apart = {
        run: rows
        for iters in (10, 12, 15, 20)
        for run, rows in results_of(
            train_here(study(max_iters=iters, lr_decay_iters=20), tmp_path / str(iters))
        ).items()
    }
    taken: list[int] = []

    class Counting(Inline):
        def run(self, stacks: Any, context: Any, emit: Any, should_stop: Any) -> None:
            taken.extend(c.max_iters - plan.resume_point(context.study.run(run_id(c))).step for s in stacks for c in s)
            super().run(stacks, context, emit, should_stop)

    results = run_study(horizons, tmp_path / "out", OPTIONS, executor=Counting())
    assert results_of(results) == apart
    assert sorted(taken) == [2, 5, 5, 10]  # 12 is no evaluation of the longer ones: it goes on from 10, none from it
    longest = next(c for c in results.configs if c.max_iters == 20)
    assert results.status(run_id(longest)).provenance["continues"] in apart
    best = results.summary().filter(status="done").select("run_id", "best_step")
    for run, step in best.iter_rows():
        assert checkpoint.load(results.paths.run(run).folder, "best").progress.step == step


def test_hypotheses_count_as_stated_while_nothing_is_trained(study: Callable[..., Study], tmp_path: Path) -> None:
    plain = study({"n_embd": (16, 32)})
    stated = {"says": "Wider is better", "kind": "effect", "factor": "n_embd", "direction": "down"}
    asking = replace(plain, hypotheses=(make_hypothesis(stated, 1),))
    said: list[str] = []

    class Says(NullListener):
        def say(self, line: str) -> None:
            said.append(line)

    class Never(Inline):
        def run(self, stacks: Any, context: Any, emit: Any, should_stop: Any) -> None: ...

    run_study(plain, tmp_path / "out", OPTIONS, executor=Never())
    assert run_study(asking, tmp_path / "out", OPTIONS, executor=Never(), listener=Says()).study.hypotheses
    assert load_study(tmp_path / "out").study.hypotheses and not said
    asked = iter(range(9**9))
    with pytest.raises(Interrupted):  # a stop in good order leaves runs that are pending, and has shown losses
        run_study(asking, tmp_path / "out", OPTIONS, executor=Inline(), should_stop=lambda: next(asked) > 8)
    assert not run_study(plain, tmp_path / "out", OPTIONS, executor=Inline(), listener=Says()).study.hypotheses
    again = run_study(asking, tmp_path / "out", OPTIONS, executor=Inline(), listener=Says())
    assert stated_beforehand(again.paths, again.study) == asking.hypotheses


def test_seeds_of_weights_and_of_data_are_factors_that_stack(study: Callable[..., Study], tmp_path: Path) -> None:
    crossed = study({"init_seed": (1, 2), "data_seed": (1, 2)}, dropout=0.2)
    lone, together = train_here(crossed, tmp_path / "a"), train_here(crossed, tmp_path / "b", replace(OPTIONS, stack=4))
    assert len({status.provenance["program"] for status in together.statuses().values()}) == 1
    for run, rows in results_of(lone).items():
        assert [row[1] for row in rows] == pytest.approx([row[1] for row in results_of(together)[run]], rel=1e-5)
    table = lone.summary()
    assert table.select("init_seed", "data_seed").rows() == [(1, 1), (1, 2), (2, 1), (2, 2)]
    assert table["best_val_loss"].n_unique() == 4
    both = train_here(study(seeds=(1, 2), dropout=0.2), tmp_path / "c")  # the same runs where the seeds agree
    assert both.summary()["run_id"].to_list() == table["run_id"].gather([0, 3]).to_list()


@pytest.mark.parametrize("order", ["seeds", "shuffled"])
def test_a_study_that_is_stopped_early_has_seen_its_whole_space(
    study: Callable[..., Study], tmp_path: Path, order: Any
) -> None:
    grid = study({"max_iters": (4, 8), "dropout": (0.0, 0.1, 0.2)}, seeds=(1, 2))
    results = StudyResults(StudyPaths(tmp_path), grid, DataFacts("ab", 65, 100, 900))
    longest = [stack[0] for stack in plan_stacks(results, 1)]
    assert {config.max_iters for config in longest[:6]} == {8}
    ordered = [stack[0] for stack in plan_stacks(replace(results, study=replace(grid, order=order)), 1)]
    assert {*map(run_id, ordered)} == {*map(run_id, longest)} and ordered != longest
    assert {config.max_iters for config in ordered[:6]} == {4, 8}
    if order == "seeds":
        assert [config.seed for config in ordered] == [1] * 6 + [2] * 6
    assert parse_study(dump_study(replace(grid, order=order)), "s").order == order


def test_a_setting_stated_at_its_default_is_no_other_study(study: Callable[..., Study], tmp_path: Path) -> None:
    before = train_here(study(), tmp_path).summary()
    after = train_here(study(init_seed=None, data_seed=None, beta1=0.9), tmp_path).summary()
    assert before.equals(after)
    with pytest.raises(ConfigError, match="init_seed was None, is now 3; choose another --out"):
        train_here(study(init_seed=3), tmp_path)


def test_seeds_can_be_added_to_a_finished_study(study: Callable[..., Study], tmp_path: Path) -> None:
    one = train_here(study(seeds=(1,)), tmp_path / "out").paths.run
    before = next((tmp_path / "out/runs").iterdir()).stat().st_mtime_ns
    both = train_here(study(seeds=(1, 2)), tmp_path / "out")
    assert both.summary()["status"].to_list() == ["done", "done"]
    assert load_study(tmp_path / "out").study.seeds == (1, 2)
    assert one(both.summary()["run_id"][0]).folder.stat().st_mtime_ns == before
    other = train_here(study(seeds=(2, 3)), tmp_path / "out")
    assert [config.seed for config in other.set_aside] == [1]


@pytest.mark.parametrize("way", ["a script without a guard", "standard input"])
def test_workers_do_not_run_the_callers_main_module(text_file: Path, tmp_path: Path, way: str) -> None:
    (tmp_path / "killed.yaml").write_text(STUDY_FILE.format(corpus=text_file).replace("300", "10"))
    program = (
        "import isoloss\n"
        "options = isoloss.RunOptions(workers=2, compile='off', device='cpu')\n"
        "print(isoloss.run_study(isoloss.find_study('killed.yaml'), 'out', options).summary()['status'].to_list())\n"
    )
    (tmp_path / "script.py").write_text(program)
    command = [sys.executable, "-" if way == "standard input" else "script.py"]
    done = subprocess.run(command, input=program, capture_output=True, text=True, cwd=tmp_path, check=False)
    assert done.stdout == "['done', 'done', 'done', 'done']\n", done.stderr


NOTEBOOK = """
import os, signal, sys, threading, time
from pathlib import Path
{kernel}
import isoloss

def press_stop():
    while not any(path.stat().st_size for path in Path("out").glob("runs/*/metrics.jsonl")):
        time.sleep(0.05)
    os.kill(os.getpid(), signal.SIGINT)

signal.signal(signal.SIGINT, signal.default_int_handler)  # ignored where the tests run in the background
threading.Thread(target=press_stop, daemon=True).start()
options = isoloss.RunOptions(workers={workers}, compile="off", device="cpu")
try:
    isoloss.run_study(isoloss.find_study("killed.yaml"), "out", options)
except BaseException as error:
    print(type(error).__name__, error)
print(signal.getsignal(signal.SIGINT) is signal.default_int_handler)
"""


@pytest.mark.parametrize(("kernel", "workers"), [("sys.modules['ipykernel'] = sys", 2), ("", 1)])
def test_the_stop_button_of_a_notebook_saves_everything(
    text_file: Path, tmp_path: Path, kernel: str, workers: int
) -> None:
    (tmp_path / "killed.yaml").write_text(STUDY_FILE.format(corpus=text_file).replace("300", "30000"))
    program = NOTEBOOK.format(kernel=kernel, workers=workers)
    done = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, cwd=tmp_path, check=False, timeout=180
    )
    assert done.stdout == "Interrupted stopped; everything so far is saved, the same command continues\nTrue\n"
    assert ("stopping: saving checkpoints" in done.stderr) == bool(kernel), done.stderr  # progress, in a notebook alone
    stopped = load_study(tmp_path / "out")
    assert any("stopped at step" in stopped.status(run).reason for run in stopped.summary()["run_id"])


def test_a_thread_trains_without_touching_signals(study: Callable[..., Study], tmp_path: Path) -> None:
    found: list[StudyResults] = []
    trainer = Thread(target=lambda: found.append(train_here(study(), tmp_path / "out")))
    trainer.start()
    trainer.join(60)
    assert found and found[0].summary()["status"].to_list() == ["done"]


def test_a_callers_handlers_of_other_signals_stay(study: Callable[..., Study], tmp_path: Path) -> None:
    signals = (signal.SIGTERM, signal.SIGHUP)
    before, seen = [signal.getsignal(each) for each in signals], list[Any]()

    class Looking(Inline):
        def run(self, stacks: Any, context: Any, emit: Any, should_stop: Any) -> None:
            seen.append([signal.getsignal(each) for each in signals])
            super().run(stacks, context, emit, should_stop)

    own = signal.signal(signal.SIGINT, signal.default_int_handler)
    try:
        run_study(study(), tmp_path / "out", OPTIONS, executor=Looking())
    finally:
        signal.signal(signal.SIGINT, own)
    assert seen == [before]
