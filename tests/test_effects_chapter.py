"""The chapter on effects: what is drawn on which axis of which rows, and what the sentences and tables say."""

from __future__ import annotations

import itertools
import math
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pytest
from scipy import stats

from isoloss.analysis.claim import AdjustedP
from isoloss.analysis.effects import Effects, analyse_effects
from isoloss.analysis.factorial import t_quantile
from isoloss.analysis.levels import cell_spreads
from isoloss.analysis.pairs import paired_effects
from isoloss.diagnostic import Diagnostic
from isoloss.report.chapter import Chapter, chapter_as_text
from isoloss.report.chapters.effects import effects_chapter
from isoloss.report.chart import NARROW, WIDE, Figure
from isoloss.report.effects_words import effects_view, leading
from isoloss.report.findings import find
from isoloss.report.response import response_of, short
from isoloss.report.snapshot import take_snapshot
from isoloss.study.config import RunConfig
from isoloss.study.hypotheses import EffectStated
from isoloss.study.study import Study
from tests.fake_studies import fake_study

LOSS = "best_val_loss"


def grid(levels: dict[str, tuple[Any, ...]], seeds: int = 3) -> pl.DataFrame:
    cells = itertools.product(*levels.values())
    return pl.DataFrame(
        [{**dict(zip(levels, cell, strict=True)), "seed": seed} for cell in cells for seed in range(seeds)]
    )


def measured(table: pl.DataFrame, mean: Any, name: str = LOSS, sd: float = 0.004) -> pl.DataFrame:
    noise = np.random.default_rng(0).normal(0, sd, len(table))
    values = [float(mean(row)) + e for row, e in zip(table.to_dicts(), noise, strict=True)]
    return table.with_columns(pl.Series(name, values))


def cube(row: dict[str, Any]) -> float:
    wide, dropped = row["n_embd"] == 64, row["dropout"] == 0.2
    return 2.0 - 0.2 * wide + 0.1 * dropped + 0.02 * (wide == dropped)


def sweep(row: dict[str, Any]) -> float:
    best = -2.5 - 0.35 * math.log2(row["n_embd"] / 32)
    return 1.8 - 0.1 * math.log2(row["n_embd"] / 32) + 0.12 * (math.log10(row["learning_rate"]) - best) ** 2


CUBE = measured(grid({"n_embd": (32, 64), "dropout": (0.0, 0.2), "n_head": (2, 4)}), cube)
SWEEP = measured(grid({"learning_rate": (1e-4, 3e-4, 1e-3, 3e-3, 1e-2, 3e-2), "n_embd": (32, 64, 128)}), sweep)


def analysed(
    table: pl.DataFrame, factors: list[str], response: str = LOSS, block: str | None = "seed"
) -> tuple[Effects, Chapter]:
    effects = analyse_effects(table, response, factors, block)
    return effects, effects_chapter(effects, table, pairs=paired_effects(table, response, factors, block))


@pytest.fixture(scope="module")
def cubed() -> tuple[Effects, Chapter]:
    return analysed(CUBE, ["n_embd", "dropout", "n_head"])


@pytest.fixture(scope="module")
def swept() -> tuple[Effects, Chapter]:
    return analysed(SWEEP, ["learning_rate", "n_embd"])


def figure(chapter: Chapter, name: str) -> Figure:
    return next(figure for figure in chapter.figures if figure.name == name)


def layers(spec: dict[str, Any]) -> Iterator[tuple[dict[str, Any], list[dict[str, Any]]]]:
    """Every layer of a chart with the rows it is drawn from, panels in their order."""

    def inside(node: dict[str, Any], rows: list[dict[str, Any]]) -> Iterator[tuple[Any, Any]]:
        data = node.get("data", {})
        rows = data.get("values", spec.get("datasets", {}).get(data.get("name"), rows))
        children = [child for key in ("layer", "concat", "hconcat", "vconcat") for child in node.get(key, [])]
        for child in children:
            yield from inside(child, rows)
        if not children:
            yield node, rows

    yield from inside(spec, [])


def drawn(figure: Figure, mark: str, width: int = WIDE) -> list[tuple[dict[str, Any], list[dict[str, Any]]]]:
    """Encodings and rows of the layers with a mark."""
    found = layers(figure.spec(width))
    return [(node["encoding"], list(rows)) for node, rows in found if node["mark"]["type"] == mark]


def fields(encoding: dict[str, Any]) -> dict[str, str]:
    return {
        channel: value["field"] for channel, value in encoding.items() if isinstance(value, dict) and "field" in value
    }


