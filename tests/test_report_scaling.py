"""The chapter on scaling, of studies and tables whose law is known: its words, and what its figures and tables hold."""

from __future__ import annotations

import json
import math
import re
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pytest

from isoloss.analysis import solve
from isoloss.analysis.frontier import HoldOut, frontier, predict
from isoloss.analysis.scaling import Fit
from isoloss.analysis.scaling_results import ScalingResults, analyse_scaling, study_law
from isoloss.diagnostic import Diagnostic
from isoloss.files import write_checksummed, write_record
from isoloss.report import law_plane
from isoloss.report.chapter import Chapter, chapter_as_text
from isoloss.report.chapters.scaling import scaling_chapter
from isoloss.report.chart import ACCENT, NARROW, WARNING, WIDE, Figure, as_image
from isoloss.report.findings import find
from isoloss.report.snapshot import Snapshot, take_snapshot
from isoloss.report.study_report import study_chapters
from isoloss.report.table import Table
from isoloss.store.layout import StudyPaths
from isoloss.store.run import RowWriter, RunStatus, State, create_run, write_status
from isoloss.store.tables import load_study
from isoloss.study import compute
from isoloss.study.budgets import Budgets
from isoloss.study.config import RunConfig
from isoloss.study.identity import run_id
from isoloss.study.study import Study
from isoloss.study.studyfile import dump_study
from isoloss.study.texts import DataFacts
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


def surface(size: Any, tokens: Any) -> Any:
    return TRUTH["E"] + TRUTH["A"] / size ** TRUTH["alpha"] + TRUTH["B"] / tokens ** TRUTH["beta"]


def trained(
    folder: Path, study: Study, *, noise: float = 0.003, states: dict[int, State] | None = None, rise: float = 0.0
) -> Snapshot:
    """A study whose final losses follow the law with relative noise; `rise` is how far they lie above the best."""
    paths, facts = StudyPaths(folder), DataFacts(sha256="ab" * 32, vocab_size=65, val_tokens=111_540)
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
def found(snapshot: Snapshot) -> ScalingResults:
    return law_of(snapshot)


@pytest.fixture(scope="module")
def chapter(found: ScalingResults) -> Chapter:
    return scaling_chapter(found)


def law_of(snapshot: Snapshot) -> ScalingResults:
    found = study_law(snapshot.table, snapshot.done, snapshot.factors)
    assert isinstance(found, ScalingResults)
    return found


def holdout_of(found: ScalingResults) -> HoldOut:
    assert found.holdout is not None
    return found.holdout


def figure(chapter: Chapter, name: str) -> Figure:
    return next(figure for figure in chapter.figures if figure.name == name)


def table(chapter: Chapter, name: str) -> Table:
    return next(table for table in chapter.tables if table.name == name)


def said(chapter: Chapter) -> str:
    return " ".join([*chapter.answer, *chapter.details])


def layers(figure: Figure, width: int = WIDE) -> list[tuple[dict[str, Any], dict[str, str], list[dict[str, Any]]]]:
    """Of every layer its mark, the field on each channel, and the rows it draws, filters applied."""
    spec = figure.spec(width)
    drawn: list[tuple[dict[str, Any], dict[str, str], list[dict[str, Any]]]] = []
    for layer in spec["layer"]:
        data = layer.get("data", spec.get("data"))
        rows = data["values"] if "values" in data else spec["datasets"][data["name"]]
        for step in layer.get("transform", []):
            assert step == {"filter": "datum.among_runs"}
            rows = [row for row in rows if row["among_runs"]]
        fields = {channel: one["field"] for channel, one in layer["encoding"].items() if "field" in one}
        drawn.append((layer["mark"], fields, rows))
    return drawn


def of_type(figure: Figure, mark: str, width: int = WIDE) -> list[tuple[dict[str, str], list[dict[str, Any]]]]:
    return [(fields, rows) for kind, fields, rows in layers(figure, width) if kind["type"] == mark]


def law_at(fit: Fit, row: dict[str, Any]) -> tuple[float, float | None, float | None]:
    law = predict(fit, {"N": row["N"], "D": row["D"]}).law
    return law.value, law.low, law.high


