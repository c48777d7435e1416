"""What a run's rows come to: kept when it ends, and the same whether it is read or computed from the rows again."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any, cast

import numpy as np
import polars as pl
import pytest
from polars.testing import assert_frame_equal

from isoloss.files import read_record, write_record
from isoloss.report.evidence import evidence
from isoloss.report.snapshot import take_snapshot
from isoloss.store import outcome
from isoloss.store.layout import RunPaths
from isoloss.store.outcome import MAX_POINTS, thinned_evals, thinned_steps
from isoloss.store.records import EvalRecord, StepRecord
from isoloss.store.tables import StudyResults, load_study
from isoloss.study.identity import run_id
from isoloss.study.study import Study
from tests.fake_studies import fake_study, step_row

STUDY = Study(
    name="kept",
    corpus="a.txt",
    base={"n_layer": 1, "max_iters": 300, "eval_interval": 2},
    factors={"n_embd": (32, 64)},
    seeds=(1, 2),
)


def steps(n: int, swing: float = 0.0) -> list[StepRecord]:
    """A loss that falls by a thousandth a step and swings, a norm twice the step, one second a step."""
    losses = [4 - step / 1000 + swing * (-1) ** step for step in range(n)]
    given = [{"loss": losses[s], "grad_norm": 2.0 * s, "lr": 1e-5 * s, "step_time_s": 1.0} for s in range(n)]
    return [cast("StepRecord", {**step_row(step), **row}) for step, row in enumerate(given)]


def evals(losses: list[float | None]) -> list[EvalRecord]:
    return [{"step": 5 * n, "train_loss": 1.0, "val_loss": loss, "eval_time_s": 1.0} for n, loss in enumerate(losses)]


@pytest.fixture(scope="module")
def results(tmp_path_factory: pytest.TempPathFactory) -> StudyResults:
    return fake_study(tmp_path_factory.mktemp("kept"), STUDY, {3: ("running", "")})


@pytest.fixture
def rows_read(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The runs whose rows are parsed from now on."""
    read: list[str] = []
    parse = outcome.step_rows

    def counted(paths: RunPaths) -> list[StepRecord]:
        read.append(paths.folder.name)
        return parse(paths)

    monkeypatch.setattr(outcome, "step_rows", counted)
    return read


def tables(folder: Path) -> list[pl.DataFrame]:
    found = load_study(folder)
    curves = found.thinned_curves()
    return [found.summary(), curves.steps, curves.evals]


@pytest.mark.parametrize("n", [1, 2, 3, 16, 64, 65, 66, 100, 1000, 12345])
def test_thinned_steps_keep_the_ends_and_between_16_and_64_points(n: int) -> None:
    thinned = thinned_steps(steps(n))
    assert thinned["step"][0] == 0 and thinned["step"][-1] == n - 1
    assert thinned["loss"][0] == 4.0 and thinned["loss"][-1] == pytest.approx(4 - (n - 1) / 1000, rel=1e-5)
    assert min(n, 16) <= len(thinned["step"]) <= MAX_POINTS
    assert thinned["step"] == sorted(set(thinned["step"]))
    if n <= MAX_POINTS:
        assert thinned["step"] == list(range(n))


def test_a_point_is_the_mean_of_its_bucket_and_stands_in_its_middle() -> None:
    step, loss, rate, norm, seconds = map(np.array, thinned_steps(steps(2000)).values())
    assert np.abs(loss - (4 - step / 1000)).max() < 6e-4, "within half a step of the straight line"
    assert np.abs(norm - 2 * step).max() < 1.1
    assert np.abs(rate - 1e-5 * step).max() < 1e-8
    assert seconds.tolist() == step.tolist(), "as many seconds as steps were taken before it"
    off = np.abs(np.array(thinned_steps(steps(2000, swing=1.0))["loss"]) - (4 - step / 1000))
    assert off[0] == pytest.approx(1.0) and off[(step > 500) & (step < 1999)].max() < 0.1


def test_a_point_without_a_loss_has_none() -> None:
    diverged = steps(10)
    diverged[-1]["loss"] = None
    assert thinned_steps(diverged)["loss"][-1] is None and thinned_steps(diverged)["loss"][-2] is not None