def test_the_answer_ranks_factors_in_plain_words(cubed: tuple[Effects, Chapter]) -> None:
    effects, chapter = cubed
    first, others, interaction = chapter.answer
    wide = effects.effects[0].estimate
    assert wide is not None and wide.low is not None and wide.high is not None
    assert first == (
        f"n_embd matters most: 64 instead of 32 lowers the best validation loss by {-wide.value:.3f} nats "
        f"(95% interval {-wide.high:.3f} to {-wide.low:.3f})."
    )
    assert others.startswith("Then dropout: 0.0 instead of 0.2 lowers the best validation loss by 0.1")
    assert "No effect of n_head was shown: to be found in 4 of 5 studies like this it would have to exceed" in others
    assert others.endswith(f" {effects.effects[2].detectable:.2g} nats.")
    assert interaction.startswith("The effect of n_embd depends on dropout: 64 instead of 32 changes the best")
    assert not re.search(r"Holm|Lenth|df|Scheff|p =|pure error", " ".join(chapter.answer))
    assert any("Holm 1979" in sentence for sentence in chapter.details)


def test_the_answer_names_the_best_level_and_what_it_depends_on(swept: tuple[Effects, Chapter]) -> None:
    first, then, depends = swept[1].answer
    assert first.startswith(
        "learning_rate matters most: 0.001, the best of 6 levels, lowers the best validation loss by"
    )
    assert "against the worst, 0.03. The best validation loss is lowest at a learning rate of 0.001" in first
    assert "edge" not in first
    assert then.startswith("Then n_embd: 128, the best of 3 levels")
    assert depends.startswith(
        "The effect of learning_rate depends on n_embd: the best learning_rate is 0.003 at n_embd 32, 0.001 at "
        "n_embd 64 and 0.001 at n_embd 128. The best learning_rate moves with n_embd by −1.2 doublings per doubling"
    )


@pytest.mark.parametrize(("slope", "beyond"), [(-0.1, "0.01"), (0.1, "0.0001")])
def test_a_best_level_at_the_edge_is_said(slope: float, beyond: str) -> None:
    table = measured(
        grid({"learning_rate": (1e-4, 1e-3, 1e-2), "n_embd": (32, 64)}),
        lambda r: slope * math.log10(r["learning_rate"]),
    )
    _, chapter = analysed(table, ["learning_rate", "n_embd"])
    said = f"The best learning_rate lies at the edge of the levels that were tried: try beyond {beyond}"
    assert said in chapter.answer[0] and figure(chapter, "levels").title == said
    words = table.with_columns(pl.col("learning_rate").cast(pl.String()))
    assert "edge" not in " ".join(analysed(words, ["learning_rate", "n_embd"])[1].answer)


def test_a_factor_does_not_matter_most_beside_a_larger_difference(cubed: tuple[Effects, Chapter]) -> None:
    """A stated effect may be shown where a larger one, looked at among many, is not."""
    adjusted = {"n_embd": AdjustedP(0.19, stated=False), "dropout": AdjustedP(0.03, stated=True)}
    said = leading(effects_view(cubed[0], CUBE, adjusted, None))
    assert said.startswith("dropout is shown to matter: 0.0 instead of 0.2 lowers")
    assert said.endswith("; n_embd has a larger difference, which chance may explain")


def test_a_response_that_no_level_changes_has_no_best_one() -> None:
    """As the validation loss of runs that differ in the average of their weights alone."""
    table = grid({"a": (1, 2)}).with_columns((2 + pl.col("seed") / 10).alias(LOSS))
    assert analysed(table, ["a"])[1].answer[0] == "The best validation loss is the same at all levels."


def test_nothing_shown_is_said_with_what_could_have_been() -> None:
    effects, chapter = analysed(measured(grid({"a": (1, 2), "b": (1, 2)}), lambda _: 2.0), ["a", "b"])
    assert chapter.answer[0].startswith("No factor is shown to matter; ")
    assert "No effect of " in chapter.answer[1] and f"{effects.effects[0].detectable:.2g} nats" in chapter.answer[1]
    assert chapter.answer[2] == "No effect was shown to depend on another factor."
    assert "by no more than chance may explain" in figure(chapter, "levels").title
    assert not any(row["clear"] for row in figure(chapter, "effects").frame.to_dicts())