def test_the_answer_states_gains_floor_optimum_and_test_with_their_intervals(
    found: ScalingResults, chapter: Chapter
) -> None:
    gains, optimum, tested = chapter.answer
    for name, noun in (("alpha", "parameters"), ("beta", "tokens")):
        exponent = found.fit.parameters[name].estimate
        shares = [100 * (1 - 2**-x) for x in (exponent.value, exponent.low or 0, exponent.high or 0)]
        value, low, high = (f"{share:.3g} %" for share in shares)
        assert f"twice the {noun} lower what lies above the floor by {value} [{low}, {high}]" in gains
        assert (exponent.low or 9) < TRUTH[name] < (exponent.high or 0)
    floor = found.fit.parameters["E"].estimate
    assert f"The floor is {floor.value:.4g} [{floor.low:.4g}, {floor.high:.4g}]." in gains
    assert found.frontier is not None
    best = found.frontier.optima[0]
    assert best.flops == pytest.approx(6 * 1_771_200 * 4_096_000) and "With 43.5 TFLOP" in optimum
    assert f"{best.n_params.value / 1e3:.3g} k [" in optimum and f"{best.tokens.value / 1e6:.3g} M [" in optimum
    assert best.beyond and "extrapolates" in optimum
    held = holdout_of(found)
    side = "high" if held.mean_error < 0 else "low"
    assert f"hold {held.n_inside} of 8 runs, and predictions are {abs(held.mean_error):.2g} too {side}" in tested
    for words in ("n = 45 runs in 24 cells", "delta method, t with", "by ls", "by lad"):
        assert words in chapter_as_text(chapter)
    for words in ("polished", "With N = parameters with embeddings, α =", "N* ∝ C^a"):
        assert words in said(chapter)


def test_runs_that_are_not_done_are_counted_and_left_out(found: ScalingResults, chapter: Chapter) -> None:
    assert found.fit.n == 45 and found.fit.n_cells == 24 and len(found.runs) == 45
    assert "3 of 48 runs are not done and not part of it: 1 diverged and 2 failed." in chapter.details
    assert float(np.exp(found.fit.law.y_n.max())) < 9.0


def test_tables_hold_the_estimates_and_their_intervals(found: ScalingResults, chapter: Chapter) -> None:
    parameters = table(chapter, "scaling_parameters")
    estimates = [parameter.estimate for parameter in found.fit.parameters.values()]
    ends = [(estimate.value, estimate.low, estimate.high) for estimate in estimates]
    assert parameters.frame.select("value", "value_low", "value_high").rows() == ends
    assert dict(parameters.frame.select("parameter", "by_ls").rows()) == found.other_objectives["ls"]
    counted = [p.estimate for p in found.other_counts["params_total"].parameters.values()]
    assert parameters.frame["params_total_high"].to_list() == [estimate.high for estimate in counted]
    assert parameters.cells()[3][:2] == ["α", "{:.4g} [{:.4g}, {:.4g}]".format(*parameters.frame.row(3)[2:5])]
    optima = table(chapter, "scaling_optima").frame
    assert optima["C"].is_sorted() and {1e12, 1e13} < set(optima["C"])
    for row, optimum in zip(optima.to_dicts(), frontier(found.fit, optima["C"].to_list()).optima, strict=True):
        for name, estimate in (("N", optimum.n_params), ("D", optimum.tokens), ("loss", optimum.loss)):
            assert (row[name], row[f"{name}_low"], row[f"{name}_high"]) == (estimate.value, estimate.low, estimate.high)
        assert (row["where"] == "extrapolated") == optimum.beyond
    assert {"among the runs", "extrapolated"} == set(optima["where"])


def test_held_out_runs_are_listed_with_what_was_predicted_minus_observed(
    found: ScalingResults, chapter: Chapter
) -> None:
    held, shown = holdout_of(found), table(chapter, "scaling_held_out")
    assert len(shown.frame) == len(held.rows) == 8 and set(shown.frame["N"]) == {1_771_200}
    for row, cells in zip(shown.frame.to_dicts(), shown.cells(), strict=True):
        (seen,) = [r for r in held.rows if (r.observed, r.seed) == (row["observed"], row["seed"])]
        assert (row["predicted"], row["predicted_low"]) == (seen.predicted.value, seen.predicted.low)
        assert row["residual"] == pytest.approx(-seen.error) and cells[5] == f"{row['residual']:+.4f}".replace("-", "−")
        assert cells[-1] == ("inside" if seen.inside else "outside")


