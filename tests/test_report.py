from __future__ import annotations

import html
import json
import re
from pathlib import Path

import polars as pl
import pytest

from isoloss.errors import StoreError
from isoloss.files import write_checksummed
from isoloss.report import frames, sections, sentences
from isoloss.report.figures import log_ticks
from isoloss.report.gallery import make_figures
from isoloss.report.legacy_page import write_report
from isoloss.report.snapshot import Snapshot, take_snapshot
from isoloss.spec.identity import run_id
from isoloss.spec.study import Study
from isoloss.store.run import State
from isoloss.store.tables import StudyResults
from tests.fake_studies import fake_study, write_rows

ATTACK = "<script>alert(1)</script>"
FIGURES = ["best_val_loss_by_run", "val_loss_vs_params", "loss_curves", "step_time", "efficiency", "wall_time"]

FACTORIAL = Study(
    name="widths",
    corpus="tinyshakespeare",
    description=f"Does width matter? {ATTACK}",
    base={"n_layer": 2, "max_iters": 40, "eval_interval": 20},
    factors={"n_embd": (32, 64), "dropout": (0.0, 0.2)},
    seeds=(1337, 1338),
)
REASONS: dict[int, tuple[State, str]] = {
    1: ("failed", "RuntimeError: <b>out of memory</b>"),
    3: ("diverged", "loss is not finite at step 7"),
    7: ("pending", ""),
}


@pytest.fixture(scope="module")
def results(tmp_path_factory: pytest.TempPathFactory) -> StudyResults:
    results = fake_study(tmp_path_factory.mktemp("studies") / "widths", FACTORIAL, REASONS)
    best = results.summary().sort("best_val_loss", nulls_last=True)["run_id"][0]
    write_checksummed(results.paths.run(best).samples, f"ROMEO:\n</pre>{ATTACK} & more")
    return results


@pytest.fixture(scope="module")
def page(results: StudyResults) -> str:
    return write_report(results).page.read_text(encoding="utf-8")


@pytest.fixture(scope="module")
def snapshot(results: StudyResults) -> Snapshot:
    return take_snapshot(results)


def test_sections_stand_in_their_order(page: str) -> None:
    assert re.findall(r'<h2 id="(\w+)">', page) == [
        "claims", "method", "runs", "params", "curves", "effects", "convergence", "scaling", "efficiency", "audit",
        "samples", "limitations", "provenance",
    ]  # fmt: skip


def test_every_figure_is_on_the_page_and_beside_it(page: str, results: StudyResults) -> None:
    folder = results.paths.report.parent / "figures"
    names = [*FIGURES, "main_effects", "effects", "time_to_target"]
    assert sorted(path.name for path in folder.iterdir()) == sorted(f"{n}.{s}" for n in names for s in ("png", "svg"))
    for name in names:
        assert (folder / f"{name}.png").read_bytes().startswith(b"\x89PNG")
        assert (folder / f"{name}.svg").read_text(encoding="utf-8").startswith("<svg")
        assert f'href="figures/{name}.png"' in page
        spec = re.search(rf'<script type="application/json" id="spec-{name}">(.*?)</script>', page, re.S)
        assert spec and "vega-lite" in json.loads(spec[1])["$schema"]


def test_the_page_needs_nothing_from_elsewhere(page: str) -> None:
    assert not re.search(r"<(script|link|img)[^>]+(src|href)=.https?:", page)
    assert (
        page.count("<script") == len(re.findall(r'id="spec-', page)) + 1
    )  # the figures' specifications and one script


def test_text_from_the_study_and_the_runs_is_escaped(page: str) -> None:
    assert ATTACK not in page
    assert html.escape(ATTACK) in page
    assert "&lt;/pre&gt;" in page
    assert "<b>out of memory" not in page


def test_unfinished_runs_are_counted_and_shown_with_their_reasons(page: str, snapshot: Snapshot) -> None:
    assert "5 done, 1 failed, 1 diverged and 1 pending" in page
    assert "loss is not finite at step 7" in page
    assert html.escape("RuntimeError: <b>out of memory</b>") in page
    assert [row[2] for row in sections.unfinished(snapshot).rows] == ["failed", "diverged", "pending"]


def test_numbers_on_the_page_are_those_of_the_table(page: str, snapshot: Snapshot) -> None:
    done = snapshot.table.filter(pl.col("status") == "done").sort("best_val_loss")
    best = done.row(0, named=True)
    assert snapshot.best == best
    assert f"is {best['best_val_loss']:.4f} nats/token, reached by run {best['run_id']}" in page
    for value in done["best_val_loss"]:
        assert f"{value:.4f}" in page


def test_what_a_run_did_not_measure_is_a_dash(snapshot: Snapshot) -> None:
    pending = sections.all_runs(snapshot).rows[7]
    assert pending[1:5] == ["64", "0.2", "1338", "pending"]
    assert pending[6:] == ["–"] * 8


