"""The interactive part of the page: what its data block holds, and what a browser does with it."""

from __future__ import annotations

import json
import zlib
from base64 import b64decode
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from scipy import stats

from isoloss.report.chapters.method import method_chapter
from isoloss.report.chapters.runs import runs_chapter
from isoloss.report.page import render_page, render_section
from isoloss.report.payload import MAX_SAMPLE, as_planes, payload
from isoloss.report.snapshot import Snapshot, take_snapshot
from isoloss.store.curve_tables import ThinnedCurves
from isoloss.store.tables import StudyResults
from isoloss.study import compute
from isoloss.study.config import RunConfig
from isoloss.study.identity import run_id
from isoloss.study.study import Study
from tests.fake_studies import fake_study

WORST = "<img src=x onerror=alert(1)></script><script>alert(2)</script>"


BASE = {"max_iters": 60, "eval_interval": 5, "warmup_iters": 10}


def curve(config: RunConfig, number: int, step: int) -> float:
    """Wider is better; seeds differ, and more so in some configurations."""
    return 3.0 - config.n_embd / 100 + config.dropout + (number * number % 7) / 1000 + 1.5 / (1 + step)


def three_seeds(**factors: tuple[Any, ...]) -> Study:
    return Study("widths", "a text", base=BASE, factors=factors, seeds=(1, 2, 3))


@pytest.fixture(scope="module")
def results(tmp_path_factory: pytest.TempPathFactory) -> StudyResults:
    """Two widths by three dropouts by three seeds; one run failed, one never began."""
    study = three_seeds(n_embd=(64, 128), dropout=(0.0, 0.1, 0.2))
    folder = tmp_path_factory.mktemp("studies") / "widths"
    return fake_study(folder, study, {4: ("failed", WORST), 17: ("pending", "")}, curve)


@pytest.fixture(scope="module")
def snapshot(results: StudyResults) -> Snapshot:
    return take_snapshot(results)


def data_of(snapshot: Snapshot) -> str:
    return payload(snapshot, *runs_chapter(snapshot).tables)


def unpacked(text: str) -> dict[str, Any]:
    """The data block as its reader sees it, with the curves of each run by column."""
    packed = zlib.decompress(b64decode(text, validate=True))
    length = int.from_bytes(packed[:4], "little")
    data, place = json.loads(packed[4 : 4 + length]), 4 + length
    for header in data["curves"].values():
        lengths = [len(header["grids"][grid]) for grid in header["grid"]]
        for column in header["columns"]:
            planes = np.frombuffer(packed[place : place + 3 * sum(lengths)], np.uint8).reshape(3, -1).astype(np.uint32)
            values = (planes[0] << 24 | planes[1] << 16 | planes[2] << 8).view(np.float32)
            header[column] = np.split(values, np.cumsum(lengths)[:-1])
            place += planes.size
    assert place == len(packed)
    return data


def column(table: dict[str, Any], name: str) -> dict[str, Any]:
    return next(column for column in table["columns"] if column["name"] == name)


def test_the_data_block_has_every_runs_curves(results: StudyResults, snapshot: Snapshot) -> None:
    data = unpacked(data_of(snapshot))
    assert sorted(data["runs"]["id"]) == sorted(map(run_id, results.configs))
    for number, run in enumerate(data["runs"]["id"]):
        evals, steps = results.evals(run), results.metrics(run)
        for set_, table, columns in (("evals", evals, ("train_loss", "val_loss")), ("steps", steps, ("loss", "lr"))):
            header = data["curves"][set_]
            assert header["grids"][header["grid"][number]] == table["step"].to_list()
            for name in columns:
                assert header[name][number] == pytest.approx(table[name].to_list(), rel=2e-5)
        elapsed = [0.0, *steps["step_time_s"].cum_sum().to_list()[:-1]] if len(steps) else []
        assert data["curves"]["steps"]["seconds"][number] == pytest.approx(elapsed, rel=1e-4)