def test_sizes_are_drawn_largest_first_with_their_own_intervals(cubed: tuple[Effects, Chapter]) -> None:
    effects, chapter = cubed
    sizes = figure(chapter, "effects")
    assert sizes.frame["label"].to_list()[:3] == ["n_embd: 64 − 32", "dropout: 0.2 − 0.0", "n_embd × dropout"]
    estimates = {effect.term: effect.estimate for effect in effects.effects}
    for row in sizes.frame.to_dicts():
        estimate = estimates[row["term"]]
        assert estimate and (row["value"], row["low"], row["high"]) == (estimate.value, estimate.low, estimate.high)
        assert row["clear"] == (row["term"] in ("n_embd", "dropout", "n_embd × dropout"))
    (_, _), (bars, bar_rows) = drawn(sizes, "rule")
    ((dots, rows),) = drawn(sizes, "point")
    assert fields(bars) == {"x": "low", "x2": "high", "y": "label"} and fields(dots) == {"x": "value", "y": "label"}
    assert rows == bar_rows == sizes.frame.to_dicts()
    assert dots["y"]["scale"]["domain"] == sizes.frame["label"].to_list()
    assert dots["fill"]["condition"]["test"] == "datum.clear"
    low, high = dots["x"]["scale"]["domain"]
    reach = max(-sizes.frame["low"].to_numpy().min(), sizes.frame["high"].to_numpy().max())
    assert -2 * reach < low < 0 < high < 2 * reach  # no effect is on the axis, and nothing far from the data
    assert sizes.spec(WIDE)["height"] >= 25 * len(sizes.frame)
    assert sizes.title == chapter.answer[0].rstrip(".")
    assert (
        "n = 24 runs" in sizes.subtitle and "from how each effect differs between seeds, on 2 to 6 df" in sizes.subtitle
    )


def test_more_than_two_levels_are_drawn_by_the_best_and_the_worst(swept: tuple[Effects, Chapter]) -> None:
    effects, chapter = swept
    rows = figure(chapter, "effects").frame.to_dicts()
    span = effects.effects[0].range
    assert span is not None and span.estimate.low is not None and span.estimate.high is not None
    assert [row["label"] for row in rows] == ["learning_rate: 0.001 − 0.03", "n_embd: 128 − 32"]
    assert (rows[0]["value"], rows[0]["low"], rows[0]["high"]) == (
        -span.estimate.value, -span.estimate.high, -span.estimate.low
    )  # fmt: skip


def test_the_largest_difference_allows_for_its_choice(swept: tuple[Effects, Chapter]) -> None:
    effects, _ = swept
    rate = effects.effects[0]
    assert rate.range is not None and rate.error is not None and rate.range.estimate.high is not None
    assert (rate.range.lowest, rate.range.highest) == (0.001, 0.03)
    means = SWEEP.group_by("learning_rate").agg(pl.col(LOSS).mean()).sort("learning_rate")[LOSS]
    assert rate.range.estimate.value == pytest.approx(means[5] - means[2])
    by_seed = SWEEP.pivot("learning_rate", index="seed", values=LOSS, aggregate_function="mean", sort_columns=True)
    means_sxl = by_seed.drop("seed").to_numpy()
    difference = means_sxl[:, 5] - means_sxl[:, 2]
    left_sxl = means_sxl - means_sxl.mean(axis=0) - means_sxl.mean(axis=1, keepdims=True) + means_sxl.mean()
    covariance_lxl = left_sxl.T @ left_sxl / 2
    df = np.trace(covariance_lxl) ** 2 / (covariance_lxl**2).sum()
    average = math.sqrt(2 * np.trace(covariance_lxl) / 5 / 3)
    times = max(stats.t.ppf(0.975, 2), math.sqrt(df * stats.f.ppf(0.95, df, 2 * df)))
    reach = times * max(float(difference.std(ddof=1)) / math.sqrt(3), average)
    assert rate.range.estimate.high - rate.range.estimate.value == pytest.approx(reach)


def test_a_levels_interval_is_that_of_its_own_noise() -> None:
    generator = np.random.default_rng(1)
    noise = {32: 0.001, 64: 0.02, 128: 0.1}
    rows = [{"n_embd": n, LOSS: 2.0 + generator.normal(0, sd)} for n, sd in noise.items() for _ in range(5)]
    effects, chapter = analysed(pl.DataFrame(rows), ["n_embd"], block=None)
    means = figure(chapter, "levels").frame.filter(pl.col("kind") == "mean").sort("number")
    half_widths = effects.effects[0].half_widths
    assert half_widths is not None and half_widths[0] < 0.005 < half_widths[2] and means["number"].to_list() == [*noise]
    assert (means["high"] - means["value"]).to_list() == pytest.approx(half_widths)
    assert (means["value"] - means["low"]).to_list() == pytest.approx(half_widths)