@pytest.mark.parametrize("width", [WIDE, NARROW])
def test_the_law_is_drawn_against_n_with_its_own_interval(found: ScalingResults, chapter: Chapter, width: int) -> None:
    drawn = figure(chapter, "scaling_fit")
    ((band, rows),) = of_type(drawn, "area", width)
    assert band == {"x": "N", "y": "low", "y2": "high", "color": "line"}
    for row in rows[::7]:
        assert (row["loss"], row["low"], row["high"]) == law_at(found.fit, row)
    (dashed, everywhere), (solid, among_runs) = of_type(drawn, "line", width)
    assert dashed == solid == {"x": "N", "y": "loss", "color": "line"}
    assert among_runs == [row for row in everywhere if 49_440 <= row["N"] <= 1_771_200] != []
    ((dots, runs),) = of_type(drawn, "point", width)
    assert dots == {"x": "N", "y": "loss", "color": "line"}
    summary = found.runs.select("run_id", "params_non_embedding", "train_tokens", "final_val_loss").rows()
    assert [(run["run_id"], run["N"], run["D"], run["loss"]) for run in runs] == summary
    assert {(run["line"], run["D"]) for run in runs} == {(row["line"], row["D"]) for row in rows}
    ((names, ends),) = of_type(drawn, "text", width)
    assert names == {"x": "N", "y": "loss", "text": "line"}
    assert [end["line"] for end in ends] == ["D = 512 k", "D = 1.02 M", "D = 2.05 M", "D = 4.1 M"]


@pytest.mark.parametrize("width", [WIDE, NARROW])
def test_contours_runs_and_optima_have_n_across_and_d_up(found: ScalingResults, chapter: Chapter, width: int) -> None:
    drawn = figure(chapter, "isoloss_contours")
    for _, fields, rows in layers(drawn, width):
        assert (fields["x"], fields["y"]) == ("N", "D")
        assert all(row["N"] > 0 and row["D"] > 0 for row in rows)
    lines = of_type(drawn, "line", width)
    contour = [rows for fields, rows in lines if fields.get("detail") == "loss"]
    assert len(contour) == 2 and len(contour[1]) < len(contour[0])  # dashed everywhere, solid among the runs
    assert 3 <= len({row["loss"] for row in contour[0]}) <= law_plane.MAX_CONTOURS + 1
    for row in contour[0][::7]:
        assert law_at(found.fit, row)[0] == pytest.approx(row["loss"], rel=1e-9)
        among = 49_440 <= row["N"] * (1 + 1e-9) <= 1_771_201 and 512_000 <= row["D"] * (1 + 1e-9) <= 4_096_001
        assert row["among_runs"] == among
    for fields, rows in lines:
        if fields.get("detail") == "C":
            assert all(6 * row["N"] * row["D"] == pytest.approx(row["C"]) for row in rows)
    ((_, band),) = [one for one in lines if "order" in one[0]]
    (optimum,) = frontier(found.fit, [band[40]["C"]]).optima
    (upper,) = [row for row in band[50:] if row["C"] == band[40]["C"] and row["order"] > band[40]["order"]]
    assert (band[40]["N"], upper["N"]) == (optimum.n_params.low, optimum.n_params.high)
    assert 6 * upper["N"] * upper["D"] == pytest.approx(upper["C"])
    ((dots, runs),) = of_type(drawn, "point", width)
    assert dots["color"] == "loss" and len(runs) == 45
    by_id = {run["run_id"]: run for run in runs}
    for run, size, tokens, loss in found.runs.select(
        "run_id", "params_non_embedding", "train_tokens", "final_val_loss"
    ).rows():
        assert by_id[run]["N"] == pytest.approx(size, rel=0.07)  # seeds stand side by side
        assert (by_id[run]["D"], by_id[run]["loss"]) == (tokens, loss)
    seeds = [run for run in runs if run["D"] == 2_048_000 and 1_771_200 / 1.1 < run["N"] < 1_771_200 * 1.1]
    apart = math.log(seeds[1]["N"] / seeds[0]["N"])
    assert math.prod(run["N"] for run in seeds) == pytest.approx(1_771_200**2) and apart > 0  # around their size
    x = drawn.spec(width)["layer"][0]["encoding"]["x"]["scale"]["domain"]
    assert 4 <= apart / math.log(x[1] / x[0]) * (width - 60) <= 9  # pixels: next to each other
    assert all(mark["clip"] for mark, fields, _ in layers(drawn, width) if "order" in fields)
    tops = [rows for mark, _, rows in layers(drawn, width) if mark["type"] == "text" and mark.get("dy") == -8]
    y = drawn.spec(width)["layer"][0]["encoding"]["y"]["scale"]["domain"]
    assert tops and all(row["D"] == pytest.approx(y[1]) for rows in tops for row in rows)
    texts = [(row["text"], row["loss"]) for _, rows in of_type(drawn, "text", width) for row in rows if "loss" in row]
    assert texts and all(text == f"{loss:.1f}" for text, loss in texts)


