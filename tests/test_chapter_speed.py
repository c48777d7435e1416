"""The chapter on speed and cost: what it answers, which numbers are drawn where, and studies with little to say."""

from __future__ import annotations

import re
from dataclasses import replace
from pathlib import Path
from typing import Any

import altair as alt
import numpy as np
import polars as pl
import pytest

from isoloss.errors import ConfigError
from isoloss.report import wall_time
from isoloss.report.chapter import Chapter, chapter_as_text
from isoloss.report.chapters import speed
from isoloss.report.chapters.speed import speed_chapter
from isoloss.report.chart import ACCENT, GREY, NARROW, WIDE, Figure, as_image
from isoloss.report.evidence import evidence
from isoloss.report.slow_steps import slow_steps
from isoloss.report.snapshot import Snapshot, take_snapshot
from isoloss.store.run import State
from isoloss.study.compute import flops_per_token
from isoloss.study.config import RunConfig
from isoloss.study.study import Study
from tests.fake_studies import fake_study, step_row, write_rows

BASE = {"n_layer": 2, "max_iters": 60, "eval_interval": 20}
STUDY = Study(
    name="s", corpus="a.txt", base=BASE, factors={"n_embd": (32, 64, 96), "dropout": (0.0, 0.2)}, seeds=(1, 2)
)


def loss(config: RunConfig, number: int, step: int) -> float:
    """96 costs most and is no better than 64; dropout costs, and the second seed is a little worse."""
    return {32: 2.5, 64: 2.1, 96: 2.2}[config.n_embd] + config.dropout + 0.01 * (number % 2) + 1 / (1 + step)


@pytest.fixture(scope="module")
def snapshot(tmp_path_factory: pytest.TempPathFactory) -> Snapshot:
    """Run i takes (1 + i) hundredths of a second a step; the last one failed."""
    results = fake_study(tmp_path_factory.mktemp("speed"), STUDY, {11: ("failed", "memory")}, loss)
    rows = []
    for i, row in enumerate(results.summary().to_dicts()):
        seconds = 0.01 * (1 + i)
        speeds = {"tokens_per_s": 768 / seconds, "mfu": 0.05 * (1 + i), "median_step_time_s": seconds}
        times = {"train_time_s": 60.0 * (1 + i), "eval_time_s": 30.0, "checkpoint_time_s": 5.0}
        rows.append(row | speeds | times | {"wall_time_s": sum(times.values())})
    table = pl.DataFrame(rows, infer_schema_length=None)
    taken = take_snapshot(results)
    named = taken.table.select("run_id", "key", "configuration", "label", "reason")
    return replace_table(taken, table.join(named, on="run_id", maintain_order="left"))


def replace_table(snapshot: Snapshot, table: pl.DataFrame) -> Snapshot:
    return Snapshot(**{**vars(snapshot), "table": table})


@pytest.fixture(scope="module")
def chapter(snapshot: Snapshot) -> Chapter:
    return speed_chapter(snapshot)


def figure_of(chapter: Chapter, name: str) -> Figure:
    [figure] = [figure for figure in chapter.figures if figure.name == name]
    return figure


def fields(layer: dict[str, Any]) -> dict[str, Any]:
    return {channel: encoding["field"] for channel, encoding in layer["encoding"].items() if "field" in encoding}


def test_the_answer_says_what_a_token_costs_and_where_the_time_went(chapter: Chapter, snapshot: Snapshot) -> None:
    cost, times, bought = chapter.answer
    flops = [flops_per_token(config) for config in snapshot.configs.values()]
    assert cost == (
        f"Training cost {min(flops) / 1e3:.3g} k to {max(flops) / 1e6:.3g} MFLOP a token and ran at 6.98 k to 57.6 k "
        "tokens/s, 7.5 % to 55 % of the most that the machine can do (MFU)."
    )
    training, evaluation, checkpoints = 60.0 * 78, 30.0 * 12, 5.0 * 12
    total = training + evaluation + checkpoints
    assert times == (
        f"12 runs took 1 h 25 min; {100 * training / total:.0f} % of the wall time went into training, "
        f"{100 * evaluation / total:.0f} % into evaluation and {100 * checkpoints / total:.0f} % into checkpoints."
    )
    assert bought.startswith("The lowest mean loss fell from 2.5") and "nats at" in bought