def test_panels_show_means_and_runs_of_each_level(swept: tuple[Effects, Chapter]) -> None:
    effects, chapter = swept
    panels = figure(chapter, "levels")
    error = effects.effects[2].error
    assert error is not None and effects.effects[2].factors == ("learning_rate", "n_embd")
    means = panels.frame.filter(pl.col("kind") == "mean", pl.col("panel") == "learning_rate")
    assert means.height == 18 and means["number"].unique().sort().to_list() == [1e-4, 3e-4, 1e-3, 3e-3, 1e-2, 3e-2]
    reach = t_quantile(0.975, error.df) * error.sd / math.sqrt(3)
    for row in means.to_dicts():
        cell = SWEEP.filter(learning_rate=row["number"], n_embd=int(row["line"]))
        assert row["n"] == 3 and row["value"] == pytest.approx(cell[LOSS].mean())
        assert (row["low"], row["high"]) == pytest.approx((row["value"] - reach, row["value"] + reach))
    best = means.filter("best").sort("line")
    assert best.select("line", "number").rows() == [("128", 0.001), ("32", 0.003), ("64", 0.001)]
    assert not panels.frame.filter(panel="n_embd")["best"].any()  # three levels are no sweep
    spec = panels.spec(WIDE)
    assert len(spec["concat"]) == 2 and spec["columns"] == 2 and panels.spec(NARROW)["columns"] == 1
    assert spec["resolve"]["scale"]["color"] == "independent"
    rate, width = ([node for node, _ in layers(panel | {"datasets": spec.get("datasets")})] for panel in spec["concat"])
    runs, line, interval, dots, ring = rate[:5]
    for node, field in ((runs, "value"), (line, "value"), (interval, "low"), (dots, "value"), (ring, "value")):
        assert fields(node["encoding"])["x"] == "number" and fields(node["encoding"])["y"] == field
        assert node["encoding"]["x"]["scale"]["type"] == "log"
    assert fields(interval["encoding"])["y2"] == "high" and ring["transform"] == [{"filter": "datum.best"}]
    assert fields(line["encoding"])["color"] == "line" and fields(runs["encoding"])["description"] == "description"
    assert width[0]["encoding"]["x"]["scale"]["type"] == "linear"
    domains = {tuple(node["encoding"]["y"]["scale"]["domain"]) for node in (*rate, *width) if "y2" in node["encoding"]}
    assert len(domains) == 1
    singles = panels.frame.filter(kind="run", panel="learning_rate")
    assert sorted(singles["value"]) == sorted(SWEEP[LOSS])
    assert singles["description"][0] == "learning_rate 0.0001 · n_embd 32"


def test_lines_are_labelled_at_their_ends(cubed: tuple[Effects, Chapter]) -> None:
    _, chapter = cubed
    (text, rows), (above, names) = drawn(figure(chapter, "levels"), "text")[:2]
    assert fields(text)["text"] == "line" and fields(above)["text"] == "by"
    assert {row["line"]: row["level"] for row in rows} == {"0.0": "64", "0.2": "64"}
    assert names[0]["by"] == "dropout" and "color" not in text
    titles = [panel["layer"][1]["encoding"]["x"]["title"] for panel in figure(chapter, "levels").spec(WIDE)["concat"]]
    assert titles == ["n_embd", "dropout", "n_head"]
    assert figure(chapter, "levels").title.startswith(
        "The effect of n_embd depends on dropout: 64 instead of 32 changes"
    )


def test_the_title_says_that_one_level_is_best_throughout() -> None:
    def mean(row: dict[str, Any]) -> float:
        return 2 + 0.3 * (row["a"] - 2) ** 2 + 0.05 * row["b"]

    table = measured(grid({"a": (1, 2, 3), "b": (1, 2)}), mean)
    assert figure(analysed(table, ["a", "b"])[1], "levels").title == "a 2 has the best mean at every level of b"