def test_contours_reach_the_edges_of_the_plane(chapter: Chapter) -> None:
    drawn = figure(chapter, "isoloss_contours")
    encoding = drawn.spec(WIDE)["layer"][0]["encoding"]
    (n_low, n_high), (d_low, d_high) = (encoding[channel]["scale"]["domain"] for channel in "xy")
    contours = drawn.frame.filter(pl.col("drawn") == "equal loss")
    for line in contours.partition_by("loss"):
        assert n_low * 0.999 <= line["N"].to_numpy().min() and line["N"].to_numpy().max() <= n_high * 1.001
        assert d_low * 0.999 <= line["D"].to_numpy().min() and line["D"].to_numpy().max() <= d_high * 1.001
        first, last = line["N"].is_sorted() and line.row(0, named=True), line.row(-1, named=True)
        assert first and (first["N"] == pytest.approx(n_low) or first["D"] == pytest.approx(d_high))
        assert last["N"] == pytest.approx(n_high) or last["D"] == pytest.approx(d_low)


def test_the_plane_goes_towards_the_optima_but_not_too_far(found: ScalingResults) -> None:
    """These runs are smaller than the best size at their compute, and tokens are many more than the best number."""
    runs = found.runs.select(N=pl.lit(1e4), D=pl.lit(1e8), loss=pl.lit(2.0)).head(1)
    plane = law_plane.make_plane(found.fit, runs)
    assert plane.sizes == pytest.approx((1e4 / law_plane.MARGIN, 1e4 * law_plane.MAX_EXTENSION * law_plane.MARGIN))
    assert plane.tokens == pytest.approx((1e8 / law_plane.MAX_EXTENSION / law_plane.MARGIN, 1e8 * law_plane.MARGIN))


def test_a_label_stands_on_its_line_away_from_dots_and_edges() -> None:
    plane = law_plane.Plane((1e4, 1e6), (1e5, 1e8), (1e4, 1e6), (1e5, 1e8))
    sizes = np.geomspace(1e4, 1e6, 101)
    lines = pl.concat([pl.DataFrame({"loss": loss, "N": sizes, "D": at}) for loss, at in ((2.0, 1e6), (1.0, 2e6))])
    dots = pl.DataFrame({"N": [2e4, 1e5], "D": [1e6, 1e6]})
    first, second = law_plane.label_places(lines, "loss", plane, dots, 0.05).to_dicts()

    def seen(row: dict[str, float]) -> tuple[float, float]:
        return math.log10(row["N"] / 1e4) / 2 * law_plane.ASPECT, math.log10(row["D"] / 1e5) / 3

    def room(at: tuple[float, float], others: list[tuple[float, float]]) -> float:
        edge = min(at[0] - 0.05, law_plane.ASPECT - at[0] - 0.05, at[1], 1 - at[1])
        return min(edge, *(math.hypot(0.4 * (at[0] - x), at[1] - y) for x, y in others))

    taken = [seen(row) for row in dots.to_dicts()]
    for label, height in ((first, 1e6), (second, 2e6)):
        assert label["D"] == height
        best = max(room(seen({"N": n, "D": height}), taken) for n in sizes.tolist())
        assert room(seen(label), taken) == pytest.approx(best)
        taken.append(seen(label))