@pytest.mark.parametrize(("name", "value"), [("throughput", "tokens_per_s"), ("mfu", "mfu")])
def test_configurations_lie_at_their_size_and_mean(chapter: Chapter, snapshot: Snapshot, name: str, value: str) -> None:
    figure = figure_of(chapter, name)
    for row in figure.frame.to_dicts():
        own = snapshot.done.filter(pl.col("key") == row["key"])
        assert row["params_total"] == own["params_total"][0] and row["n"] == len(own)
        assert (row[value], row[f"{value}_low"], row[f"{value}_high"]) == pytest.approx(
            (own[value].mean(), own[value].min(), own[value].max())
        )
        assert row["mark"].startswith(f"{row['key']} · {own['configuration'][0]}: ")
    assert len(figure.frame) == 6 and "n = 11 runs of 6 configurations" in figure.subtitle
    rule, point = figure.spec(WIDE)["layer"]
    assert {"x": "params_total", "y": value, "color": "level", "description": "mark"}.items() <= fields(point).items()
    assert (fields(rule)["y"], fields(rule)["y2"]) == (f"{value}_low", f"{value}_high")
    assert (
        point["encoding"]["x"]["scale"]["type"] == "log" and point["encoding"]["color"]["legend"]["title"] == "dropout"
    )
    assert figure.frame["level"].to_list() == ["0.0", "0.2"] * 3
    y = point["encoding"]["y"]["scale"]
    assert y["zero"] if value == "mfu" else y["type"] == "log"  # a share begins at nothing


def test_titles_say_what_size_changes(chapter: Chapter, snapshot: Snapshot) -> None:
    small, large = min(snapshot.table["params_total"]) / 1e3, max(snapshot.table["params_total"]) / 1e3
    first = sum(768 / (0.01 * (1 + i)) for i in range(4)) / 4e3  # runs 0 to 3, two of each configuration
    last = ((768 / 0.09 + 768 / 0.10) / 2 + 768 / 0.11) / 2e3  # of the last configuration one run is done
    sizes = f"from {first:.3g} k at {small:.3g} k parameters to {last:.3g} k at {large:.3g} k"
    assert figure_of(chapter, "throughput").title == f"Tokens/s fell {sizes}"
    assert figure_of(chapter, "mfu").title.startswith("MFU rose from 12.5 % at")


def test_wall_time_is_stacked_for_each_shape(chapter: Chapter, snapshot: Snapshot) -> None:
    figure = figure_of(chapter, "wall_time")
    for row in figure.frame.to_dicts():
        own = snapshot.table.filter(pl.format("n_embd {}", "n_embd") == row["shape"])
        column = {"training": "train_time_s", "evaluation": "eval_time_s", "checkpoints": "checkpoint_time_s"}[
            row["part"]
        ]
        assert row["seconds"] == own[column].sum() and row["runs"] == 4
        assert row["time"] == pytest.approx(row["seconds"] / 60)
    assert figure.frame.filter(pl.col("part") == "training")["shape"].to_list() == [
        "n_embd 96",
        "n_embd 64",
        "n_embd 32",
    ]
    bars, words = figure.spec(WIDE)["layer"]
    assert {"x": "time", "y": "place", "color": "part", "order": "order"}.items() <= fields(bars).items()
    assert bars["encoding"]["x"]["title"] == "wall time (minutes)" and bars["encoding"]["x"]["stack"] == "zero"
    assert fields(words) == {"y": "place", "text": "head"}
    assert words["mark"]["limit"] > WIDE / 2  # the words have the width of the figure
    places = figure.frame.filter(pl.col("part") == "training")["place"].to_list()
    top, bottom = bars["encoding"]["y"]["scale"]["domain"]
    steps = np.diff([top, *places])
    assert min(steps[1:]) == max(steps[1:]) >= steps[0] > 20 and places[-1] < bottom  # a line of words above each bar
    table = chapter.tables[1]
    assert table.cells()[0] == ["n_embd 96", "4", "42 min 0 s", "2 min 0 s", "20.0 s", "44 min 20 s"]


def test_loss_is_drawn_against_training_flops(chapter: Chapter, snapshot: Snapshot) -> None:
    figure = figure_of(chapter, "loss_by_compute")
    runs = figure.frame.filter(pl.col("kind") == "run")
    assert (
        runs.select("key", "train_flops", "loss").rows()
        == snapshot.done.select("key", "train_flops", "best_val_loss").rows()
    )
    lowest = figure.frame.filter(pl.col("kind") == "lowest mean")
    assert lowest["key"].to_list() == ["c1", "c3"]  # 96 wide costs more and is no better; dropout only costs
    means = dict(snapshot.configurations.select("key", "mean").iter_rows())
    assert lowest["loss"].to_list() == [means["c1"], means["c3"]]
    others, line, best, words = figure.spec(WIDE)["layer"]
    for layer in (others, line, best):
        assert {"x": "train_flops", "y": "loss", "description": "mark"}.items() <= fields(layer).items()
    assert (others["mark"]["color"], line["mark"]["color"], line["mark"]["interpolate"]) == (GREY, ACCENT, "step-after")
    assert [layer["transform"][0]["filter"] for layer in (others, best)] == [
        "datum.kind != 'lowest mean'", "datum.kind == 'lowest mean'"
    ]  # fmt: skip
    [end] = figure.spec(WIDE)["datasets"][words["data"]["name"]]
    assert end["train_flops"] == lowest["train_flops"][-1]
    assert figure.frame["mark"][0].startswith("c1 · n_embd 32 · dropout 0.0 · seed 1: 2.5")
    assert "n = 11 runs" in figure.subtitle


