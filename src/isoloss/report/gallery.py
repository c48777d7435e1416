"""Which figures a study gets, and the caption that says what each shows, of how many runs, computed how."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import polars as pl

from isoloss.analysis.levels import LevelMean, level_means
from isoloss.report import figures, frames
from isoloss.report.parts import Figure
from isoloss.report.snapshot import SIZE, Snapshot
from isoloss.report.theme import themed
from isoloss.report.wording import count, listed, plural


def make_figures(snapshot: Snapshot) -> list[Figure]:
    """Every figure the study has data for, in the order of the page."""
    makers: list[Callable[[Snapshot], Iterator[Figure]]] = [
        _by_run, _against_params, _curves, _step_times, _efficiency, _wall_time, _effects
    ]  # fmt: skip
    return [figure for maker in makers for figure in maker(snapshot)]


def effects_by_factor(snapshot: Snapshot) -> dict[str, list[LevelMean]]:
    """Level means of the best validation loss; of runs that are done, others leave their level with a smaller n."""
    ranked = snapshot.table["run_id"].is_in(snapshot.ranked["run_id"].implode())
    table = snapshot.table.with_columns(response=pl.when(ranked).then(pl.col("best_val_loss")))
    return {factor: level_means(table, factor, "response") for factor in snapshot.factors}


def _by_run(snapshot: Snapshot) -> Iterator[Figure]:
    table = frames.evaluated_runs(snapshot)
    if table.is_empty():
        return
    shown, hidden = frames.shown_rows(table)
    caption = (
        "Lowest validation loss of each run over its evaluations, best first; "
        f"n = {plural(len(table), 'evaluated run')} of {count(len(snapshot.table))}. "
        "The axis begins near the data, not at 0."
    )
    if hidden:
        caption += f" The {frames.BEST_ROWS} best and the {len(shown) - 1 - frames.BEST_ROWS} worst are drawn; "
        caption += f"{count(hidden)} between them are in the table of all runs."
    if set(table["status"]) != {"done"}:
        caption += " Runs that are not done show the best loss they reached so far; their colour names their state."
    yield _figure("best_val_loss_by_run", caption, figures.best_val_loss_by_run(shown, snapshot.factors))


def _against_params(snapshot: Snapshot) -> Iterator[Figure]:
    if snapshot.best is None:
        return
    table = frames.figure_rows(snapshot, snapshot.ranked)
    colour, shape, *_ = [*frames.telling_factors(snapshot, "best_val_loss", SIZE), None, None]
    if shape is not None and table[shape].n_unique() > 6:
        shape = None
    sizes = table["params_total"].n_unique()
    caption = (
        f"Lowest validation loss of each run against its parameters, embeddings included, on a log axis; "
        f"n = {plural(len(table), 'run')} of {plural(sizes, 'size')}."
    )
    if colour:
        drawn = [f"colour is {colour}", *([f"shape is {shape}"] if shape else [])]
        which = "setting" if shape is None else "settings"
        caption += f" {listed(drawn).capitalize()}: the {which}, size apart, whose level means differ most."
    chart = figures.val_loss_vs_params(table, snapshot.factors, colour, shape)
    yield _figure("val_loss_vs_params", caption, chart)


def _curves(snapshot: Snapshot) -> Iterator[Figure]:
    best, second = snapshot.best, snapshot.runner_up
    if best is None:
        return
    runs = [best, second] if second else [best]
    table = frames.loss_curves(snapshot, runs)
    n_evaluations = table.filter(pl.col("run_id") == best["run_id"])["step"].n_unique()
    shortest = min(snapshot.configs[run["run_id"]].max_iters for run in runs)
    zoom_from = min(shortest // 2, *(max(part["step"]) for part in table.partition_by("run_id")))
    if second is None:
        who = f"the best run, {best['run_id']}; there is no second run to set beside it"
    elif snapshot.architecture(best) != snapshot.architecture(second):
        who = f"the best run, {best['run_id']}, and of the best one with a different architecture, {second['run_id']}"
    else:
        who = f"the best run, {best['run_id']}, and the runner-up, {second['run_id']}; all runs share one architecture"
    caption = (
        f"Training (dashed) and validation (solid) loss of {who}. Points are evaluations with dropout off, "
        f"n = {count(n_evaluations)} of the best run; the right panel repeats the later steps at a scale of their own."
    )
    yield _figure("loss_curves", caption, figures.loss_curves(table, [run["label"] for run in runs], zoom_from))


def _step_times(snapshot: Snapshot) -> Iterator[Figure]:
    best = snapshot.best
    table = frames.step_times(snapshot, best) if best else pl.DataFrame()
    if best is None or table.is_empty():
        return
    n_steps = len(snapshot.results.metrics(best["run_id"]))
    steps = snapshot.results.evals(best["run_id"])["step"].to_list()
    thinned = (
        "" if len(table) == n_steps else f", thinned to {count(len(table))} points that keep every stretch's extremes"
    )
    caption = (
        f"Time of each optimizer step of the best run, {best['run_id']}: n = {plural(n_steps, 'step')}{thinned}. "
        f"Ticks at the foot mark its {plural(len(steps), 'evaluation')}, each followed by a checkpoint; "
        f"their time is not part of a step's."
    )
    yield _figure("step_time", caption, figures.step_times(table, steps))


def _efficiency(snapshot: Snapshot) -> Iterator[Figure]:
    table = frames.timed_runs(snapshot)
    if table.is_empty():
        return
    colour = next(iter(frames.telling_factors(snapshot, "tokens_per_s", SIZE)), None)
    caption = (
        f"Model FLOPs utilisation and throughput of each run, medians over its steps, against its parameters; "
        f"n = {plural(len(table), 'run')}."
    )
    if colour:
        caption += f" Colour is {colour}, the setting, size apart, whose levels' mean throughput differs most."
    yield _figure("efficiency", caption, figures.efficiency(table, snapshot.factors, colour))


def _wall_time(snapshot: Snapshot) -> Iterator[Figure]:
    table = snapshot.table.drop_nulls("wall_time_s").sort("wall_time_s", descending=True)
    if table.is_empty():
        return
    shown, hidden = frames.shown_rows(table)
    caption = f"Wall time of each run, longest first, by what it went into; n = {plural(len(table), 'run')}."
    if hidden:
        caption += f" {count(hidden)} in the middle are left out of the figure."
    yield _figure("wall_time", caption, figures.wall_time(frames.wall_times(shown)))


def _effects(snapshot: Snapshot) -> Iterator[Figure]:
    means = effects_by_factor(snapshot)
    if not means or snapshot.best is None:
        return
    levels = {factor: frames.effect_levels(of_factor) for factor, of_factor in means.items()}
    runs = frames.figure_rows(snapshot, snapshot.ranked)
    caption = (
        f"Best validation loss at each level of each factor; n = {plural(len(runs), 'run')}, above each level its own. "
        "Large dots joined by dashes: means over all runs of the level. Small dots: single runs. Grey bands: from the "
        "lowest to the highest. The bands hold the effects of all other factors; they are not confidence intervals."
    )
    yield Figure("main_effects", caption, themed(figures.main_effects(levels, runs, snapshot.factors)))


def _figure(name: str, caption: str, chart: Any) -> Figure:
    return Figure(name, f"{caption} No interval is drawn.", themed(chart))