def test_the_compute_optimal_line_is_the_minimum_along_its_diagonal(found: ScalingResults, chapter: Chapter) -> None:
    best = figure(chapter, "isoloss_contours").frame.filter(pl.col("drawn") == "compute-optimal", pl.col("on_plane"))
    assert len(best) > 10
    for row in best.gather_every(9).to_dicts():
        here, *near = (law_at(found.fit, {"N": row["N"] * k, "D": row["D"] / k})[0] for k in (1.0, 0.97, 1.03))
        assert here < min(near) and here == pytest.approx(row["loss"])


def test_isoflop_curves_lie_at_constant_compute_with_the_interval_of_their_minimum(
    found: ScalingResults, chapter: Chapter
) -> None:
    drawn = figure(chapter, "isoflop_curves")
    ((band, rows),) = of_type(drawn, "area")
    assert band == {"x": "N", "y": "low", "y2": "high", "color": "line"}
    for row in rows[::11]:
        assert 6 * row["N"] * row["D"] == pytest.approx(row["C"])
        assert (row["loss"], row["low"], row["high"]) == law_at(found.fit, row)
    ((bars, minima),) = of_type(drawn, "rule")
    assert bars == {"x": "N_low", "x2": "N_high", "y": "loss"}
    assert all(mark["clip"] for mark, _, _ in layers(drawn) if mark["type"] == "rule")  # no bar leaves the figure
    for row, optimum in zip(minima, frontier(found.fit, [row["C"] for row in minima]).optima, strict=True):
        size = optimum.n_params
        assert (row["N"], row["N_low"], row["N_high"]) == (size.value, size.low, size.high)
        assert row["N_low"] < row["N"] < row["N_high"] and row["loss"] == optimum.loss.value
    assert of_type(drawn, "point")[0] == ({"x": "N", "y": "loss", "color": "line"}, minima)
    assert re.search(r"At 3 TFLOP loss is lowest at \d+ k \[", drawn.title)


def test_residuals_of_held_out_runs_stand_in_their_prediction_intervals(
    found: ScalingResults, chapter: Chapter
) -> None:
    held, drawn = holdout_of(found), figure(chapter, "scaling_holdout")
    bars, rows = of_type(drawn, "rule")[1]
    assert bars == {"x": "residual_low", "x2": "residual_high", "y": "label", "color": "where"}
    assert of_type(drawn, "point") == [({"x": "residual", "y": "label", "color": "where"}, rows)]
    assert len({row["label"] for row in rows}) == 8 and rows[0]["label"] == "D = 512,000 · seed 1337"
    for row in rows:
        (seen,) = [r for r in held.rows if (r.observed, r.seed) == (row["observed"], row["seed"])]
        assert row["residual_low"] == pytest.approx((seen.predicted.low or 0) - seen.observed)
        assert row["residual_high"] == pytest.approx((seen.predicted.high or 0) - seen.observed)
        assert row["residual_low"] < row["residual"] < row["residual_high"]
        assert (row["residual_low"] <= 0 <= row["residual_high"]) == (row["where"] == "inside") == seen.inside
    scale = drawn.spec(WIDE)["layer"][1]["encoding"]["color"]["scale"]
    assert scale == {"domain": ["inside", "outside"], "range": [ACCENT, WARNING]}


def test_every_figure_says_n_and_its_interval_and_is_drawn_at_its_width(chapter: Chapter) -> None:
    assert [figure.name for figure in chapter.figures] == FIGURES
    for one in chapter.figures:
        assert one.title.endswith(".") and re.search(r"\d+ runs", one.subtitle) and "95%" in one.subtitle
        for width in (WIDE, NARROW):
            specification = json.dumps(one.spec(width), allow_nan=False)  # raises where a number is not finite
            assert "null" not in re.findall(r'"(?:loss|low|high|N|D|observed|predicted)": (\w+)', specification)
            svg = as_image(one, width, "svg").decode()
            assert abs(float(re.findall(r'<svg[^>]* width="([\d.]+)"', svg)[0]) - width) <= 2
            assert min(float(size) for size in re.findall(r'font-size="([\d.]+)px"', svg)) >= 9.4


