"""Shared beginnings: which runs leave which, and that the results are those of runs trained alone."""

from __future__ import annotations

import os
import random
import signal
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from isoloss.data.token_files import Tokens
from isoloss.design.trunks import Fork, dependency_levels, forks, shared_flops
from isoloss.errors import Interrupted
from isoloss.execution.compacting import compact_run
from isoloss.execution.executor import Inline, NullListener
from isoloss.execution.options import RunOptions
from isoloss.execution.recorder import Event
from isoloss.execution.study import run_study
from isoloss.store.run import read_rows
from isoloss.store.tables import StudyResults
from isoloss.study.compute import train_flops
from isoloss.study.config import RunConfig
from isoloss.study.identity import run_id
from isoloss.study.schedules import learning_rate
from isoloss.study.stacking import shape_key
from isoloss.study.study import Study
from isoloss.study.studyfile import find_study
from isoloss.study.texts import ANY_DATA
from tests.recording import Recording, recorded

Make = Callable[..., RunConfig]
OPTIONS = RunOptions(device="cpu", precision="fp32", compile="off")


def left(configs: list[RunConfig]) -> dict[int, tuple[int, int]]:
    """By each run's horizon, the horizon of the run it leaves and the step."""
    names = {run_id(config): config.max_iters for config in configs}
    return {names[run]: (fork.source.max_iters, fork.step) for run, fork in forks(configs).items()}