def test_the_data_block_says_what_each_run_is(results: StudyResults, snapshot: Snapshot) -> None:
    data = unpacked(data_of(snapshot))
    configs = {run_id(config): config for config in results.configs}
    levels = {factor["name"]: factor for factor in data["factors"]}
    assert list(levels) == ["n_embd", "dropout"]  # the larger effect first
    for number, run in enumerate(data["runs"]["id"]):
        config, configuration = configs[run], data["runs"]["configuration"][number]
        for name, factor in levels.items():
            assert factor["numbers"][factor["level"][configuration]] == getattr(config, name)
        assert data["runs"]["tokens"][number] == compute.tokens_per_step(config)
        assert data["runs"]["flops"][number] * config.max_iters == compute.train_flops(config)


def test_seeds_that_are_factors_are_no_axis(tmp_path: Path) -> None:
    study = Study("s", "a text", base=BASE, factors={"n_embd": (32, 64), "init_seed": (1, 2, 3), "data_seed": (1, 2)})
    seeds = take_snapshot(fake_study(tmp_path, study, {}, curve))
    numbers = {factor["name"]: factor["numbers"] for factor in unpacked(data_of(seeds))["factors"]}
    assert numbers == {"n_embd": [32, 64], "init_seed": None, "data_seed": None}
    said = " ".join(method_chapter(seeds).details)
    assert "here init_seed {1, 2, 3} and data_seed {1, 2}" in said


def test_whole_levels_of_a_setting_that_is_none_are_those_of_its_runs(tmp_path: Path) -> None:
    data = unpacked(data_of(take_snapshot(fake_study(tmp_path, three_seeds(dropout=(0, 0.1)), {}, curve))))
    [dropout] = data["factors"]
    assert dropout["levels"] == ["0.0", "0.1"] and sorted(dropout["level"]) == [0, 1]


def test_configurations_are_ranked_by_the_mean_over_seeds_with_its_t_interval(snapshot: Snapshot) -> None:
    table = runs_chapter(snapshot).tables[0]
    assert table.frame["mean"].drop_nulls().is_sorted()
    rows = snapshot.table.filter(status="done")
    for row in table.frame.iter_rows(named=True):
        losses = rows.filter(key=row["key"])["best_val_loss"].to_numpy()
        low, high = stats.t.interval(0.95, len(losses) - 1, losses.mean(), stats.sem(losses))
        assert (row["mean"], row["low"], row["high"]) == pytest.approx((losses.mean(), low, high))
        assert (row["n"], row["sd"]) == (len(losses), pytest.approx(losses.std(ddof=1)))
    shown = column(unpacked(data_of(snapshot))["configurations"], "mean")
    first = table.frame.row(0, named=True)
    assert shown["words"][0] == f"{first['mean']:.4f} [{first['low']:.4f}, {first['high']:.4f}]"
    assert shown["numbers"] == pytest.approx(table.frame["mean"].to_list(), rel=1e-6)


def test_size_leaves_out_embeddings_where_the_context_is_a_factor(tmp_path: Path) -> None:
    study = three_seeds(block_size=(8, 16))
    tables = runs_chapter(take_snapshot(fake_study(tmp_path / "s", study, {}))).tables
    for table in tables:
        size = next(column for column in table.columns if column.kind == "si")
        assert (size.name, size.title) == ("params_non_embedding", "non-embedding parameters")
        assert table.frame[size.name].n_unique() == 1


@given(arrays(np.float32, 20, elements=st.floats(width=32, allow_nan=True, allow_infinity=True)))
def test_planes_keep_fifteen_bits_of_a_float(values: np.ndarray[Any, Any]) -> None:
    planes = np.frombuffer(as_planes(values), np.uint8).reshape(3, -1).astype(np.uint32)
    back = (planes[0] << 24 | planes[1] << 16 | planes[2] << 8).view(np.float32)
    largest = np.float32(3.3e38)
    np.testing.assert_allclose(back.clip(-largest, largest), values.clip(-largest, largest), rtol=1.6e-5, atol=1e-40)


