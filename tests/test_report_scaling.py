"""The scaling section on studies whose law is known."""

from __future__ import annotations

import json
import math
import re
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import polars as pl
import pytest
import vl_convert
from isoloss.report.legacy_page import VEGA_LITE_VERSION
from isoloss.report.scaling import ScalingView, scaling_view
from isoloss.report.scaling_fit import StudyLaw, fit_done
from isoloss.report.scaling_words import law_sentences

from isoloss.analysis import solve
from isoloss.analysis.frontier import frontier, predict
from isoloss.files import write_checksummed, write_record
from isoloss.report import scaling_frames as frames
from isoloss.report.snapshot import Snapshot, take_snapshot
from isoloss.spec import compute
from isoloss.spec.config import RunConfig
from isoloss.spec.identity import run_id
from isoloss.spec.study import DataFacts, Study
from isoloss.spec.studyfile import dump_study
from isoloss.store.layout import StudyPaths
from isoloss.store.run import RowWriter, RunStatus, State, create_run, write_status
from isoloss.store.tables import load_study
from tests.fake_studies import write_tokenizer

TRUTH = {"E": 1.2, "A": 40.0, "B": 160.0, "alpha": 0.38, "beta": 0.4}
FIGURES = ["scaling_fit", "isoloss_contours", "isoflop_curves", "scaling_holdout"]
BASE = {"n_head": 4, "block_size": 64, "eval_interval": 500}
WIDTHS, HORIZONS = (32, 48, 64, 96, 128, 192), (500, 1000, 2000, 4000)
LADDER = Study(
    name="ladder",
    corpus="a.txt",
    base={**BASE, "batch_size": 16},
    factors={"n_embd": WIDTHS, "max_iters": HORIZONS},
    seeds=(1337, 1338),
)


def surface(size: float, tokens: float) -> float:
    return TRUTH["E"] + TRUTH["A"] / size ** TRUTH["alpha"] + TRUTH["B"] / tokens ** TRUTH["beta"]


def trained(
    folder: Path, study: Study, *, noise: float = 0.003, states: dict[int, State] | None = None, rise: float = 0.0
) -> Snapshot:
    """A study whose final losses follow the law with relative noise; `rise` is how far they lie above the best."""
    paths, facts = StudyPaths(folder), DataFacts(sha256="ab" * 32, vocab_size=65)
    write_checksummed(paths.study, dump_study(study))
    write_record(paths.provenance, {"started_at": "2026-01-01T00:00:00+00:00", "versions": {}, "machine": {}})
    write_tokenizer(paths, study, facts)
    generator = np.random.default_rng(1)
    for i, config in enumerate(study.expand(facts)):
        law = surface(compute.params_non_embedding(config), compute.train_tokens(config))
        _run(paths, config, law * math.exp(noise * generator.standard_normal()), (states or {}).get(i, "done"), rise)
    return take_snapshot(load_study(folder))


def _run(paths: StudyPaths, config: RunConfig, loss: float, state: State, rise: float) -> None:
    run = paths.run(run_id(config))
    create_run(run, config)
    writer = RowWriter(run.evals)
    for step, value in ((1, loss - rise), (config.max_iters, loss if state == "done" else 9.0)):
        writer.write({"step": step, "train_loss": value, "val_loss": value, "eval_time_s": 1.0})
    writer.close()
    write_status(run, RunStatus(state, "", {}, {}))


