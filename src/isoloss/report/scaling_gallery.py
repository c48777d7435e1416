"""Which figures a fitted scaling law gets, and the caption that says of how many runs and which interval is drawn."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import polars as pl

from isoloss.analysis.frontier import HoldOut
from isoloss.analysis.isoflop import Profile
from isoloss.analysis.laws import AXES
from isoloss.analysis.scaling import Fit
from isoloss.report import scaling_figures as figures
from isoloss.report import scaling_frames as frames
from isoloss.report.parts import Figure
from isoloss.report.theme import themed
from isoloss.report.wording import count, plural

DASHED = "Lines are dashed beyond the range of the runs."


def make_scaling_figures(
    fit: Fit, done: pl.DataFrame, profiles: Sequence[Profile], held: HoldOut | None
) -> list[Figure]:
    """Every figure of an identified fit to the runs in `done`."""
    runs = frames.run_rows(done, fit)
    found = [_fit(fit, runs)]
    if fit.form == "LND":
        plane = frames.make_plane(fit, runs)
        found += [_contours(fit, runs, plane), _isoflop(fit, runs, plane, profiles)]
    return [*found, *_holdout(held)]


def interval(fit: Fit) -> str:
    """Which interval is meant, by which method, and what it holds fixed."""
    assert fit.uncertainty is not None
    fixed = [name for name, parameter in fit.parameters.items() if parameter.se is None]
    held = f", {' and '.join(fixed)} held at its bound" if fixed else ""
    return f"95% interval ({fit.uncertainty.method}{held})"


def _fit(fit: Fit, runs: pl.DataFrame) -> Figure:
    axes = AXES[fit.form]
    where = {"N": "parameters without embeddings", "D": "training tokens"}[axes[0]]
    colour = ", a colour for each number of training tokens D" if len(axes) == 2 else ""
    caption = (
        f"Final validation loss against {where}, on a log axis; n = {_runs(fit)}. Dots: runs. Lines: the fitted law"
        f"{colour}. Bands: its {interval(fit)}, which is that of the law, not of single runs."
    )
    return _figure("scaling_fit", caption, figures.scaling_fit(runs, frames.law_curves(fit, runs), axes[0]))


def _contours(fit: Fit, runs: pl.DataFrame, plane: frames.Plane) -> Figure:
    lines = frames.contours(fit, plane, runs)
    best, band = frames.frontier_line(fit, plane)
    dots = frames.side_by_side(runs, plane)
    occupied = pl.concat([runs.select("N", "D"), best.select("N", "D")])
    labels = frames.contour_labels(lines, plane, occupied)
    caption = (
        "Lines of equal validation loss (nats/token) over parameters N and training tokens D, by the law fitted to "
        f"n = {_runs(fit)}. Dots: the runs in the colour of the loss observed; those of equal N and D stand side by "
        "side. Grey diagonals: equal compute C = 6ND, in FLOP. "
    )
    if len(best):
        caption += "Orange line: the compute-optimal frontier; "
        caption += f"orange band: the {interval(fit)} of the optimal N at each compute, cut at the edge of the plane. "
    else:
        caption += f"The compute-optimal frontier runs outside this plane; an orange band is its {interval(fit)}. "
    chart = figures.isoloss_contours(plane, dots, lines, labels, frames.diagonals(plane), best, band)
    return _figure("isoloss_contours", caption + DASHED, chart)


def _isoflop(fit: Fit, runs: pl.DataFrame, plane: frames.Plane, profiles: Sequence[Profile]) -> Figure:
    computes = [profile.flops for profile in profiles] or frames.round_computes(fit)
    minima = frames.isoflop_minima(fit, plane, computes)
    profiled = frames.profile_runs(runs, profiles)
    caption = (
        f"Loss along constant compute C = 6ND against parameters N, by the law fitted to n = {_runs(fit)}; bands: its "
        f"{interval(fit)}. "
    )
    if profiles:
        caption += f"Dots: the {plural(len(profiled), 'run')} trained at about one of these computes. "
    else:
        caption += "The curves are the fitted law's, not separate runs: the study has too few sizes of equal compute. "
    caption += "Diamonds: the law's minima; bars: the 95% interval of the compute-optimal N, cut at the axis. "
    hidden = len(computes) - len(minima)
    if hidden:
        caption += f"The minima of {count(hidden)} of {plural(len(computes), 'curve')} lie beyond the axes. "
    chart = figures.isoflop_curves(plane, frames.isoflop_curves(fit, plane, computes), minima, profiled)
    return _figure("isoflop_curves", caption + DASHED, chart)


def _holdout(held: HoldOut | None) -> Iterator[Figure]:
    if held is None:
        return
    table = pl.DataFrame(
        {
            "point": ", ".join(f"{axis} = {count(round(value))}" for axis, value in row.point.items()),
            "observed": row.observed,
            "predicted": row.predicted.value,
            "low": row.predicted.low,
            "high": row.predicted.high,
            "outcome": figures.OUTCOMES[0 if row.inside else 1],
        }
        for row in held.rows
    )
    assert held.fit.uncertainty is not None
    caption = (
        f"Observed against predicted final validation loss of the n = {plural(len(held.rows), 'run')} of the largest "
        f"{held.variable}, {count(round(held.level))}, by the law fitted without them to {_runs(held.fit)}. Grey bars: "
        f"95% prediction interval of one new run ({held.fit.uncertainty.method}); dashes: observed = predicted. The "
        "axes begin near the data, not at 0."
    )
    yield _figure("scaling_holdout", caption, figures.scaling_holdout(table))


def _runs(fit: Fit) -> str:
    cells = "" if fit.n_cells == fit.n else f" in {plural(fit.n_cells, 'cell')}"
    return plural(fit.n, "run") + cells


def _figure(name: str, caption: str, chart: Any) -> Figure:
    return Figure(name, caption, themed(chart))