def test_many_runs_have_fewer_points_and_keep_both_ends(
    snapshot: Snapshot, results: StudyResults, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("isoloss.report.payload.ALL_POINTS", 0)
    data = unpacked(data_of(snapshot))
    done = data["runs"]["id"].index(run_id(results.configs[0]))
    for header in data["curves"].values():
        grid = header["grids"][header["grid"][done]]
        assert (len(grid) <= 16, grid[0], grid == sorted(set(grid))) == (True, 0, True)
    assert data["curves"]["steps"]["grids"][data["curves"]["steps"]["grid"][done]][-1] == 59


def test_the_same_study_gives_the_same_text(results: StudyResults, snapshot: Snapshot) -> None:
    assert data_of(snapshot) == data_of(take_snapshot(results))


def test_samples_are_cut(snapshot: Snapshot, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(StudyResults, "samples", lambda self, run: "x" * (MAX_SAMPLE + 1))
    assert {len(text) for text in unpacked(data_of(snapshot))["samples"].values()} == {MAX_SAMPLE}


def test_a_study_without_results_says_so(tmp_path: Path) -> None:
    snapshot = take_snapshot(
        fake_study(tmp_path / "s", three_seeds(n_embd=(64, 128)), dict.fromkeys(range(6), ("pending", "")))
    )
    assert runs_chapter(snapshot).answer == ["No run is done yet."]
    assert column(unpacked(data_of(snapshot))["configurations"], "mean")["numbers"] == [None, None]


# ---- in a browser


@pytest.fixture(scope="module")
def page(snapshot: Snapshot, tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("page") / "index.html"
    marks = "".join(f'<path aria-label="c{i} · n_embd 1: 2.0"/>' for i in range(1, 7))  # as figures of the page have
    text = render_page("widths", [render_section(runs_chapter(snapshot))], data=data_of(snapshot))
    path.write_text(text.replace("</main>", f"<figure><svg>{marks}</svg></figure></main>"), encoding="utf-8")
    return path


@pytest.fixture
def opened(browser: Any, page: Path) -> Iterator[Callable[..., Any]]:
    """Runs a script's expression on the page, freshly opened; at the end nothing may have been refused or failed."""
    browser.get_log("browser")
    _resize(browser, 1280)
    browser.get(page.as_uri())
    _wait(browser, "document.documentElement.dataset.ready")

    def run(expression: str, *arguments: Any) -> Any:
        return browser.execute_script(f"return {expression}", *arguments)

    yield run
    assert [line["message"] for line in browser.get_log("browser") if "favicon" not in line["message"]] == []


def _resize(browser: Any, width: int) -> None:
    metrics = {"width": width, "height": 1000, "deviceScaleFactor": 1, "mobile": False}
    browser.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", metrics)


def _wait(browser: Any, condition: str) -> None:
    from selenium.webdriver.support.ui import WebDriverWait

    WebDriverWait(browser, 30).until(lambda driver: driver.execute_script(f"return {condition}"))


def choose(run: Callable[..., Any], name: str, value: str | bool) -> None:
    """Set a menu or a box of the page."""
    what = "checked" if isinstance(value, bool) else "value"
    run(f"document.querySelector('[name={name}]').{what} = arguments[0]", value)
    run(f"document.querySelector('[name={name}]').dispatchEvent(new Event('change'))")


def open_chart(run: Callable[..., Any], browser: Any, chart: str) -> None:
    run("document.querySelector('.tabs').scrollIntoView()")
    _wait(browser, "document.querySelector('#chart').dataset.shows")
    run("document.querySelector(`.tabs input[value=${arguments[0]}]`).click()", chart)
    _wait(browser, f"document.querySelector('#chart').dataset.shows === '{chart}'")


def rows_of(run: Callable[..., Any], table: str) -> list[list[str]]:
    return run(f"[...document.querySelectorAll('#{table} tbody tr')].map(r => [...r.cells].map(c => c.textContent))")


LINES = """isoloss.lines().map(line => ({...line, x: [...line.x], y: [...line.y], low: line.low && [...line.low]}))"""
PIXELS = "document.querySelector('#curves canvas').toDataURL()"


def test_curves_are_means_over_seeds_against_what_is_chosen(
    opened: Callable[..., Any], results: StudyResults, snapshot: Snapshot
) -> None:
    data = unpacked(data_of(snapshot))
    lines = opened(LINES)
    assert len(lines) == 6
    for line in lines:
        members = [i for i, c in enumerate(data["runs"]["configuration"]) if c == line["configuration"]]
        curves = [results.evals(data["runs"]["id"][i]) for i in members]
        longest = max(curves, key=len)
        there = [[c["val_loss"][i] for c in curves if len(c) > i] for i in range(len(longest))]
        assert line["x"] == longest["step"].to_list()
        assert line["y"] == pytest.approx([np.mean(values) for values in there], rel=2e-5)
        assert line["low"] == pytest.approx([min(values) for values in there], rel=2e-5)


@pytest.mark.parametrize("against", ["tokens", "flops", "seconds"])
def test_single_runs_lie_on_the_chosen_axes(
    opened: Callable[..., Any], results: StudyResults, snapshot: Snapshot, against: str
) -> None:
    data, configs = unpacked(data_of(snapshot)), {run_id(config): config for config in results.configs}
    for name, value in (("single", True), ("quantity", "lr"), ("against", against)):
        choose(opened, name, value)
    lines = opened(LINES)
    assert len(lines) == 17  # one has not begun
    for line in lines:
        run = data["runs"]["id"][line["run"]]
        steps, config = results.metrics(run), configs[run]
        tokens = steps["step"] * compute.tokens_per_step(config)
        elapsed = steps["step_time_s"].cum_sum() - steps["step_time_s"]
        x = {"tokens": tokens, "flops": tokens * compute.flops_per_token(config), "seconds": elapsed}[against]
        assert line["x"] == pytest.approx(x.to_list(), rel=1e-4, abs=1e-9)
        assert line["y"] == pytest.approx(steps["lr"].to_list(), rel=2e-5)


def test_colour_by_seed_shows_single_runs(opened: Callable[..., Any]) -> None:
    choose(opened, "colour", "seed")
    assert len(opened(LINES)) == 17
    assert opened("document.querySelector('.legend').innerText.split(/\\s+/)")[:4] == ["seed", "1", "2", "3"]


def test_a_table_is_sorted_filtered_and_searched(opened: Callable[..., Any], browser: Any) -> None:
    ranked = rows_of(opened, "configurations")
    assert [row[1] for row in ranked] == list("123456")
    head = browser.find_elements("css selector", "#configurations thead th")[4]
    for order in ("ascending", "descending"):  # the table is sorted after a click, not by it
        head.click()
        _wait(browser, f"document.querySelectorAll('#configurations thead th')[4].ariaSort === '{order}'")
    losses = [float(row[4].split()[0]) for row in rows_of(opened, "configurations")]
    assert losses == sorted(losses, reverse=True)

    search = browser.find_element("css selector", "#runs_wrapper input[type=search]")
    search.send_keys("failed")
    assert [row[5] for row in rows_of(opened, "runs")] == ["failed"]
    search.clear()
    search.send_keys("zzz")
    assert len(rows_of(opened, "runs")[0]) == 1  # "no matching records"

    menus = browser.find_elements("css selector", "#configurations thead .dtcc-button_dropdown")
    browser.execute_script("arguments[0].click()", menus[0])
    choices = browser.find_elements("css selector", ".dtcc-dropdown .dtcc-list-buttons button")
    assert [choice.text for choice in choices] == ["64", "128"]
    browser.execute_script("arguments[0].click()", choices[0])
    assert {row[2] for row in rows_of(opened, "configurations")} == {"64"}


def test_what_is_selected_in_a_table_shows_in_every_chart(
    opened: Callable[..., Any], browser: Any, snapshot: Snapshot
) -> None:
    open_chart(opened, browser, "sweep")
    chart = "document.querySelector('#chart canvas').toDataURL()"
    before, chart_before = opened(PIXELS), opened(chart)
    opened("document.querySelector('#configurations tbody tr').click()")
    best = runs_chapter(snapshot).tables[0].frame["key"][0]
    assert sorted(opened("isoloss.selected()")) == sorted(snapshot.table.filter(key=best)["run_id"])
    assert (opened(PIXELS) != before, opened(chart) != chart_before) == (True, True)
    dimmed = "[...document.querySelectorAll('svg .dimmed')].map(p => p.getAttribute('aria-label').split(' ')[0])"
    assert sorted(opened(dimmed)) == [f"c{i}" for i in range(1, 7) if f"c{i}" != best]
    selected_runs = "[...document.querySelectorAll('#runs tr.selected')].map(r => r.cells[1].textContent)"
    assert sorted(opened(selected_runs)) == sorted(snapshot.table.filter(key=best)["run_id"])
    browser.find_element("css selector", ".selection button").click()
    assert (opened("isoloss.selected()"), opened(PIXELS)) == ([], before)


def test_text_of_a_study_stays_text(opened: Callable[..., Any]) -> None:
    cells = [cell for row in rows_of(opened, "runs") for cell in row]
    opened("document.querySelector('#runs_wrapper .dt-paging button.last').click()")
    cells += [cell for row in rows_of(opened, "runs") for cell in row]
    assert WORST in cells
    assert opened("document.querySelectorAll('main img').length") == 0


CHARTS = ("sweep", "heat", "parallel", "columns", "compute", "spread", "gap", "samples")


@pytest.mark.parametrize("chart", CHARTS)
def test_every_chart_is_drawn_with_a_finding_for_a_title(opened: Callable[..., Any], browser: Any, chart: str) -> None:
    open_chart(opened, browser, chart)
    title = opened("document.querySelector('#chart').previousSibling.textContent")
    assert {
        "sweep": "The best dropout is 0.0 for every n_embd; the best lies at the edge of the grid",
        "heat": "Lowest where n_embd is 128 and dropout 0.0",
        "parallel": "The best 3 configurations all have n_embd 128",
        "gap": "Train–val gap against final train loss",
        "samples": "No run has kept samples",
    }.get(chart, "(rank correlation ") in title


def drawn_spec(run: Callable[..., Any], browser: Any, chart: str) -> dict[str, Any]:
    """The specification that the page gives to Vega-Lite."""
    keep = "(...all) => { window.spec = all[1]; return embed(...all); }"
    run(f"((embed) => {{ globalThis.vegaEmbed = {keep}; }})(vegaEmbed)")
    open_chart(run, browser, chart)
    return run("window.spec")


@pytest.mark.parametrize(
    ("chart", "kind", "x", "y"),
    [
        ("compute", "runs", "train_flops", "best_val_loss"),
        ("gap", "runs", "final_train_loss", "train_val_gap"),
        ("columns", "runs", "tokens_per_s", "best_val_loss"),
        ("spread", "configurations", "mean", "sd"),
    ],
)
def test_scatter_charts_draw_their_columns(
    opened: Callable[..., Any], browser: Any, snapshot: Snapshot, chart: str, kind: str, x: str, y: str
) -> None:
    (layer,) = (spec := drawn_spec(opened, browser, chart))["layer"]
    assert (layer["encoding"]["x"]["field"], layer["encoding"]["y"]["field"]) == (x, y)
    table = snapshot.done if kind == "runs" else snapshot.configurations.drop_nulls("mean")
    expected = {row["run_id" if kind == "runs" else "key"]: (row[x], row[y]) for row in table.to_dicts()}
    points = {row["key"]: (row[x], row[y]) for row in spec["data"]["values"]}
    assert points.keys() == expected.keys()
    assert all(points[key] == pytest.approx(expected[key], rel=1e-5) for key in expected)
    colours = dict(zip(*(layer["encoding"]["color"]["scale"][part] for part in ("domain", "range")), strict=True))
    assert list(colours) == ["64", "128"]
    assert {row["group"] for row in spec["data"]["values"]} == {"64", "128"}


@pytest.mark.parametrize("chart", ["sweep", "heat"])
def test_cells_are_means_of_configurations(
    opened: Callable[..., Any], browser: Any, snapshot: Snapshot, chart: str
) -> None:
    spec = drawn_spec(opened, browser, chart)
    first, second = ("dropout", "n_embd") if chart == "sweep" else ("n_embd", "dropout")
    means = {(str(r[first]), str(r[second])): r["mean"] for r in snapshot.configurations.to_dicts()}
    assert {(c["a"], c["b"]): c["loss"] for c in spec["data"]["values"]} == pytest.approx(means, rel=1e-6)
    x, y = spec["encoding"]["x"], spec["encoding"]["y"]
    assert (x["field"], x["title"], y["field"]) == (
        ("number", "dropout", "loss") if chart == "sweep" else ("a", "n_embd", "b")
    )
    best = {(c["a"], c["b"]) for c in spec["data"]["values"] if c.get("best")}
    assert best == ({("0.0", "64"), ("0.0", "128")} if chart == "sweep" else set())


def test_parallel_coordinates_place_levels_and_results(
    opened: Callable[..., Any], browser: Any, snapshot: Snapshot
) -> None:
    spec = drawn_spec(opened, browser, "parallel")
    titles = next(param["value"] for param in spec["params"] if param["name"] == "titles")
    lines, ticks = (layer["data"]["values"] for layer in spec["layer"])
    rows = {row["key"]: row for row in snapshot.configurations.to_dicts()}
    means = snapshot.configurations["mean"].to_numpy()
    low, high = means.min(), means.max()
    for line in lines:
        row, title = rows[line["key"]], titles[line["axis"]]
        if title == "n_embd":
            assert line["place"] == (row["n_embd"] == 128)
        if title == "mean best val loss":
            assert line["place"] == pytest.approx((row["mean"] - low) / (high - low), abs=1e-5)
    assert [(t["word"], t["place"]) for t in ticks if titles[t["axis"]] == "dropout"] == [
        ("0.0", 0), ("0.1", 0.5), ("0.2", 1)
    ]  # fmt: skip


def test_other_data_keeps_selection_filters_and_axes(
    opened: Callable[..., Any], browser: Any, snapshot: Snapshot, tmp_path: Path
) -> None:
    choose(opened, "quantity", "train_loss")
    opened("document.querySelector('#configurations tbody tr').click()")
    browser.find_element("css selector", "#runs_wrapper input[type=search]").send_keys("128")
    picked = opened("isoloss.selected()")
    changed = fake_study(
        tmp_path / "s", snapshot.study, {}, lambda config, number, step: 1 + curve(config, number, step)
    )
    browser.execute_async_script("isolossUpdate(arguments[0]).then(arguments[1])", data_of(take_snapshot(changed)))
    assert sorted(opened("isoloss.selected()")) == sorted(picked)
    assert opened("document.querySelector('[name=quantity]').value") == "train_loss"
    assert {row[2] for row in rows_of(opened, "runs")} == {"128"}
    assert all(min(line["y"]) > 2 for line in opened(LINES))


def test_a_phone_sees_all_without_scrolling_sideways_and_the_dark_is_dark(
    opened: Callable[..., Any], browser: Any
) -> None:
    _resize(browser, 390)
    _wait(browser, "document.querySelector('#curves').clientWidth < 390")
    assert opened("document.documentElement.scrollWidth") <= 390
    light = opened(PIXELS)
    dark = [{"name": "prefers-color-scheme", "value": "dark"}]
    browser.execute_cdp_cmd("Emulation.setEmulatedMedia", {"features": dark})
    try:
        _wait(browser, "document.documentElement.classList.contains('dark')")
        assert opened(PIXELS) != light
    finally:
        browser.execute_cdp_cmd("Emulation.setEmulatedMedia", {"features": []})


@pytest.mark.parametrize("chart", ["compute", "parallel"])
def test_a_box_drawn_over_a_chart_selects(
    opened: Callable[..., Any], browser: Any, snapshot: Snapshot, chart: str
) -> None:
    from selenium.webdriver import ActionChains

    open_chart(opened, browser, chart)
    canvas = browser.find_element("css selector", "#chart canvas")
    width, height = canvas.size["width"], canvas.size["height"]
    # The left half of compute has the narrower models; the upper half of the first axis of parallel the wider ones.
    left, across, down = (60, width // 2 - 60, height - 120) if chart == "compute" else (12, 150, height // 3)
    start = ActionChains(browser).move_to_element_with_offset(canvas, left - width // 2, 56 - height // 2)
    start.click_and_hold().move_by_offset(across, down).release().perform()
    width_of = dict(snapshot.table.select("run_id", "n_embd").iter_rows())
    assert {width_of[run] for run in opened("isoloss.selected()")} == {64 if chart == "compute" else 128}


def test_a_line_is_named_under_the_pointer_and_by_the_keys(opened: Callable[..., Any], browser: Any) -> None:
    from selenium.webdriver import ActionChains, Keys

    canvas = browser.find_element("css selector", "#curves canvas")
    for _ in range(6):
        canvas.send_keys(Keys.ARROW_DOWN)
    tip = "document.getElementById('tip').innerText"
    assert opened(tip).startswith("n_embd 128 · dropout 0.0\nvalidation loss")
    canvas.send_keys(Keys.ENTER)
    assert len(opened("isoloss.selected()")) == 3
    ActionChains(browser).move_to_element(browser.find_element("css selector", "#curves + p")).perform()
    assert opened("document.getElementById('tip').hidden")


STUDIES: dict[str, tuple[Study, dict[int, Any]]] = {
    "one run": (Study("one", "a text", base=BASE), {}),
    "one failed run": (Study("one", "a text", base=BASE), {0: ("failed", "no memory")}),
    "nothing begun": (three_seeds(n_embd=(64, 128)), dict.fromkeys(range(6), ("pending", ""))),
    "all diverged": (
        three_seeds(n_embd=(64, 128), decay_lr=(True, False)),
        dict.fromkeys(range(12), ("diverged", "nan")),
    ),
    "no finite loss": (three_seeds(n_embd=(64, 128)), {}),
    "different lengths": (Study("s", "a text", factors={"max_iters": (20, 60), "n_embd": (64, 128)}, seeds=(1, 2)), {}),
}


@pytest.mark.parametrize("which", STUDIES)
def test_poor_studies_give_words_and_no_errors(
    browser: Any, tmp_path: Path, which: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    snapshot = take_snapshot(fake_study(tmp_path / "s", *STUDIES[which], curve))
    if which == "no finite loss":
        evals = snapshot.curves.evals.with_columns(val_loss=pl.lit(None, pl.Float64()))
        curves = ThinnedCurves(snapshot.curves.steps, evals, snapshot.curves.positions)
        monkeypatch.setattr(StudyResults, "thinned_curves", lambda self, statuses: curves)
        del snapshot.__dict__["curves"]
    path = tmp_path / "index.html"
    section = render_section(runs_chapter(snapshot))
    path.write_text(render_page("poor", [section], data=data_of(snapshot)), encoding="utf-8")
    browser.get_log("browser")
    browser.get(path.as_uri())
    _wait(browser, "document.documentElement.dataset.ready")

    def run(expression: str, *arguments: Any) -> Any:
        return browser.execute_script(f"return {expression}", *arguments)

    for chart in CHARTS:
        open_chart(run, browser, chart)
        assert run("document.querySelector('#chart').previousSibling.textContent").strip()
    assert "undefined" not in run("document.body.innerText")
    assert [line["message"] for line in browser.get_log("browser")] == []