def test_labels_of_lines_do_not_touch_and_words_of_levels_have_room() -> None:
    """Lines end within a thousandth of each other on an axis of 0.5 nats."""
    words = ("a long word", "another word", "the last word")
    table = measured(grid({"w": words, "b": (1, 2, 3)}), lambda r: words.index(r["w"]) * 0.25 + 1e-4 * r["b"], sd=1e-4)
    panels = figure(analysed(table, ["w", "b"])[1], "levels")
    spec = panels.spec(WIDE)
    panel = next(each for each in spec["concat"] if each["layer"][0]["encoding"]["x"]["title"] == "w")
    labels = [rows for node, rows in layers(panel | {"datasets": spec["datasets"]}) if node["mark"]["type"] == "text"]
    low, high = panel["layer"][0]["encoding"]["y"]["scale"]["domain"]
    places = sorted(row["label_y"] for row in labels[0])
    assert len(places) == 3 and min(np.diff(places)) >= 0.99 * 10 * (high - low) / panel["height"]  # the font has 10
    axis = panel["layer"][0]["encoding"]["x"]
    assert axis["scale"]["domain"] == list(words) and axis["axis"]["labelLimit"] * 3 > 0.9 * axis["scale"]["range"][1]


def test_a_heat_map_is_read_on_a_small_range_and_with_many_levels() -> None:
    table = measured(grid({"a": (1, 2), "b": (1, 2, 3, 4, 5), "c": (1, 2)}), lambda r: 2 + 0.01 * r["b"], sd=1e-4)
    cells = figure(analysed(table, list("abc"))[1], "cells")
    rows = {(row["across"], row["down"]): row for row in cells.frame.to_dicts()}
    down = next(iter(rows))[1]
    assert not rows["1", down]["dark"] and rows["5", down]["dark"]  # of a range of 0.04 nats too
    averaged = ({"a", "c"} - {drawn(cells, "rect")[0][0]["y"]["title"]}).pop()
    assert f"averaged over {averaged}; no intervals" in cells.subtitle
    other = figure(analysed(table.filter(c=1), ["a", "b"])[1], "cells")
    assert "averaged" not in other.subtitle
    for each in (cells, figure(analysed(SWEEP, ["learning_rate", "n_embd"])[1], "cells")):
        spec, (encoding, _) = each.spec(WIDE), drawn(each, "rect")[0]
        across, downward = each.frame["across"].n_unique(), each.frame["down"].n_unique()
        assert spec["height"] >= 20 * downward + 60
        assert encoding["x"]["axis"]["labelLimit"] * across >= WIDE / 2 and encoding["y"]["axis"]["labelLimit"] >= 100


def test_a_heat_map_has_cell_means_and_says_which_are_empty() -> None:
    table = SWEEP.filter((pl.col("n_embd") != 128) | (pl.col("learning_rate") < 0.01))
    cells = figure(analysed(table, ["learning_rate", "n_embd"])[1], "cells")
    rows = {(row["across"], row["down"]): row for row in cells.frame.to_dicts()}
    assert len(rows) == 18
    mean = table.filter(learning_rate=0.001, n_embd=64)[LOSS].mean()
    assert rows["0.001", "64"]["mean"] == pytest.approx(mean) and rows["0.001", "64"]["text"] == f"{mean:.3f}"
    assert rows["0.03", "128"] | {"description": ""} == {
        "across": "0.03", "down": "128", "n": 0, "mean": None, "text": "no run", "dark": False, "best": False,
        "description": "",
    }  # fmt: skip
    assert [at for at, row in rows.items() if row["best"]] == [("0.001", "128")]
    assert not rows["0.001", "128"]["dark"] and rows["0.0001", "32"]["dark"]  # text is white on dark cells alone
    assert "2 cells without a run" in cells.subtitle and "learning_rate 0.001 with n_embd 128" in cells.title
    filled, empty, framed = drawn(cells, "rect")
    assert fields(filled[0]) == {"x": "across", "y": "down", "color": "mean", "description": "description"}
    assert filled[0]["x"]["sort"] is None and filled[0]["color"]["scale"]["range"][0] == "#a0da39"  # low is bright
    assert fields(empty[0]) == fields(framed[0]) == {"x": "across", "y": "down"}


def test_clear_interactions_that_no_panel_shows_get_their_own() -> None:
    def mean(row: dict[str, Any]) -> float:
        return 0.3 * row["a"] + 0.1 * row["b"] + 0.05 * row["c"] * row["d"]

    _, chapter = analysed(measured(grid(dict.fromkeys("abcd", (1, 2))), mean), list("abcd"))
    other = figure(chapter, "interactions")
    assert set(other.frame["panel"]) | set(other.frame["by"]) == {"c", "d"}
    assert other.title in (
        "Other factors depend on each other too: c × d",
        "Other factors depend on each other too: d × c",
    )
    assert "interactions" not in [figure.name for figure in analysed(CUBE, ["n_embd", "dropout"])[1].figures]