def test_effects_count_only_runs_that_are_done(snapshot: Snapshot) -> None:
    rows = sections.levels(snapshot).rows
    assert [(row[1], row[2]) for row in rows] == [("32", "2"), ("64", "3"), ("0.0", "3"), ("0.2", "2")]
    done = snapshot.table.filter((pl.col("status") == "done") & (pl.col("n_embd") == 64))["best_val_loss"].to_list()
    assert rows[1][3] == f"{sum(done) / len(done):.4f}"


def test_the_runner_up_has_another_architecture(snapshot: Snapshot) -> None:
    assert snapshot.best and snapshot.best["n_embd"] == 64
    assert snapshot.runner_up and snapshot.runner_up["n_embd"] == 32


def test_limitations_follow_from_the_design(snapshot: Snapshot) -> None:
    text = " ".join(sentences.limitations(snapshot))
    assert "3 are not done" in text
    assert "2 seeds" in text
    assert "not a confidence interval" in text
    assert "unequal numbers of runs" in text


def test_an_untouched_study_says_that_there_is_nothing_yet(tmp_path: Path) -> None:
    results = fake_study(tmp_path, FACTORIAL, dict.fromkeys(range(8), ("pending", "")))
    page = write_report(results).page.read_text(encoding="utf-8")
    assert "0 done, 0 failed, 0 diverged and 8 pending" in page
    assert "No run has been evaluated yet" in page
    assert not (results.paths.report.parent / "figures").exists()


def test_while_no_run_is_done_the_best_so_far_is_shown_as_such(tmp_path: Path) -> None:
    snapshot = take_snapshot(fake_study(tmp_path, FACTORIAL, dict.fromkeys(range(8), ("running", ""))))
    assert "lowest validation loss so far" in sentences.summary(snapshot)
    assert [figure.name for figure in make_figures(snapshot)] == [*FIGURES, "main_effects"]


@pytest.mark.parametrize("factors", [{}, {"n_embd": (64,)}])
def test_a_lone_run_is_reported_without_effects(tmp_path: Path, factors: dict[str, tuple[int, ...]]) -> None:
    study = Study(name="lone", corpus="a.txt", base={"max_iters": 20, "eval_interval": 20}, factors=factors)
    snapshot = take_snapshot(fake_study(tmp_path, study, {}))
    assert [figure.name for figure in make_figures(snapshot)] == FIGURES
    assert snapshot.best and snapshot.best["label"] == "seed 1337"
    assert snapshot.runner_up is None


def test_a_run_that_is_not_done_and_leads_is_mentioned(tmp_path: Path) -> None:
    states: dict[int, tuple[State, str]] = dict.fromkeys(range(4, 8), ("diverged", "loss is not finite at step 7"))
    results = fake_study(tmp_path, FACTORIAL, states)
    leader = results.configs[4]
    write_rows(
        results.paths.run(run_id(leader)).evals, [{"step": 5, "train_loss": 0.5, "val_loss": 0.5, "eval_time_s": 1.0}]
    )
    text = sentences.summary(take_snapshot(results))
    assert f"Run {run_id(leader)}" in text and "which is diverged, reached 0.5000" in text


def test_many_runs_leave_a_legible_figure_that_says_what_it_leaves_out() -> None:
    table = pl.DataFrame({"label": [f"run {i}" for i in range(1, 301)], "best_val_loss": [i / 100 for i in range(300)]})
    shown, hidden = frames.shown_rows(table)
    assert len(shown) == frames.MAX_ROWS + 1
    assert hidden == 240
    assert shown["label"].to_list()[39:42] == ["run 40", "··· 240 more ···", "run 281"]


def test_thinning_keeps_spikes_and_order() -> None:
    times = [1.0] * 20_000
    times[12_345] = 9.0
    thin = frames.thinned(pl.DataFrame({"step": range(20_000), "ms": times}), "ms")
    assert len(thin) <= frames.MAX_POINTS
    assert thin.filter(pl.col("ms") == 9.0)["step"].to_list() == [12_345]
    assert thin["step"].is_sorted()


@pytest.mark.parametrize(("low", "high"), [(23_000.0, 512_000.0), (6.5e5, 3.8e6), (1e3, 1e12), (20.0, 24.0)])
def test_logarithmic_ticks_are_few(low: float, high: float) -> None:
    ticks = log_ticks(low, high)
    assert 1 <= len(ticks) <= 10
    assert all(low <= tick <= high for tick in ticks)


def test_a_damaged_study_is_one_line(tmp_path: Path) -> None:
    results = fake_study(tmp_path, FACTORIAL, {})
    results.paths.provenance.unlink()
    with pytest.raises(StoreError, match="provenance"):
        write_report(results)