def test_of_many_runs_configurations_are_marks(snapshot: Snapshot, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(speed, "MAX_MARKS", 10)
    monkeypatch.setattr(wall_time, "MAX_SHAPES", 2)
    chapter = speed_chapter(snapshot)
    figure = figure_of(chapter, "loss_by_compute")
    marks = figure.frame.filter(pl.col("kind") == "configuration")
    assert sorted(marks["key"]) == [f"c{i}" for i in range(1, 7)] and "n = 6 configurations" in figure.subtitle
    bars = figure_of(chapter, "wall_time").frame
    assert set(bars["shape"]) == {"all runs"} and bars["runs"][0] == 12
    assert bars.filter(pl.col("part") == "training")["seconds"][0] == snapshot.table["train_time_s"].sum()


def test_slow_steps_are_drawn_where_they_cost_time(tmp_path: Path) -> None:
    study = Study(name="one", corpus="a.txt", base=BASE, factors={"n_embd": (32, 64)}, seeds=(1,))
    taken = take_snapshot(fake_study(tmp_path, study, {}, loss))
    for run, odd in zip(taken.done["run_id"], ({0: 8.0}, {0: 9.0, 20: 0.2, 33: 0.05}), strict=True):
        path = taken.results.paths.run(run).metrics
        path.unlink()
        write_rows(path, [step_row(step) | {"step_time_s": odd.get(step, 0.02)} for step in range(60)])
    figure = figure_of(speed_chapter(taken), "slow_steps")
    assert figure.frame.select("step", "ms", "after").rows() == [
        (20, 200.0, "right after an evaluation"), (33, 50.0, "other steps")
    ]  # fmt: skip
    lost = (0.18 + 0.03) / (57 * 0.02 + 0.2 + 0.05)
    assert (
        figure.title
        == f"2 slow steps cost {100 * lost:.3g} % of the time of n_embd 64; 1 came right after an evaluation"
    )
    rule, points = figure.spec(WIDE)["layer"]
    assert {"x": "step", "y": "ms", "color": "after"}.items() <= fields(points).items()
    assert rule["encoding"]["y"]["datum"] == pytest.approx(20)


def test_slow_steps_on_cuda_are_not_known(snapshot: Snapshot) -> None:
    """Blocks of steps are timed there, and each row has its block's mean."""
    assert not slow_steps(snapshot).is_empty() and evidence(snapshot).spikes(2.0).spikes
    on_cuda = {run: replace(each, provenance={"device": "cuda"}) for run, each in snapshot.statuses.items()}
    taken = Snapshot(**{**vars(snapshot), "statuses": on_cuda})
    assert slow_steps(taken).is_empty()
    with pytest.raises(ConfigError, match="on CUDA blocks of steps are timed"):
        evidence(taken).spikes(2.0)


def test_a_run_without_slow_steps_has_no_figure_of_them(tmp_path: Path) -> None:
    study = Study(name="one", corpus="a.txt", base=BASE, seeds=(1,))
    taken = take_snapshot(fake_study(tmp_path, study, {}, lambda config, number, step: 2.0))
    path = taken.results.paths.run(taken.done["run_id"][0]).metrics
    path.unlink()
    write_rows(path, [step_row(step) | {"step_time_s": 0.02} for step in [*range(5), *range(6, 60)]])
    chapter = speed_chapter(replace_table(taken, taken.table.with_columns(mfu=pl.lit(0.0))))
    assert [figure.name for figure in chapter.figures] == ["throughput", "wall_time"]
    assert "(MFU)" not in chapter.answer[0]  # a peak that is not known gives no utilisation of 0
    assert chapter.tables[0].cells()[0][-3] == "–"
    assert figure_of(chapter, "throughput").title.startswith("Runs trained at ")


@pytest.mark.parametrize("state", ["failed", "diverged", "pending"])
def test_while_nothing_is_done_there_is_a_sentence(tmp_path: Path, state: State) -> None:
    study = Study(name="s", corpus="a.txt", base=BASE, factors={"n_embd": (32, 64)}, seeds=(1, 2))
    chapter = speed_chapter(take_snapshot(fake_study(tmp_path, study, dict.fromkeys(range(4), (state, "x")), loss)))
    assert chapter.answer and [figure.name for figure in chapter.figures] == (
        [] if state == "pending" else ["wall_time"]
    )
    assert chapter_as_text(chapter)


@pytest.mark.parametrize("width", [WIDE, NARROW])
def test_every_figure_is_as_wide_as_asked_and_legible(chapter: Chapter, width: int) -> None:
    for figure in chapter.figures:
        svg = as_image(figure, width, "svg").decode()
        sizes = [float(size) for size in re.findall(r'font-size="([\d.]+)px"', svg)]
        assert sizes and min(sizes) >= 9.4
        assert re.search(rf'<svg[^>]* width="{width}"', svg)
        assert isinstance(figure.draw(width), alt.TopLevelMixin)