def test_an_unreplicated_cube_is_screened() -> None:
    table = measured(grid(dict.fromkeys("abcd", (0, 1)), seeds=1), lambda r: 2 - 0.2 * r["a"] + 0.1 * r["b"])
    effects, chapter = analysed(table, list("abcd"), block=None)
    assert chapter.answer[0].startswith("Every combination ran once, so effects are compared with each other, not with")
    assert "which does not say that there is none" in chapter.answer[1]
    plot = figure(chapter, "half_normal")
    assert effects.screening is not None and plot.title == "2 of 15 effects are larger than the others explain: a and b"
    ((dots, rows),) = drawn(plot, "point")
    assert fields(dots) == {"x": "quantile", "y": "size"}
    assert dots["x"]["scale"]["domain"][0] == 0 < dots["x"]["scale"]["domain"][1]
    assert {row["term"]: (row["quantile"], row["size"]) for row in rows} == {
        effect.term: (effect.quantile, abs(effect.value)) for effect in effects.screening.effects
    }
    ((line, ends),) = drawn(plot, "line")
    assert fields(line) == {"x": "quantile", "y": "size"}
    assert ends[1]["size"] == pytest.approx(effects.screening.pse * ends[1]["quantile"])
    ((_, margins),) = drawn(plot, "rule")
    assert [row["size"] for row in margins] == [effects.screening.margin, effects.screening.simultaneous_margin]
    assert "(screening only)" in figure(chapter, "effects").subtitle
    assert "spread" not in [figure.name for figure in chapter.figures]
    assert "half_normal" not in [figure.name for figure in analysed(CUBE, ["n_embd", "dropout", "n_head"])[1].figures]


def test_the_spread_between_seeds_is_compared(cubed: tuple[Effects, Chapter]) -> None:
    spread = figure(cubed[1], "spread")
    assert spread.title.startswith("The spread between seeds is alike in all 8 combinations: sd 0.00")
    cells = CUBE.group_by("n_embd", "dropout", "n_head").agg(pl.col(LOSS).var())
    pooled = math.sqrt(float(cells[LOSS].to_numpy().mean()))
    assert f"sd {response_of(LOSS).amount(pooled)}" in spread.title
    ((mean, _),) = [pair for pair in drawn(spread, "rule") if "y" in pair[0]]
    assert mean["y"]["datum"] == pytest.approx(pooled)
    for row in spread.frame.to_dicts():
        levels = dict(part.split(" ") for part in row["cell"].split(" · "))
        cell = CUBE.filter(
            n_embd=int(levels["n_embd"]), dropout=float(levels["dropout"]), n_head=int(levels["n_head"])
        )[LOSS]
        assert (row["n"], row["mean"], row["sd"]) == (3, pytest.approx(cell.mean()), pytest.approx(cell.std()))
    ((dots, _),) = drawn(spread, "point")
    ((band, _),) = drawn(spread, "area")
    assert fields(dots) == {"x": "mean", "y": "sd", "description": "cell"}
    assert fields(band) == {"x": "mean", "y": "low", "y2": "high"}
    wild = CUBE.with_columns(pl.when(pl.arange(pl.len()) == 4).then(3.0).otherwise(pl.col(LOSS)).alias(LOSS))
    _, chapter = analysed(wild, ["n_embd", "dropout", "n_head"])
    spread = figure(chapter, "spread")
    assert spread.title == "1 of 8 combinations spread unlike the others: n_embd 32 · dropout 0.0 · n_head 4"
    assert spread.frame.filter("outside").height == 1
    assert float(spread.frame.filter(~pl.col("outside"))["high"].to_numpy().max()) < 0.05  # without the wild one


def test_spreads_of_equal_noise_are_seldom_called_unlike() -> None:
    """400 tables of 12 cells: at most 5% have a cell outside."""
    generator, table = np.random.default_rng(0), grid({"a": tuple(range(12))}, 4)
    found = [
        any(cell.outside for cell in cell_spreads(table.with_columns(y=generator.normal(size=48)), ["a"], "y"))
        for _ in range(400)
    ]
    assert 4 <= sum(found) <= 32  # 20 expected
    assert cell_spreads(table.with_columns(y=pl.col("a")), ["a"], "y") == []
    assert cell_spreads(table.filter(seed=0).with_columns(y=1.0), ["a"], "y") == []