def test_thinned_evaluations_are_exact_and_keep_first_last_and_best() -> None:
    losses: list[float | None] = [3.0 + n / 7 for n in range(200)]
    losses[117] = 1.23456789012345
    thinned = thinned_evals(evals(losses))
    assert thinned["step"][0] == 0 and thinned["step"][-1] == 5 * 199 and len(thinned["step"]) <= MAX_POINTS
    assert thinned["val_loss"][thinned["step"].index(5 * 117)] == 1.23456789012345
    assert all(loss == losses[step // 5] for step, loss in zip(thinned["step"], thinned["val_loss"], strict=True))
    assert len(thinned_evals(evals(losses[:64]))["step"]) == 64
    assert thinned_evals(evals([None]))["val_loss"] == [None] and thinned_evals([])["step"] == []


def test_only_rows_of_unfinished_runs_are_parsed(results: StudyResults, rows_read: list[str]) -> None:
    running = run_id(results.configs[3])
    results.summary()
    assert rows_read == [running]
    results.thinned_curves()
    assert rows_read == [running] * 2


def test_convergence_is_judged_on_every_evaluation(results: StudyResults) -> None:
    found = evidence(take_snapshot(results)).convergence(0.02)
    assert [run.n for run in found.runs] == [151] * 3 and MAX_POINTS < 151


def test_curves_are_by_run_in_the_order_of_the_study(results: StudyResults) -> None:
    curves = results.thinned_curves().steps
    assert curves.columns == ["run_id", "step", "loss", "lr", "grad_norm", "seconds"]
    assert curves["run_id"].unique(maintain_order=True).to_list() == [run_id(config) for config in results.configs]
    run = run_id(results.configs[1])
    evaluations = results.thinned_curves().evals.filter(run_id=run).drop("run_id")
    exact = results.evals(run).drop("eval_time_s")
    assert 16 < len(evaluations) <= 64 < len(exact)
    assert evaluations.join(exact, on=["step", "train_loss", "val_loss"]).height == len(evaluations)
    assert curves.filter(run_id=run)["seconds"][-1] == pytest.approx(sum(results.metrics(run)["step_time_s"][:-1]))


def _older(run: RunPaths) -> None:
    status = read_record(run.status)
    write_record(run.status, {key: value for key, value in status.items() if key != "measured"})
    run.curves.unlink()


def _stale(run: RunPaths) -> None:
    kept = read_record(run.curves)
    write_record(run.curves, {**kept, "rows": {**kept["rows"], "evals": {"size": 1, "sha256": "0"}}})


def _uneven(run: RunPaths) -> None:
    kept = read_record(run.curves)
    write_record(run.curves, {**kept, "steps": {**kept["steps"], "loss": [1.0]}})


@pytest.mark.parametrize(
    "harm",
    [
        _older,
        _stale,
        _uneven,
        lambda run: run.curves.unlink(),
        lambda run: run.curves.write_bytes(run.curves.read_bytes().replace(b"1", b"2", 1)),
        lambda run: run.curves.write_bytes(b""),
    ],
    ids=["older version", "of other rows", "sealed but uneven", "missing", "edited", "empty"],
)
def test_what_is_kept_and_what_is_computed_again_are_the_same(
    tmp_path: Path, rows_read: list[str], harm: Callable[[RunPaths], Any]
) -> None:
    whole = fake_study(tmp_path, STUDY, {})
    before = tables(tmp_path)
    rows_read.clear()
    harm(whole.paths.run(run_id(whole.configs[2])))
    for kept, computed in zip(before, tables(tmp_path), strict=True):
        assert_frame_equal(kept, computed)
    assert set(rows_read) == {run_id(whole.configs[2])}


def test_a_run_whose_rows_were_changed_has_no_kept_results(tmp_path: Path) -> None:
    whole = fake_study(tmp_path, STUDY, {})
    run = whole.paths.run(run_id(whole.configs[0]))
    run.evals.write_bytes(run.evals.read_bytes().replace(b"3", b"2", 1))
    summary, *curves = tables(tmp_path)
    assert summary["status"][0] == "damaged" and summary["best_val_loss"][0] is None
    assert summary["best_val_loss"].null_count() == 1
    assert all(run.folder.name not in frame["run_id"] and frame["run_id"].n_unique() == 3 for frame in curves)
