"""The chapter on convergence: what it answers, which numbers its figures and tables hold, and tables that are bad."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import polars as pl
import pytest

from isoloss.analysis.convergence import Convergence, RunConvergence, TimeToTarget, analyse_convergence
from isoloss.analysis.curves import proportion
from isoloss.diagnostic import Diagnostic
from isoloss.report.chapter import Chapter, chapter_as_text
from isoloss.report.chapters.convergence import convergence_chapter
from isoloss.report.chart import ACCENT, GREY, NARROW, WARNING, WIDE, Figure, as_image
from isoloss.report.evidence import evidence, target_loss
from isoloss.report.run_strip import MAX_DRAWN, MIN_DRAWN
from isoloss.report.snapshot import Snapshot, take_snapshot
from isoloss.store.run import State
from isoloss.study.config import RunConfig
from isoloss.study.study import Study
from tests.fake_studies import fake_study

BASE = {"n_layer": 2, "max_iters": 400, "eval_interval": 25}
TOLERANCE = 0.03


def ending(config: RunConfig, number: int, step: int) -> float:
    """Width 32 falls to the end, 64 is flat from step 100, 96 turns at 200, 128 is flat and never gets low."""
    noise = float(np.random.default_rng([number, step]).normal(0, 0.001))
    falling = 3.15 - 0.2 * np.log2(1 + step)
    flat = 3.0 - 0.2 * np.log2(1 + min(step, 100))
    of_width = {32: falling, 64: flat, 96: flat + max(step - 200, 0) * 0.002, 128: flat + 1}
    return float(of_width[config.n_embd]) + noise


@pytest.fixture(scope="module")
def snapshot(tmp_path_factory: pytest.TempPathFactory) -> Snapshot:
    study = Study(name="e", corpus="a.txt", base=BASE, factors={"n_embd": (32, 64, 96, 128)}, seeds=(1, 2))
    return take_snapshot(fake_study(tmp_path_factory.mktemp("ends"), study, {}, ending))


@pytest.fixture(scope="module")
def convergence(snapshot: Snapshot) -> Convergence:
    return evidence(snapshot).convergence(TOLERANCE)


@pytest.fixture(scope="module")
def chapter(snapshot: Snapshot, convergence: Convergence) -> Chapter:
    return convergence_chapter(convergence, snapshot.table)


def figure_of(chapter: Chapter, name: str) -> Figure:
    [figure] = [figure for figure in chapter.figures if figure.name == name]
    return figure


def layers(figure: Figure, mark: str) -> list[dict[str, Any]]:
    """The layers of a figure with a mark and rows of their own."""
    return [layer for layer in figure.spec(WIDE)["layer"] if layer["mark"]["type"] == mark and "y" in layer["encoding"]]


def fields(layer: dict[str, Any]) -> dict[str, Any]:
    return {channel: encoding["field"] for channel, encoding in layer["encoding"].items() if "field" in encoding}


def copies(convergence: Convergence, states: Sequence[State | str]) -> Convergence:
    """A run of each state, with the values of the runs that are in it."""
    by_state = {run.state: run for run in convergence.runs}
    runs = tuple(replace(by_state[state], run=f"r{i}") for i, state in enumerate(states))  # type: ignore[index]
    shares = {state: proportion(sum(run.state == state for run in runs), len(runs)) for state in convergence.shares}
    return replace(convergence, runs=runs, shares=shares, target=None, reached=None, gap=None)


def test_the_answer_says_states_times_and_gap(chapter: Chapter, convergence: Convergence) -> None:
    states, times, gap, rate = chapter.answer
    falling = [run.improvement.value for run in convergence.runs if run.state == "improving" and run.improvement]
    plateaus = [run.plateau_step for run in convergence.runs if run.plateau_step is not None]
    assert len(falling) == 2 and len(plateaus) == 4
    rates = sorted({f"{value:.2g}" for value in falling})
    assert states == (
        f"2 of 8 runs were still improving when they stopped, by {' to '.join(rates)} nats per doubling of steps, so "
        f"longer training should lower the loss; 4 had plateaued by step {max(plateaus):,.0f}; 2 ended above their "
        "lowest loss."
    )
    steps = [run.to_target.step for run in convergence.runs[:6] if run.to_target]
    medians = [max(pair) for pair in (steps[:2], steps[2:4], steps[4:])]
    fastest = f"n_embd {(32, 64, 96)[int(np.argmin(medians))]}"
    assert times.startswith(f"To reach {convergence.target:g} nats took {min(medians):g} steps in the fastest "
                            f"configuration ({fastest})")  # fmt: skip
    assert times.endswith("; 2 of 8 runs did not reach it in 400 steps.")
    assert convergence.gap is not None and convergence.gap.low == convergence.gap.high  # the same in all runs
    assert f"+{convergence.gap.value:.4f} nats on average" in gap and gap.endswith("over 8 runs.")
    assert rate.startswith("The learning rate was still falling at the end of 8 of 8 runs: ")


def test_the_time_of_a_configuration_is_no_lucky_seed(snapshot: Snapshot, convergence: Convergence) -> None:
    """One seed of the first configuration reaches the target at once and the other never does."""
    lucky = TimeToTarget(True, 25, 0, None, None, None)
    never = TimeToTarget(False, 400, None, None, None, None)
    rest = TimeToTarget(True, 100, 75, None, None, None)
    times = (lucky, never, rest, rest, never, never, never, never)
    runs = tuple(replace(run, to_target=time) for run, time in zip(convergence.runs, times, strict=True))
    mixed = replace(convergence, runs=runs, reached=proportion(3, 8))
    said = convergence_chapter(mixed, snapshot.table).answer[1]
    assert "took 100 steps in the fastest configuration (n_embd 64); 5 of 8 runs did not reach it" in said
    alone = replace(mixed, runs=(*runs[:2], *runs[4:]))
    said = convergence_chapter(alone, snapshot.table).answer[1]  # no configuration has a median any more
    assert "took 25 steps in the fastest run (n_embd 32 · seed 1)" in said


def test_the_slowest_configuration_is_said_where_it_took_longer(snapshot: Snapshot, convergence: Convergence) -> None:
    def said(*steps: int) -> str:
        times = [TimeToTarget(True, step, step - 25, None, None, None) for step in steps for _ in range(2)]
        runs = tuple(replace(run, to_target=time) for run, time in zip(convergence.runs, times, strict=True))
        return convergence_chapter(replace(convergence, runs=runs, reached=proportion(8, 8)), snapshot.table).answer[1]

    ends = "100 steps in the fastest configuration (n_embd 32) and 300 in the slowest that did."
    assert said(100, 150, 200, 300).endswith(ends)
    assert "slowest" not in said(100, 100, 100, 100)


def test_long_intervals_are_cut_at_the_range_of_the_values(convergence: Convergence) -> None:
    """Two intervals reach far to both sides; the axis ends a range of values beyond the lowest and the highest."""
    runs = tuple(
        replace(run, improvement=replace(run.improvement, low=-50.0, high=50.0)) if i < 2 else run
        for i, run in enumerate(convergence.runs)
        if run.improvement
    )
    figure = figure_of(convergence_chapter(replace(convergence, runs=runs)), "improvement")
    assert "long intervals are cut at the edge" in figure.subtitle
    values = [*figure.frame["value"], -TOLERANCE, TOLERANCE]
    low, high = min(values), max(values)
    scale = layers(figure, "point")[0]["encoding"]["x"]["scale"]
    (left, right), clamped = scale["domain"], scale["clamp"]
    assert clamped
    assert 2 * low - high >= left > 2 * low - high - 0.5 * (high - low)
    assert 2 * high - low <= right < 2 * high - low + 0.5 * (high - low)


def test_improvements_lie_where_the_estimates_do(chapter: Chapter, convergence: Convergence) -> None:
    figure = figure_of(chapter, "improvement")
    assert figure.title.startswith("4 of 8 runs had plateaued by step")
    assert "n = 8 runs" in figure.subtitle and "±0.03" in figure.subtitle and "95% t interval" in figure.subtitle
    by_run = {run.run: run for run in convergence.runs}
    for row in figure.frame.to_dicts():
        run: RunConvergence = by_run[row["run"]]
        assert run.improvement is not None and row["group"] == run.state
        assert (row["value"], row["low"], row["high"]) == (
            run.improvement.value, run.improvement.low, run.improvement.high
        )  # fmt: skip
    assert figure.frame["group"].to_list() == ["improving"] * 2 + ["plateaued"] * 4 + ["U-turned"] * 2
    for part in figure.frame.partition_by("group"):
        assert part["value"].is_sorted(descending=True)
    [points], [bars] = layers(figure, "point"), layers(figure, "rule")
    assert {"x": "value", "y": "place", "color": "group", "description": "mark"}.items() <= fields(points).items()
    assert {"x": "low", "x2": "high", "y": "place", "description": "mark"}.items() <= fields(bars).items()
    colours = points["encoding"]["color"]["scale"]
    assert dict(zip(colours["domain"], colours["range"], strict=True)) == {
        "improving": ACCENT, "plateaued": ACCENT, "U-turned": WARNING
    }  # fmt: skip
    rules = [
        layer["encoding"]["x"]["datum"] for layer in figure.spec(WIDE)["layer"] if "datum" in layer["encoding"]["x"]
    ]
    assert sorted(rules) == [-TOLERANCE, 0, TOLERANCE]


def test_times_lie_where_the_evaluations_do(chapter: Chapter, snapshot: Snapshot, convergence: Convergence) -> None:
    target = target_loss(snapshot)
    assert target is not None and convergence.target == target
    figure = figure_of(chapter, "time_to_target")
    reached = figure.frame.filter(pl.col("group") == "reached")["value"]
    first, last = reached.to_list()[0], max(reached)
    assert first < last and reached.is_sorted()
    assert figure.title == f"6 of 8 runs reached {target:g} nats, after {first:g} to {last:g} steps"
    for row in figure.frame.to_dicts():
        evals = snapshot.results.evals(row["run"])
        below = evals.filter(pl.col("val_loss") <= target)["step"]
        if below.is_empty():
            assert (row["group"], row["value"], row["low"]) == ("missed", 400, None)
        else:
            assert (row["group"], row["value"], row["low"]) == ("reached", below[0], below[0] - 25)
            assert row["high"] == row["value"]
    assert figure.frame["group"].to_list() == ["reached"] * 6 + ["missed"] * 2
    [points], [bars] = layers(figure, "point"), layers(figure, "rule")
    assert (fields(points)["x"], fields(bars)["x"], fields(bars)["x2"]) == ("value", "low", "high")
    assert points["encoding"]["shape"]["condition"] == [{"test": "datum.group == 'missed'", "value": "triangle-right"}]
    assert points["encoding"]["color"]["scale"]["range"] == [ACCENT, GREY]


def test_marks_are_found_by_the_key_of_their_configuration(
    chapter: Chapter, snapshot: Snapshot, convergence: Convergence
) -> None:
    """A page looks for `c1 · ` at the beginning, and shows the rest where a reader points."""
    improvement, target = (dict(figure.frame.select("run", "mark").iter_rows()) for figure in chapter.figures)
    for run in convergence.runs:
        label = f"{snapshot.keys[run.run]} · {snapshot.labels[run.run]}"
        assert run.improvement is not None and run.to_target is not None
        value = f"{run.improvement.value:+.4f}".replace("-", "−")
        assert improvement[run.run].startswith(f"{label}: {run.state}, {value} [")
        got_there = "reached" if run.to_target.reached else "not reached"
        assert target[run.run] == f"{label}: {got_there} in {run.to_target.step:g} steps"
    assert all(figure.frame["text"][0] == snapshot.labels[figure.frame["run"][0]] for figure in chapter.figures)


def test_tables_hold_what_was_estimated(chapter: Chapter, convergence: Convergence, snapshot: Snapshot) -> None:
    shares, by_run = chapter.tables
    assert [row[:3] for row in shares.cells()] == [
        ["improving", "2", "8"], ["plateaued", "4", "8"], ["U-turned", "2", "8"], ["diverged", "0", "8"],
        ["inconclusive", "0", "8"],
        [f"reached {convergence.target:g} nats", "6", "8"],
    ]  # fmt: skip
    half = convergence.shares["plateaued"]
    assert half.low is not None and half.high is not None
    assert shares.cells()[1][3] == f"50 % [{100 * half.low:.3g} %, {100 * half.high:.3g} %]"
    for row, run in zip(by_run.frame.to_dicts(), convergence.runs, strict=True):
        assert run.improvement is not None and run.rise is not None and run.to_target is not None
        assert (row["run"], row["label"], row["state"]) == (run.run, snapshot.labels[run.run], run.state)
        assert (row["improvement"], row["improvement_low"], row["improvement_n"]) == (
            run.improvement.value, run.improvement.low, run.improvement.n
        )  # fmt: skip
        assert (row["rise"], row["rise_high"], row["plateau_step"]) == (run.rise.value, run.rise.high, run.plateau_step)
        assert (row["best_loss"], row["best_step"], row["final_loss"], row["final_gap"], row["last_step"]) == (
            run.best_loss, run.best_step, run.final_loss, run.final_gap, run.last_step
        )  # fmt: skip
        reached = run.to_target if run.to_target.reached else None
        assert row["target_evaluated_step"] == (reached.step if reached else None)
        assert (row["tokens_to_target"], row["flops_to_target"], row["seconds_to_target"]) == (
            (reached.tokens, reached.flops, reached.seconds) if reached else (None, None, None)
        )
    first = convergence.runs[0].improvement
    assert first is not None and first.low is not None and first.high is not None
    assert by_run.cells()[0][3] == f"+{first.value:.4f} [+{first.low:.4f}, +{first.high:.4f}]"
    heads = [column.head for column in by_run.columns]
    assert heads[:4] == ["run", "levels", "state", "nats per doubling [95%]"]
    assert heads[-4:] == [f"evaluated at or below {convergence.target:g} at step", "tokens", "FLOPs", "time"]
    assert by_run.cells()[-1][-4:] == ["–"] * 4  # it never got there


def test_a_terminal_shows_every_column_and_every_caution(chapter: Chapter, convergence: Convergence) -> None:
    text = chapter_as_text(chapter)
    assert max(map(len, text.splitlines())) <= 110
    for column in chapter.tables[1].columns:
        assert column.head in text
    row = chapter.tables[1].cells()[0]
    assert all(cell in text for cell in row)
    folded = " ".join(text.split())
    assert {"step_zero", "chosen_target"} <= {caution.code for caution in convergence.cautions}
    for caution in convergence.cautions:
        assert caution.text in folded


@pytest.mark.parametrize("total", [17, 1200])
def test_of_many_runs_some_of_every_group_are_drawn(convergence: Convergence, total: int) -> None:
    states = ["U-turned"] * 7 + ["improving"] * (total - 7)
    many = copies(convergence, states)
    spread = tuple(
        replace(run, improvement=replace(run.improvement, value=0.001 * i))
        for i, run in enumerate(many.runs)
        if run.improvement
    )
    chapter = convergence_chapter(replace(many, runs=spread))
    figure = figure_of(chapter, "improvement")
    drawn = figure.frame.group_by("group").len()
    of_group = dict(drawn.iter_rows())
    assert of_group["U-turned"] == 7 and of_group["improving"] == min(total - 7, round(MAX_DRAWN * (total - 7) / total))
    assert MIN_DRAWN > 7 and ("at even ranks" in figure.subtitle) == (total > MAX_DRAWN)
    improving = figure.frame.filter(pl.col("group") == "improving")
    assert (improving["value"][0], improving["value"][-1]) == (0.001 * (total - 1), 0.007)
    assert improving["named"].to_list() == [True, *[False] * (len(improving) - 2), True]
    assert f"{total - 7:,} of {total:,} runs were still improving" in figure.title
    assert len(chapter.tables[1].frame) == total


@pytest.mark.parametrize("total", [8, 300])
@pytest.mark.parametrize("width", [WIDE, NARROW])
def test_words_have_room(convergence: Convergence, total: int, width: int) -> None:
    """No label is nearer than its height to the one above, and none is wider than the figure."""
    many = copies(convergence, ["improving", "plateaued", "U-turned"] * (total // 3))
    many = replace(many, runs=tuple(replace(run, run=run.run + "x" * 300) for run in many.runs))
    figure = figure_of(convergence_chapter(many), "improvement")
    spec = figure.spec(width)
    texts = [layer for layer in spec["layer"] if layer["mark"]["type"] == "text"]
    assert spec["width"] == width and all(layer["mark"]["limit"] < width for layer in texts)
    heads = [row["place"] for row in spec["datasets"][texts[0]["data"]["name"]]]
    places = sorted([*heads, *(place - 4 for place in figure.frame.filter("named")["place"])])
    assert min(np.diff(places)) >= 12 and places[0] >= 10
    assert figure.frame["place"].is_sorted() and figure.frame["place"].n_unique() == len(figure.frame)
    assert b"</svg>" in as_image(figure, width, "svg")


def test_a_plain_table_is_called_by_its_runs() -> None:
    step = np.arange(100.0, 2001, 100)
    rows = [
        pl.DataFrame({"run": name, "step": step[:n], "loss": 1.5 + 2 * (step[:n] / 100) ** -0.4})
        for name, n in (("long" * 75, 20), ("short", 10))
    ]
    chapter = convergence_chapter(analyse_convergence(pl.concat(rows), target=2.2))
    assert "in the fastest run (longlong" in chapter.answer[1] and "…)" in chapter.answer[1]
    assert max(map(len, chapter.answer)) < 250
    assert "levels" not in [column.head for column in chapter.tables[1].columns]
    assert {mark.split(":")[0] for mark in figure_of(chapter, "improvement").frame["mark"]} == {"short", "long" * 75}


def no_evaluations(convergence: Convergence) -> Convergence:
    runs = tuple(
        replace(run, improvement=None, rise=None, windows=(), state="inconclusive") for run in convergence.runs
    )
    shares = {state: proportion(8 if state == "inconclusive" else 0, 8) for state in convergence.shares}
    return replace(convergence, runs=runs, shares=shares)


def nobody_reached(convergence: Convergence) -> Convergence:
    missed = TimeToTarget(False, 400, None, None, None, None)
    runs = tuple(replace(run, to_target=missed) for run in convergence.runs)
    return replace(convergence, runs=runs, reached=proportion(0, 8))


@pytest.mark.parametrize(
    ("change", "figures", "words"),
    [
        (no_evaluations, ["time_to_target"], "8 of 8 runs are too noisy or have too few evaluations to tell."),
        (nobody_reached, ["improvement"], "No run reached"),
        (
            lambda c: replace(c, target=None, reached=None, gap=None),
            ["improvement"],
            "2 of 8 runs",
        ),
    ],
)
def test_what_is_not_there_is_not_drawn(
    convergence: Convergence, change: Callable[[Convergence], Convergence], figures: list[str], words: str
) -> None:
    chapter = convergence_chapter(change(convergence))
    assert [figure.name for figure in chapter.figures] == figures
    assert words in " ".join(chapter.answer)
    chapter_as_text(chapter)


def test_one_run_and_one_that_ends_in_nan_are_sentences() -> None:
    step = np.arange(100.0, 2001, 100)
    loss = 1.5 + 2 * (step / 100) ** -0.4
    one = convergence_chapter(analyse_convergence(pl.DataFrame({"run": "a", "step": step, "loss": loss}), target=2.5))
    assert one.answer[0].startswith("1 of 1 run was still improving when it stopped, by 0.19 nats")
    assert one.answer[1] == "The run reached 2.5 nats after 600 steps."
    loss[-1] = math.nan
    lost = convergence_chapter(analyse_convergence(pl.DataFrame({"run": "a", "step": step, "loss": loss})))
    assert lost.answer[0] == "1 of 1 run diverged: its loss jumped and stayed or is not finite."
    assert any("end with a loss that is not finite" in detail for detail in lost.details)


def test_what_cannot_be_given_is_said() -> None:
    chapter = convergence_chapter(Diagnostic("no_runs", "blocks", "No run is done.", "Wait for one."))
    assert chapter.answer == ["No run is done.", "Wait for one."] and not chapter.figures and not chapter.tables