def test_two_sizes_identify_no_law_and_get_no_numbers(tmp_path: Path) -> None:
    factors = {"n_embd": (128, 256), "batch_size": (8, 16), "dropout": (0.0, 0.2)}
    found = law_of(trained(tmp_path, Study(name="two", corpus="a.txt", base=BASE, factors=factors)))
    chapter = scaling_chapter(found)
    assert found.fit.status == "unidentified" and not chapter.figures and not chapter.tables
    assert "do not determine the law L = E + A/N^α + B/D^β" in chapter.answer[0]
    assert "N takes 2 values" in chapter.answer[1] and "Train at 3 values of N or more." in chapter.answer[1]
    texts = [caution.text for caution in found.cautions]
    assert all(said(chapter).count(text) == 1 for text in texts) and len(texts) > 2
    assert not re.search(r"[αβ] =|E =(?! E \+| )", said(chapter).replace("L = E", ""))


def test_a_study_of_one_size_and_horizon_has_nothing_to_fit(tmp_path: Path) -> None:
    snapshot = trained(tmp_path, Study(name="flat", corpus="a.txt", base=BASE, factors={"dropout": (0.0, 0.1, 0.2)}))
    found = study_law(snapshot.table, snapshot.done, snapshot.factors)
    assert isinstance(found, Diagnostic) and found.severity == "blocks"
    chapter = scaling_chapter(found)
    assert len(chapter.answer) == 1 and chapter.answer[0].startswith("There is no scaling law to fit: all runs have ")
    assert not chapter.tables and not chapter.figures


@pytest.mark.parametrize("state", ["pending", "failed"])
def test_while_no_run_is_done_nothing_is_fitted(tmp_path: Path, state: State) -> None:
    snapshot = trained(tmp_path, LADDER, states=dict.fromkeys(range(48), state))
    found = study_law(snapshot.table, snapshot.done, snapshot.factors)
    assert isinstance(found, Diagnostic)
    assert scaling_chapter(found).answer == ["No scaling law is fitted yet: no run is done."]


@pytest.mark.parametrize("n_done", [1, 2, 5])
def test_the_first_runs_of_a_ladder_identify_nothing_yet(tmp_path: Path, n_done: int) -> None:
    chapter = scaling_chapter(law_of(trained(tmp_path, LADDER, states=dict.fromkeys(range(n_done, 48), "pending"))))
    assert not chapter.figures and "do not determine" in chapter.answer[0]
    assert f"{48 - n_done} of 48 runs are not done" in said(chapter)


@pytest.mark.parametrize(("factor", "levels", "form"), [("n_embd", WIDTHS, "LN"), ("max_iters", HORIZONS, "LD")])
def test_a_study_of_one_axis_gets_the_law_in_it(
    tmp_path: Path, factor: str, levels: tuple[int, ...], form: str
) -> None:
    study = Study(name="axis", corpus="a.txt", base=BASE, factors={factor: levels}, seeds=(1, 2))
    found = law_of(trained(tmp_path, study, noise=1e-4))
    chapter, axis = scaling_chapter(found), form[1]
    assert found.fit.form == form and found.fit.status == "ok"
    assert {one.name for one in chapter.figures} <= {"scaling_fit", "scaling_holdout"}
    ((fields, rows),) = of_type(chapter.figures[0], "point")
    assert (fields["x"], fields["y"]) == (axis, "loss") and len(rows) == 2 * len(levels)
    assert f"falls towards {found.fit.parameters['E'].estimate.value:.4g} [" in chapter.figures[0].title
    assert f"1/{axis}^{'αβ'[axis == 'D']}" in chapter.figures[0].title
    for one in chapter.figures:
        assert as_image(one, NARROW, "svg").startswith(b"<svg")


def test_what_else_varies_is_said(tmp_path: Path) -> None:
    factors = {"n_embd": WIDTHS, "max_iters": HORIZONS, "dropout": (0.0, 0.2), "batch_size": (8, 16)}
    study = Study(name="more", corpus="a.txt", base={**BASE, "lr_decay_iters": 4000}, factors=factors)
    found = law_of(trained(tmp_path, study, rise=0.01))
    details = " ".join(scaling_chapter(found).details)
    assert "The study also varies dropout: its effect is in the residuals of the fit." in details
    assert "batch_size changes D: what else it does to training is taken for an effect of D." in details
    assert "In 96 of 96 runs the last validation loss is not the lowest, by up to 0.0100 nats/token" in details
    assert "horizon_unmatched" in {caution.code for caution in found.fit.cautions}
    assert all(caution.text in details for caution in found.cautions)