def test_a_ladder_leaves_its_longest_run_where_each_decays(make: Make) -> None:
    ladder = [make(schedule="wsd", max_iters=n, warmup_iters=3) for n in (20, 40, 80)]
    assert left(ladder) == {20: (80, 17), 40: (80, 33)}
    assert [len(level) for level in dependency_levels(ladder)] == [1, 2]
    alone, shared = shared_flops(ladder)
    assert (alone, alone - shared) == (sum(map(train_flops, ladder)), train_flops(ladder[0]) * 50 // 20)


def test_cosines_share_their_warm_up_and_its_peak(make: Make) -> None:
    assert left([make(max_iters=20), make(max_iters=60)]) == {20: (60, 4)}
    assert left([make(max_iters=200), make(max_iters=400)]) == {}  # 4 of 200 steps are not worth it
    assert left([make(max_iters=20), make(max_iters=60, learning_rate=1e-2)]) == {}


def test_a_constant_rate_goes_on_from_the_end_of_the_shorter_run(make: Make) -> None:
    runs = [make(schedule="constant", max_iters=n, eval_interval=10) for n in (20, 35, 60)]
    assert left(runs) == {35: (20, 20), 60: (20, 20)}  # an evaluation at 35 is none of the longer run's


def test_a_chain_leaves_another_where_their_rates_part(make: Make) -> None:
    constant = [make(schedule="constant", max_iters=n) for n in (10, 100)]
    decaying = [make(schedule="wsd", max_iters=n, eval_interval=10) for n in (20, 50)]
    assert left([*constant, *decaying]) == {100: (10, 10), 20: (100, 17), 50: (100, 41)}


def test_group1_shares_its_warm_up() -> None:
    configs = find_study("group1").expand(ANY_DATA)
    assert {(fork.source.max_iters, fork.step) for fork in forks(configs).values()} == {(2000, 101)}
    alone, shared = shared_flops(configs)
    assert len(forks(configs)) == 16 and 1 - shared / alone == pytest.approx(16 * 101 / (16 * 3000), rel=1e-3)


def random_study(draw: random.Random) -> list[dict[str, Any]]:
    """Cells that differ in schedules, horizons and evaluation, so that some of them share beginnings."""
    cells: list[dict[str, Any]] = []
    for _ in range(draw.randint(3, 5)):
        schedule = draw.choice(["cosine", "linear", "constant", "wsd", "wsd", "inverse_sqrt"])
        cells.append(
            {
                "schedule": schedule,
                "max_iters": draw.choice([8, 10, 16, 20]),
                "warmup_iters": draw.choice([2, 2, 4]),
                "decay_share": draw.choice([0.2, 0.5]),
                "dropout": draw.choice([0.0, 0.0, 0.1]),
                "eval_interval": draw.choice([5, 5, 4]),
                "ema": draw.choice([0.0, 0.0, 0.9]),
            }
        )
    return list({run_id(config): cell for cell in cells if (config := _tiny(cell))}.values())


def _tiny(cell: dict[str, Any]) -> RunConfig:
    from isoloss.study.config import ANY_TEXT, make_config

    return make_config({**ANY_TEXT, **cell})


TINY: dict[str, Any] = {
    "n_layer": 1,
    "n_embd": 16,
    "n_head": 2,
    "block_size": 16,
    "batch_size": 4,
    "eval_train_tokens": 64,
}


class StopAfter(NullListener):
    """Asks for a stop after some events."""

    def __init__(self, events: int) -> None:
        self.left = events

    def emit(self, event: Event) -> None:
        self.left -= 1


def rows_of(results: StudyResults, config: RunConfig) -> tuple[list[Any], list[Any]]:
    run = results.paths.run(run_id(config))
    steps = [(row["step"], row["loss"], row["lr"], row["grad_norm"]) for row in read_rows(run.metrics)]
    losses = ("step", "train_loss", "val_loss", "ema_train_loss", "ema_val_loss")
    return steps, [tuple(map(row.get, losses)) for row in read_rows(run.evals)]


def rows_alone(recording: Recording) -> tuple[list[Any], list[Any]]:
    steps = [(row.step, row.loss, row.lr, row.grad_norm) for row in recording.steps]
    losses = ("step", "train_loss", "val_loss", "ema_train_loss", "ema_val_loss")
    return steps, [tuple(getattr(row, name) for name in losses) for row in recording.evals]


class KillSoon(NullListener):
    """Kills its process some time after the first run has begun."""

    def __init__(self, seconds: float) -> None:
        self.timer = threading.Timer(seconds, lambda: os.kill(os.getpid(), signal.SIGKILL))

    def emit(self, event: Event) -> None:
        if not self.timer.is_alive():
            self.timer.start()


def killed(study: Study, folder: Path, seconds: float) -> bool:
    """Train a study in a child of this process that is killed on its way; whether it was."""
    child = os.fork()
    if not child:
        try:
            run_study(study, folder, OPTIONS, listener=KillSoon(seconds), executor=Inline())
        finally:
            os._exit(0)
    return os.WIFSIGNALED(os.waitpid(child, 0)[1])


@pytest.mark.parametrize("number", range(50))
def test_shared_beginnings_change_no_bit_of_a_study_that_is_killed_and_stopped_at_will(
    tokens: Tokens, text_file: Path, tmp_path: Path, number: int
) -> None:
    draw = random.Random(number)
    study = Study("s", str(text_file), base=TINY, runs=tuple(random_study(draw)))
    results = None
    if hasattr(os, "fork"):
        killed(study, tmp_path, draw.uniform(0.0, 2.0))
    for _ in range(12):
        listener = StopAfter(draw.choice([1, 2, 4, 1000]))
        try:
            stop = lambda listener=listener: listener.left <= 0  # noqa: E731
            results = run_study(study, tmp_path, OPTIONS, listener=listener, should_stop=stop, executor=Inline())
            break
        except Interrupted:
            continue
    if results is None:
        results = run_study(study, tmp_path, OPTIONS, executor=Inline())
    leaves = forks(results.configs)
    for config in results.configs:
        [alone] = recorded([config], tokens)
        assert rows_of(results, config) == rows_alone(alone)
        if run_id(config) in leaves:
            fork, taken = leaves[run_id(config)], results.status(run_id(config)).provenance
            assert (taken["continues"], taken["continues_from"]) == (run_id(fork.source), fork.step)
    assert not [*tmp_path.glob("runs/*/step-*")]


def test_a_fork_is_where_rates_and_everything_else_agree() -> None:
    for number in range(200):
        draw = random.Random(number)
        configs = [_tiny({**TINY, **cell}) for cell in random_study(draw)]
        for config in configs:
            fork: Fork | None = forks(configs).get(run_id(config))
            if fork is not None:
                assert shape_key(config) == shape_key(fork.source) and config.dropout == fork.source.dropout
                assert config.ema == fork.source.ema
                assert all(learning_rate(config, s) == learning_rate(fork.source, s) for s in range(fork.step))
                assert fork.step <= min(config.max_iters, fork.source.max_iters)


def test_a_finished_run_without_its_last_checkpoint_is_left_alone(text_file: Path, tmp_path: Path) -> None:
    """Compacted while the state that it left another run with is still there: the next start must not take it anew."""
    base = {**TINY, "schedule": "wsd", "warmup_iters": 2, "eval_interval": 5}
    study = Study("s", str(text_file), base=base, factors={"max_iters": (10, 20)})
    results = run_study(study, tmp_path, OPTIONS, executor=Inline())
    short, long = (results.paths.run(run_id(config)) for config in results.configs)
    before = {config.max_iters: rows_of(results, config) for config in results.configs}
    for name in ("step-9", "step-9-best"):
        for suffix in (".json", ".safetensors"):
            (long.folder / f"{name}{suffix}").write_bytes((long.folder / f"best{suffix}").read_bytes())
    compact_run(short, "best_weights")
    again = run_study(study, tmp_path, OPTIONS, executor=Inline())
    assert {config.max_iters: rows_of(again, config) for config in again.configs} == before
    assert set(again.summary()["status"]) == {"done"} and not [*long.folder.glob("step-*")]


def test_many_horizons_go_on_from_each_other(make: Make) -> None:
    runs = [make(schedule="constant", max_iters=10 * n, eval_interval=10, warmup_iters=0) for n in range(1200, 0, -1)]
    assert len(dependency_levels(runs)) == 1200


def test_the_report_says_what_was_taken_over(text_file: Path, tmp_path: Path) -> None:
    from isoloss.report.chapters.method import method_chapter
    from isoloss.report.chapters.runs import runs_chapter
    from isoloss.report.snapshot import take_snapshot

    study = Study(
        "s",
        str(text_file),
        base={**TINY, "schedule": "wsd", "warmup_iters": 2, "eval_interval": 5},
        factors={"max_iters": (10, 20)},
    )
    results = run_study(study, tmp_path, OPTIONS, executor=Inline())
    snapshot = take_snapshot(results)
    [_, table] = runs_chapter(snapshot).tables
    [shorter, longer] = map(run_id, results.configs)
    begins = dict(table.frame.select("run_id", "begins_as").iter_rows())
    assert begins in ({shorter: None, longer: f"{shorter}, 9 steps"}, {longer: None, shorter: f"{longer}, 9 steps"})
    assert "begins_as" in [column.name for column in table.columns]
    said = " ".join(method_chapter(snapshot).details)
    assert "1 of 2 runs took over their first 9 steps from another run" in said
    assert "stays there, then falls (Hu et al. 2024) over its end (decay_share 0.2 and decay_shape linear)" in said