def test_the_table_of_effects_has_every_contrast_and_one_p(cubed: tuple[Effects, Chapter], swept: Any) -> None:
    effects, _ = cubed
    adjusted = {effect.term: AdjustedP(0.01 * i, stated=i == 1) for i, effect in enumerate(effects.effects, 1)}
    table = effects_chapter(effects, CUBE, adjusted=adjusted).tables[0]
    for row, effect in zip(table.frame.to_dicts(), effects.effects, strict=True):
        assert effect.estimate is not None and row["term"] == effect.term and row["contrast"] == effect.contrast
        assert (row["value"], row["low"], row["high"], row["n"]) == (
            effect.estimate.value, effect.estimate.low, effect.estimate.high, effect.estimate.n
        )  # fmt: skip
        assert (row["df"], row["F"], row["p"]) == (effect.df, effect.F, effect.p)
        assert row["p_adjusted"] == adjusted[effect.term].p
        assert row["partial_eta_squared"] == effect.partial_eta_squared
    assert table.frame["p_adjusted_among"].to_list() == ["stated", *["not stated"] * 5]
    assert "effect is" in [column.title for column in table.columns]
    effects, chapter = swept
    rows = chapter.tables[0].frame
    assert "effect is" not in [column.title for column in chapter.tables[0].columns]
    assert rows.filter(term="learning_rate")["contrast"].to_list() == [
        "any (F test)", "linear, per doubling", "quadratic, per doubling²", "0.03 − 0.001, largest"
    ]  # fmt: skip
    assert rows.filter(term="learning_rate")["p_adjusted"].to_list() == [effects.effects[0].p_holm, *[None] * 3]
    assert rows.filter(term="learning_rate × n_embd").height == 5


def test_levels_and_pairs_are_tables_of_what_was_measured(cubed: tuple[Effects, Chapter]) -> None:
    _, levels, pairs, _ = cubed[1].tables
    assert levels.frame["factor"].to_list() == ["n_embd"] * 2 + ["dropout"] * 2 + ["n_head"] * 2
    wide = CUBE.filter(n_embd=64)[LOSS]
    spread = (pytest.approx(wide.mean()), pytest.approx(wide.std()), wide.min(), wide.max())
    assert levels.frame.row(1) == ("n_embd", "64", 12, *spread)
    expected = paired_effects(CUBE, LOSS, ["n_embd", "dropout", "n_head"], "seed")
    assert pairs.frame["value"].to_list() == [pair.difference.estimate.value for pair in expected]
    assert pairs.frame["p_sign_flip"].to_list() == [pair.difference.p_sign_flip for pair in expected]
    assert pairs.frame["n"].to_list() == [3, 3, 3]  # of each seed one, the mean of its four


def test_a_study_names_its_configurations_and_has_one_p_for_an_effect(tmp_path: Path) -> None:
    def loss(config: RunConfig, number: int, step: int) -> float:
        noise = float(np.random.default_rng([number, step]).normal(0, 0.004))
        return cube({"n_embd": config.n_embd, "dropout": config.dropout}) + 1 / (1 + step) + noise

    wider = EffectStated(says="Wider is better", kind="effect", factor="n_embd", direction="down")
    study = Study(
        name="cube", corpus="a.txt", base={"n_layer": 2, "max_iters": 400, "eval_interval": 200}, seeds=(1, 2, 3),
        factors={"n_embd": (32, 64), "dropout": (0.0, 0.2)}, hypotheses=(wider,),
    )  # fmt: skip
    snapshot = take_snapshot(fake_study(tmp_path, study, {}, loss))
    findings = find(snapshot)
    chapter = effects_chapter(findings.effects, snapshot.done, adjusted=findings.adjusted)
    table = {row["term"]: row for row in chapter.tables[0].frame.to_dicts()}
    assert (
        table["n_embd"]["p_adjusted"] == findings.claims[0].p_adjusted
        and table["n_embd"]["p_adjusted_among"] == "stated"
    )
    explored = {claim.says: claim.p_adjusted for claim in findings.exploratory}
    assert explored["best_val_loss depends on dropout"] == table["dropout"]["p_adjusted"]
    runs = figure(chapter, "levels").frame.filter(kind="run")
    assert runs["description"][0] == "c1 · n_embd 32 · dropout 0.0 · seed 1"
    assert figure(chapter, "spread").frame["cell"].str.starts_with("c").all()
    assert figure(chapter, "cells").frame["description"].str.starts_with("c").all()