def test_runs_of_a_budget_are_drawn_on_its_curve_and_give_the_exponents(tmp_path: Path) -> None:
    """Budgets count attention and embeddings, of which small models have more: their runs differ in 6·N·D."""
    budgets = Budgets("flops", (1.5e12, 3e12, 6e12, 1.2e13))
    base = {**BASE, "n_layer": 2, "batch_size": 8}
    study = Study("profiles", "a.txt", base=base, factors={"n_embd": (32, 48, 64, 96, 128, 192)}, budgets=budgets)
    facts = DataFacts("ab" * 32, 65, 111_540)
    snapshot = trained(tmp_path, study.resolved(facts), noise=1e-3)
    found = law_of(snapshot)
    assert [profile.n for profile in found.profiles] == [6] * 4
    chapter = scaling_chapter(found)
    drawn = figure(chapter, "isoflop_curves")
    assert "along constant training FLOPs by" in drawn.subtitle
    assert "Dots: 24 runs of about these computes." in drawn.subtitle
    dots, runs = of_type(drawn, "point")[-1]
    assert dots == {"x": "N", "y": "loss", "color": "line"} and len(runs) == 24
    ratios = [6 * run["N"] * run["D"] / run["C"] for run in runs]
    assert min(ratios) < 0.75 and max(ratios) > 0.9
    rows = of_type(drawn, "area")[0][1]
    for row in rows[::17]:
        assert row["loss"] == law_at(found.fit, row)[0]
        (nearest,) = [run for run in runs if run["C"] == row["C"] and run["N"] == min(
            (other["N"] for other in runs), key=lambda n, row=row: abs(math.log(n / row["N"])))]  # fmt: skip
        off = nearest["D"] * (nearest["N"] / row["N"]) ** found.cost.size_power / row["D"]
        assert off == pytest.approx(1, abs=0.05)
    optima = frontier(found.fit, [profile.flops for profile in found.profiles], found.cost).optima
    best = [optimum for optimum in optima if not optimum.beyond][-1]
    other = [
        predict(found.fit, {"N": k * best.n_params.value, "D": best.flops / found.cost.per / (
            k * best.n_params.value) ** found.cost.size_power}).law.value
        for k in (0.5, 2.0)
    ]  # fmt: skip
    assert f"as many cost up to {max(other) - best.loss.value:.2g} more" in drawn.title
    profiles = table(chapter, "scaling_profiles").frame
    assert profiles["C"].to_list() == [profile.flops for profile in found.profiles]
    for row, profile in zip(profiles.to_dicts(), found.profiles, strict=True):
        best = profile.optimal_params
        assert (row["N"], row["N_low"], row["N_high"]) == ((best.value, best.low, best.high) if best else (None,) * 3)
        assert row["cautions"] == " ".join(caution.text for caution in profile.cautions)
    assert found.isoflop_law is not None
    a = found.isoflop_law.N.exponent
    said = f"grows with compute to the power {a.value:.3g} (95% interval {a.low:.3g} to {a.high:.3g}), and its tokens"
    assert said in chapter.answer[0]
    opening = study_chapters(snapshot, find(snapshot))[0]
    assert opening.id == "answer" and opening.answer[0] == chapter.answer[0]