@pytest.fixture(scope="module", autouse=True)
def few_starts() -> Iterator[None]:
    """These tests are not about the search for the minimum, which test_scaling covers."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(solve, "POLISHED_STARTS", 4)
        yield


@pytest.fixture(scope="module")
def snapshot(tmp_path_factory: pytest.TempPathFactory) -> Snapshot:
    states: dict[int, State] = {0: "failed", 9: "diverged", 11: "failed"}
    return trained(tmp_path_factory.mktemp("studies") / "ladder", LADDER, states=states)


@pytest.fixture(scope="module")
def view(snapshot: Snapshot) -> ScalingView:
    return scaling_view(snapshot)


def said(view: ScalingView) -> str:
    return " ".join(view.sentences)


def test_the_law_of_an_identified_study_is_stated_with_its_intervals(view: ScalingView) -> None:
    assert view.fit and view.fit.status == "ok" and view.fit.form == "LND"
    for name, symbol in (("E", "E"), ("alpha", "α"), ("beta", "β")):
        estimate = view.fit.parameters[name].estimate
        assert estimate.low is not None and estimate.high is not None
        assert estimate.low < TRUTH[name] < estimate.high
        assert f"{symbol} = {estimate.value:.4g} ({estimate.low:.4g} to {estimate.high:.4g})" in said(view)
    for words in ("95% interval (delta method, t with", "n = 45 runs", "polished", "With embeddings counted in N, α ="):
        assert words in said(view)
    for words in ("least squares on the losses instead: E =", "absolute log residuals instead: E =", "N* ∝ C^a"):
        assert words in said(view)


def test_runs_that_are_not_done_are_counted_and_left_out(view: ScalingView) -> None:
    assert view.fit and view.fit.n == 45 and view.fit.n_cells == 24
    assert "3 of 48 runs are not done and not part of it: 1 diverged and 2 failed." in view.sentences
    assert float(np.exp(view.fit.law.y_n.max())) < 9.0


def test_the_held_out_size_is_predicted_with_its_signed_error(view: ScalingView) -> None:
    (sentence,) = [s for s in view.sentences if s.startswith("Fitted without the largest N, 1,771,200")]
    found = re.search(r"mean error \(observed minus predicted\) of ([+-]\d\.\d{4}) nats/token; (\d) of 8 lie", sentence)
    assert found
    table = next(table for caption, table in view.tables if caption.startswith("Held-out runs, n = 8"))
    assert table.exact is not None and len(table.exact) == len(table.rows) == 8
    errors = table.exact["observed"] - table.exact["predicted"]
    assert float(found[1]) == pytest.approx(errors.mean(), abs=5e-5)
    within = (table.exact["observed"] >= table.exact["predicted low"]) & (
        table.exact["observed"] <= table.exact["predicted high"]
    )
    assert int(found[2]) == within.sum() == [row[-1] for row in table.rows].count("yes")


def test_tables_hold_the_numbers_behind_their_words(view: ScalingView) -> None:
    captions = [caption for caption, _ in view.tables]
    assert len(captions) == 3
    assert all("n = " in caption and "95%" in caption for caption in captions)
    for _, table in view.tables:
        assert table.exact is not None and len(table.exact) == len(table.rows)
        assert all(len(row) == len(table.head) == len(table.exact.columns) for row in table.rows)
    assert view.fit
    exact = view.tables[0][1].exact
    assert exact is not None
    assert exact["value"].to_list() == [p.estimate.value for p in view.fit.parameters.values()]


def test_every_figure_says_n_and_its_interval_and_renders(view: ScalingView) -> None:
    assert [figure.name for figure in view.figures] == FIGURES
    for figure in view.figures:
        assert re.search(r"n = \d+ runs", figure.caption) and re.search(r"95% (prediction )?interval", figure.caption)
        specification = json.dumps(figure.spec, allow_nan=False)  # raises where a number is not finite
        assert "null" not in re.findall(r'"(?:loss|low|high|N|D|observed|predicted)": (\w+)', specification)
        assert vl_convert.vegalite_to_svg(figure.spec, vl_version=VEGA_LITE_VERSION).startswith("<svg")


def test_contours_lie_where_the_law_takes_their_loss(snapshot: Snapshot) -> None:
    fit, done = fit_done(snapshot, "LND")
    runs = frames.run_rows(done, fit)
    plane = frames.make_plane(fit, runs)
    lines = frames.contours(fit, plane, runs)
    assert 4 <= lines["loss"].n_unique() <= frames.MAX_CONTOURS + 1
    for row in lines.gather_every(7).to_dicts():
        assert predict(fit, {"N": row["N"], "D": row["D"]}).law.value == pytest.approx(row["loss"], rel=1e-9)
        assert plane.sizes[0] * 0.999 <= row["N"] <= plane.sizes[1] * 1.001
        assert plane.tokens[0] * 0.999 <= row["D"] <= plane.tokens[1] * 1.001
        among = 49_440 <= row["N"] <= 1_771_200 and 512_000 <= row["D"] <= 4_096_000
        assert row["among_runs"] == among or row["piece"].split()[-1] != "0"  # a shared point ends both its pieces
    labels = frames.contour_labels(lines, plane, runs.select("N", "D"))
    assert labels["loss"].to_list() == lines["loss"].unique(maintain_order=True).to_list()


def test_the_frontier_drawn_is_the_minimum_along_its_diagonal(snapshot: Snapshot) -> None:
    fit, done = fit_done(snapshot, "LND")
    plane = frames.make_plane(fit, frames.run_rows(done, fit))
    line, outline = frames.frontier_line(fit, plane)
    assert len(line) > 10 and len(outline) > 10
    for row in line.gather_every(9).to_dicts():
        here, *beside = (
            predict(fit, {"N": row["N"] * step, "D": row["D"] / step}).law.value for step in (1.0, 0.97, 1.03)
        )
        assert here < min(beside)
    (optimum,) = frontier(fit, [6 * line["N"][5] * line["D"][5]]).optima
    assert line["N"][5] == pytest.approx(optimum.n_params.value)
    for size, tokens in outline.select("N", "D").iter_rows():
        assert plane.sizes[0] * 0.999 <= size <= plane.sizes[1] * 1.001
        assert plane.tokens[0] * 0.999 <= tokens <= plane.tokens[1] * 1.001


def test_two_sizes_identify_no_law_and_get_no_numbers(tmp_path: Path) -> None:
    study = Study(
        name="two",
        corpus="a.txt",
        base=BASE,
        factors={"n_embd": (128, 256), "batch_size": (8, 16), "dropout": (0.0, 0.2)},
    )
    view = scaling_view(trained(tmp_path, study))
    assert view.fit and view.fit.status == "unidentified"
    assert view.figures == [] and view.tables == []
    assert "do not identify a scaling law L = E + A/N^α + B/D^β" in view.sentences[0]
    assert [caution.text for caution in view.fit.cautions] == view.sentences[1:]
    assert any("N takes 2 values" in sentence for sentence in view.sentences)
    assert not re.search(r"[αβ] =|E =(?! E \+| )", said(view).replace("L = E", ""))


def test_a_study_of_one_size_and_horizon_has_nothing_to_fit(tmp_path: Path) -> None:
    study = Study(name="flat", corpus="a.txt", base=BASE, factors={"dropout": (0.0, 0.1, 0.2)})
    view = scaling_view(trained(tmp_path, study))
    assert view.fit is None and view.tables == [] and view.figures == []
    assert len(view.sentences) == 1 and "No scaling law is fitted" in view.sentences[0]


@pytest.mark.parametrize("state", ["pending", "failed"])
def test_while_no_run_is_done_nothing_is_fitted(tmp_path: Path, state: State) -> None:
    view = scaling_view(trained(tmp_path, LADDER, states=dict.fromkeys(range(48), state)))
    assert view.fit is None and view.sentences == ["No scaling law is fitted yet: no run is done."]


@pytest.mark.parametrize("n_done", [1, 2, 5])
def test_the_first_runs_of_a_ladder_identify_nothing_yet(tmp_path: Path, n_done: int) -> None:
    view = scaling_view(trained(tmp_path, LADDER, states=dict.fromkeys(range(n_done, 48), "pending")))
    assert view.fit and view.fit.status == "unidentified" and view.figures == []
    assert f"{48 - n_done} of 48 runs are not done" in said(view)


@pytest.mark.parametrize(("factor", "levels", "form"), [("n_embd", WIDTHS, "LN"), ("max_iters", HORIZONS, "LD")])
def test_a_study_of_one_axis_gets_the_law_in_it(
    tmp_path: Path, factor: str, levels: tuple[int, ...], form: str
) -> None:
    study = Study(name="axis", corpus="a.txt", base=BASE, factors={factor: levels}, seeds=(1, 2))
    view = scaling_view(trained(tmp_path, study, noise=1e-4))
    assert view.fit and view.fit.form == form and view.fit.status == "ok"
    assert "scaling_fit" in [figure.name for figure in view.figures]
    assert "isoloss_contours" not in [figure.name for figure in view.figures]
    for figure in view.figures:
        json.dumps(figure.spec, allow_nan=False)
        vl_convert.vegalite_to_svg(figure.spec, vl_version=VEGA_LITE_VERSION)


def test_what_else_varies_is_said(tmp_path: Path) -> None:
    factors = {"n_embd": WIDTHS, "max_iters": HORIZONS, "dropout": (0.0, 0.2), "batch_size": (8, 16)}
    study = Study(name="more", corpus="a.txt", base={**BASE, "lr_decay_iters": 4000}, factors=factors)
    view = scaling_view(trained(tmp_path, study, rise=0.01))
    assert "The study also varies dropout: its effects are in the residuals of the fit." in view.sentences
    assert "batch_size changes D: what else it does to training is taken for an effect of D." in view.sentences
    assert any("In 96 of 96 runs the last validation loss is not the lowest" in sentence for sentence in view.sentences)
    assert view.fit and "horizon_unmatched" in {caution.code for caution in view.fit.cautions}
    assert all(caution.text in view.sentences for caution in view.fit.cautions)


def test_real_profiles_of_equal_compute_are_drawn_and_said(tmp_path: Path) -> None:
    factors = {"n_layer": (1, 2, 4, 8, 16), "max_iters": (250, 500, 1000, 2000, 4000)}
    study = Study(name="profiles", corpus="a.txt", base={**BASE, "n_embd": 256, "batch_size": 16}, factors=factors)
    view = scaling_view(trained(tmp_path, study, noise=1e-3))
    (figure,) = [figure for figure in view.figures if figure.name == "isoflop_curves"]
    assert "separate runs" not in figure.caption
    assert re.search(r"Dots: the 13 runs trained at about one of these computes", figure.caption)
    assert any("IsoFLOP" in sentence or "fitted by a cubic of their own" in sentence for sentence in view.sentences)


def test_misfit_beyond_the_noise_between_seeds_is_said(snapshot: Snapshot, view: ScalingView) -> None:
    assert any("among runs of one cell" in sentence for sentence in view.sentences)
    assert not any("the law itself misses" in sentence for sentence in view.sentences)
    bent = pl.when(pl.col("max_iters") == 1000).then(1.03 * pl.col("final_val_loss")).otherwise("final_val_loss")
    crooked = replace(snapshot, table=snapshot.table.with_columns(final_val_loss=bent))
    fit, done = fit_done(crooked, "LND")
    said = law_sentences(crooked, StudyLaw(fit, done, {}, None, None, [], None))
    assert any("the law itself misses" in sentence for sentence in said)