TWELVE = [f"f{i}" for i in range(12)]
WORDS = grid({"a" * 300: ("x" * 300, "y" * 300), "b": (1, 2, None)})
STRANGE: dict[str, tuple[pl.DataFrame, list[str], str]] = {
    "one run": (pl.DataFrame({"a": [1], LOSS: [2.0]}), ["a"], "a is 1 in every run that has it"),
    "one level": (measured(grid({"a": (1,)}), lambda _: 2.0), ["a"], "No factor has two levels"),
    "constant": (grid({"a": (1, 2)}).with_columns(pl.lit(1.5).alias(LOSS)), ["a"], "is the same in all 6 runs"),
    "no noise": (measured(grid({"a": (1, 2), "b": (1, 2, 4)}, 1), lambda r: r["b"]), ["a", "b"], "By size alone b"),
    "long names and nulls": (measured(WORDS, lambda r: r["b"] or 0), ["a" * 300, "b"], "b matters most"),
    "twelve": (
        measured(pl.DataFrame(np.random.default_rng(0).integers(0, 2, (300, 12)), TWELVE), lambda r: r["f3"]),
        TWELVE, "f3 matters most",
    ),
    "own names": (measured(grid({"n": (1, 2), "mean": (1, 2, 3)}), lambda r: r["n"]), ["n", "mean"], "n matters most"),
    "empty cells": (
        measured(grid({"a": (1, 2, 3), "b": (1, 2)}), lambda r: r["a"]).filter((pl.col("a") < 3) | (pl.col("b") == 1)),
        ["a", "b"], "a matters most: 1, the best of 3 levels",
    ),
    "numbers as words": (CUBE.with_columns(pl.col(LOSS).cast(pl.String())), ["n_embd"], "n_embd matters most"),
}  # fmt: skip


@pytest.mark.parametrize("case", STRANGE)
def test_strange_tables_get_sentences_and_whole_figures(case: str) -> None:
    table, factors, says = STRANGE[case]
    _, chapter = analysed(table, factors, block="seed" if "seed" in table.columns else None)
    assert any(says in sentence for sentence in chapter.answer)
    assert 1 <= len(chapter.answer) <= 4 and "nan" not in chapter_as_text(chapter)
    for each in chapter.figures:
        for width in (WIDE, NARROW):
            svg = each.svg(width)
            size = re.search(r'width="([\d.]+)"', svg)
            assert size is not None and 0.97 * width <= float(size[1]) <= width
            assert min(float(found) for found in re.findall(r'font-size="([\d.]+)', svg)) >= 9.4
            assert "NaN" not in svg and "undefined" not in svg
    if case in ("one run", "one level", "constant"):
        assert not chapter.figures


def test_without_effects_the_reason_is_the_answer() -> None:
    chapter = effects_chapter(Diagnostic("too_few_runs", "blocks", "0 runs done.", "Run more."), pl.DataFrame())
    assert (list(chapter.answer), list(chapter.figures), list(chapter.tables)) == (
        ["0 runs done.", "Run more."],
        [],
        [],
    )


def test_two_runs_have_a_size_and_no_interval() -> None:
    _, chapter = analysed(pl.DataFrame({"a": [1, 2], LOSS: [2.0, 2.5]}), ["a"], block=None)
    size, reason = chapter.answer
    assert size.startswith("By size alone a comes first: 1 instead of 2 lowers the best validation loss by 0.500 nats")
    assert reason.endswith("sizes only, no intervals.")


def test_neither_way_is_better_where_nothing_is_known_of_a_response() -> None:
    table = measured(grid({"a": (1, 2, 3, 4)}), lambda r: r["a"], "y")
    _, chapter = analysed(table, ["a"], "y")
    assert chapter.answer[0].startswith("a matters most: y is highest at 4 and lowest at 1, 3.0")
    assert not figure(chapter, "levels").frame["best"].any()
    faster = measured(grid({"a": (1, 2)}), lambda r: 1e5 * r["a"], "tokens_per_s", 10.0)
    assert (
        "2 instead of 1 raises the throughput by 100 k tokens/s" in analysed(faster, ["a"], "tokens_per_s")[1].answer[0]
    )
    assert response_of("my_loss").better == "lower" and response_of("mfu").better == "higher"
    assert [short(value) for value in (0.21, 9999.0, 1.2e4, -3e6)] == ["0.21", "1e+04", "12 k", "−3 M"]


def test_optima_are_named_as_their_levels_are_and_untold_shifts_are_no_table() -> None:
    table = measured(grid({"width": (32, 64, 128), "drop": (0.0, 0.2)}), lambda row: -row["width"] / 100)
    _, chapter = analysed(table, ["width", "drop"], block="seed")
    tables = {each.name: each for each in chapter.tables}
    assert set(tables["optima"].frame["best_level"]) == {"128"}
    assert "optimum_shifts" not in tables
    assert any("best width moves with drop is not told" in sentence for sentence in chapter.details)