def test_anyones_table_gets_predictions_and_its_own_column_names() -> None:
    size, tokens = (x.ravel() for x in np.meshgrid(np.geomspace(1e5, 3e6, 4), np.geomspace(5e5, 2e7, 12)))
    noise = np.exp(0.003 * np.random.default_rng(0).standard_normal(48))
    losses = [surface(n, d) * e for n, d, e in zip(size, tokens, noise, strict=True)]
    runs = pl.DataFrame({"weights": size, "D": tokens, "bits": losses})
    point = {"N": 1e6, "D": 1e7}
    found = analyse_scaling(runs, "LND", {"N": "weights", "D": "D", "loss": "bits", "C": "C"}, points=[point])
    chapter = scaling_chapter(found)
    (row,) = table(chapter, "scaling_predictions").frame.to_dicts()
    law, run = found.predictions[0].law, found.predictions[0].new_run
    assert row["law"] == law.value and (row["law_low"], row["law_high"]) == (law.low, law.high)
    assert (row["run_low"], row["run_high"]) == (run.low, run.high) and row["run_low"] < row["law_low"]
    drawn = figure(chapter, "scaling_fit")
    assert drawn.spec(WIDE)["layer"][0]["encoding"]["x"]["title"] == "weights N (log scale)"
    assert drawn.spec(WIDE)["layer"][0]["encoding"]["y"]["title"] == "bits"
    assert "nearest in tokens" in drawn.subtitle  # twelve token counts are drawn at fewer round ones
    lines = {row["line"]: row["D"] for row in of_type(drawn, "area")[0][1]}
    assert len(lines) <= 8
    for run in of_type(drawn, "point")[0][1]:
        near = min(lines.values(), key=lambda tokens, d=run["D"]: abs(math.log(tokens / d)))
        assert lines[run["line"]] == near


def test_names_of_lines_that_end_close_to_each_other_do_not_touch() -> None:
    size, tokens = (x.ravel() for x in np.meshgrid(np.geomspace(1e5, 3e6, 5), np.array([1e7, 1.05e7, 1.1e7, 1.15e7])))
    noise = np.exp(1e-5 * np.random.default_rng(0).standard_normal(20))
    runs = pl.DataFrame({"N": size, "D": tokens, "loss": surface(size, tokens) * noise})
    chapter = scaling_chapter(analyse_scaling(runs, "LND", {"N": "N", "D": "D", "loss": "loss", "C": "C"}))
    drawn = figure(chapter, "scaling_fit")
    ((_, names),) = of_type(drawn, "text")
    spec = drawn.spec(WIDE)
    low, high = spec["layer"][0]["encoding"]["y"]["scale"]["domain"]
    places = sorted(row["loss"] for row in names)
    assert len(places) == 4 and min(np.diff(places)) >= 10 * (high - low) / spec["height"]  # pixels, of a font of 10


def test_of_many_held_out_runs_the_worst_predicted_are_drawn_one_in_a_row() -> None:
    size = np.repeat(np.geomspace(1e5, 3e6, 5), 70)
    noise = np.exp(0.003 * np.random.default_rng(0).standard_normal(len(size)))
    runs = pl.DataFrame({"N": size, "loss": (1.2 + 40 / size**0.38) * noise, "seed": 1})
    found = analyse_scaling(runs, "LN", {"N": "N", "loss": "loss"}, holdout=True)
    errors = sorted(abs(row.error) for row in holdout_of(found).rows)
    ((_, rows),) = of_type(figure(scaling_chapter(found), "scaling_holdout"), "point")
    assert len(errors) == 70 and sorted(abs(row["residual"]) for row in rows) == pytest.approx(errors[10:])
    assert len({row["label"] for row in rows}) == 60


def test_misfit_beyond_the_noise_between_seeds_is_said(snapshot: Snapshot, chapter: Chapter) -> None:
    assert "miss the law by more than chance" not in said(chapter)
    bent = pl.when(pl.col("max_iters") == 1000).then(1.03 * pl.col("final_val_loss")).otherwise("final_val_loss")
    crooked = replace(snapshot, table=snapshot.table.with_columns(final_val_loss=bent))
    assert "miss the law by more than chance" in " ".join(scaling_chapter(law_of(crooked)).details)


def test_a_factor_that_goes_with_size_is_in_the_exponents(tmp_path: Path) -> None:
    rates = tuple(0.1 / width for width in WIDTHS)
    paired = ({"n_embd": WIDTHS, "learning_rate": rates},)
    study = Study("paired", "a.txt", base=BASE, factors={"max_iters": HORIZONS}, paired=paired, seeds=(1, 2))
    found = law_of(trained(tmp_path, study))
    codes = {caution.code for caution in found.cautions}
    assert "factor_goes_along" in codes and not {"other_factors", "rows_share_runs"} & codes
    details = " ".join(scaling_chapter(found).details)
    assert "learning_rate goes with n_embd: its effect is in the exponents." in details
