"""A fitted law as frames to draw: curves in one variable, and on the plane of size N and tokens D.

A contour of L = E + A/N^α + B/D^β is solved in closed form, so it is exact at its points. Lines are `among_runs` where
they lie within the runs' sizes and tokens, and extrapolate elsewhere.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import polars as pl

from isoloss.analysis.cost import FLOPS_PER_PARAMETER_TOKEN, SIX_ND, Cost
from isoloss.analysis.frontier import Optimum, data_compute, frontier, predict
from isoloss.analysis.laws import AXES, Floats
from isoloss.analysis.scaling import Fit
from isoloss.report.chart import log_ticks

MARGIN = 1.3
"""How far beyond the outermost runs curves are drawn, as a ratio."""
MAX_EXTENSION = 6.0
"""How far beyond the runs the plane is extended to where the compute-optimal line runs, as a ratio."""
CURVE_POINTS, CONTOUR_POINTS, OPTIMUM_POINTS = 24, 60, 100
MAX_CONTOURS, MAX_COMPUTES = 14, 5
STEPS = (0.001, 0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1.0, 2.0, 5.0)
"""Distances between neighbouring contours, in nats; the finest that gives at most MAX_CONTOURS is taken."""
ROUNDING = 1 + 1e-9
ASPECT = 1.6
"""Width of the plane over its height, for distances as the eye sees them."""
LABEL_SHAPE = (0.4, 1.0)
"""A label is wider than high: to its left and right, distances count so much less."""

Ends = tuple[float, float]
_CONTOUR: dict[str, Any] = {"loss": pl.Float64, "N": pl.Float64, "D": pl.Float64, "among_runs": pl.Boolean}


@dataclass(frozen=True)
class Plane:
    """The rectangle of (N, D) that is drawn, and within it the one the runs span."""

    sizes: Ends
    tokens: Ends
    run_sizes: Ends
    run_tokens: Ends

    @property
    def computes(self) -> Ends:
        """6ND at the corners of the least and the most compute, in FLOPs."""
        low, high = (FLOPS_PER_PARAMETER_TOKEN * n * d for n, d in zip(self.sizes, self.tokens, strict=True))
        return low, high

    def among_runs(self, size: float, tokens: float) -> bool:
        """Whether a point lies in the rectangle the runs span, to rounding."""
        return _within(size, self.run_sizes) and _within(tokens, self.run_tokens)

    def sizes_at(self, compute: float, cost: Cost = SIX_ND) -> Ends | None:
        """The sizes for which a compute lies on the plane; None where its line misses it."""
        smallest, largest = (cost.size(compute, tokens) for tokens in reversed(self.tokens))
        low, high = max(self.sizes[0], smallest), min(self.sizes[1], largest)
        return (low, high) if low < high else None

    def place(self, points: pl.DataFrame) -> Floats:
        """Points as seen, [n, 2]: the plane's height is 1 and its width ASPECT."""
        across, up = (
            (np.log(points[name].to_numpy()) - np.log(low)) / np.log(high / low)
            for name, (low, high) in (("N", self.sizes), ("D", self.tokens))
        )
        return np.column_stack([ASPECT * across, up])


def make_plane(fit: Fit, runs: pl.DataFrame) -> Plane:
    """The runs' rectangle, widened, and extended to the optima at the runs' computes as far as MAX_EXTENSION allows."""
    ends = frontier(fit, data_compute(fit)).optima
    spans: list[Ends] = []
    for values, optima in ((runs["N"], [o.n_params for o in ends]), (runs["D"], [o.tokens for o in ends])):
        low, high = ends_of(values)
        best = [optimum.value for optimum in optima]
        spans.append((
            max(low / MAX_EXTENSION, min(low, *best)) / MARGIN, min(high * MAX_EXTENSION, max(high, *best)) * MARGIN
        ))  # fmt: skip
    return Plane(spans[0], spans[1], ends_of(runs["N"]), ends_of(runs["D"]))


def law_curves(fit: Fit, ends: Ends, tokens: Sequence[float] = ()) -> pl.DataFrame:
    """The law with its interval along its first variable, for a law in N and D at each of some tokens.

    Columns: the variable, D where `tokens` are given, loss, low, high, among_runs.
    """
    axis, *_ = AXES[fit.form]
    rows: list[dict[str, float | bool | None]] = []
    for fixed in [{"D": value} for value in tokens] or [{}]:
        for value in spaced_log(ends[0] / MARGIN**0.5, ends[1] * MARGIN**0.5, 2 * CURVE_POINTS):
            point = {axis: value, **fixed}
            law = predict(fit, point).law
            band = {"loss": law.value, "low": law.low, "high": law.high}
            rows.append({**point, **band, "among_runs": _within(value, ends)})
    return pl.DataFrame(rows)


def round_computes(fit: Fit) -> list[float]:
    """A few round computes among those of the runs, in FLOPs; the two ends where none is round."""
    low, high = data_compute(fit)
    return log_ticks(low, high, MAX_COMPUTES) or [low, high]


def contours(fit: Fit, plane: Plane, losses: Sequence[float]) -> pl.DataFrame:
    """Lines of equal loss on the plane, at round losses up to the highest: loss, N (ascending), D, among_runs."""
    lowest = predict(fit, {"N": plane.sizes[1], "D": plane.tokens[1]}).law.value
    highest = max(*losses, predict(fit, {"N": plane.run_sizes[0], "D": plane.run_tokens[0]}).law.value)
    span = highest - lowest
    step = next((step for step in STEPS if span / step <= MAX_CONTOURS), span / MAX_CONTOURS)
    lines = [
        _contour(fit, plane, round(k * step, 10))
        for k in range(int(np.ceil(lowest / step)), int(np.floor(highest / step)) + 1)
    ]
    return pl.concat(lines)


def label_places(lines: pl.DataFrame, by: str, plane: Plane, occupied: pl.DataFrame, half: float) -> pl.DataFrame:
    """One point of each line to write its value at: `by`, N, D.

    It is as far as can be from what is drawn there, from the edges and from the other labels. `occupied` holds the N
    and D of dots, lines and texts to keep clear of; `half` is half a label's width as a share of the plane's height.
    """
    taken = plane.place(occupied)
    rows: list[pl.DataFrame] = []
    for _, line in lines.group_by(by, maintain_order=True):
        places = plane.place(line)
        clear = np.min(np.linalg.norm((places[:, None] - taken[None]) * LABEL_SHAPE, axis=2), axis=1)
        sides = np.minimum(places[:, 0], ASPECT - places[:, 0]) - half
        edge = np.minimum(sides, np.minimum(places[:, 1], 1 - places[:, 1]))
        at = int(np.argmax(np.minimum(clear, edge)))
        taken = np.vstack([taken, places[at]])
        rows.append(line[at].select(by, "N", "D"))
    return pl.concat([lines.clear().select(by, "N", "D"), *rows])


def equal_compute(plane: Plane) -> pl.DataFrame:
    """Lines of equal compute across the plane at round FLOPs: C, N (ascending), D."""
    points = [
        (compute, size, SIX_ND.tokens(compute, size))
        for compute in log_ticks(*plane.computes)
        for ends in [plane.sizes_at(compute)]
        if ends
        for size in spaced_log(*ends, CURVE_POINTS)
    ]
    return pl.DataFrame(points, schema=dict.fromkeys(("C", "N", "D"), pl.Float64()), orient="row")


def optimum_line(fit: Fit, plane: Plane) -> pl.DataFrame:
    """The compute-optimal line and beyond the plane's corners, so that its band fills them; see `optimum_rows`."""
    low, high = plane.computes
    return optimum_rows(frontier(fit, spaced_log(low / 100, high * 100, OPTIMUM_POINTS)).optima, plane)


def optimum_rows(optima: Sequence[Optimum], plane: Plane) -> pl.DataFrame:
    """Optima as rows: C, N with the interval from N_low to N_high, D, loss, among_runs, and whether on the plane."""
    return pl.DataFrame(
        {
            "C": optimum.flops, "N": optimum.n_params.value, "N_low": optimum.n_params.low,
            "N_high": optimum.n_params.high, "D": optimum.tokens.value, "loss": optimum.loss.value,
            "among_runs": plane.among_runs(optimum.n_params.value, optimum.tokens.value),
            "on_plane": _within(optimum.n_params.value, plane.sizes) and _within(optimum.tokens.value, plane.tokens),
        }
        for optimum in optima
    )  # fmt: skip


def isoflop_curves(fit: Fit, plane: Plane, computes: Sequence[float], cost: Cost) -> pl.DataFrame:
    """The law along constant compute: C, N, D, loss, low, high, among_runs."""
    rows: list[dict[str, float | bool | None]] = []
    for compute in computes:
        ends = plane.sizes_at(compute, cost)
        for size in spaced_log(*ends, 2 * CURVE_POINTS) if ends else []:
            tokens = cost.tokens(compute, size)
            law = predict(fit, {"N": size, "D": tokens}).law
            band = {"loss": law.value, "low": law.low, "high": law.high}
            rows.append({"C": compute, "N": size, "D": tokens, **band, "among_runs": plane.among_runs(size, tokens)})
    return pl.DataFrame(rows)


def ends_of(values: pl.Series) -> Ends:
    """The smallest and the largest."""
    numbers = values.to_list()
    return min(numbers), max(numbers)


def spaced_log(low: float, high: float, points: int) -> list[float]:
    """Points at equal ratios."""
    return np.geomspace(low, high, points).tolist()


def _contour(fit: Fit, plane: Plane, loss: float) -> pl.DataFrame:
    """Where the law takes a loss, on the plane, by the share s of L − E that is A/N^α, the rest being B/D^β."""
    e, a, b, alpha, beta = (
        fit.parameters[name].estimate.value if name in fit.parameters else 0.0
        for name in ("E", "A", "B", "alpha", "beta")
    )
    above = max(loss - e, 1e-300)
    (n_low, n_high), (d_low, d_high) = plane.sizes, plane.tokens
    low = max(a / n_high**alpha / above, 1 - b / d_low**beta / above, 1e-12)
    high = min(a / n_low**alpha / above, 1 - b / d_high**beta / above, 1 - 1e-12)
    points: list[dict[str, float | bool]] = []
    if low < high:
        for odds in spaced_log(high / (1 - high), low / (1 - low), CONTOUR_POINTS):
            share = odds / (1 + odds)
            size, tokens = (a / (share * above)) ** (1 / alpha), (b / ((1 - share) * above)) ** (1 / beta)
            points.append({"loss": loss, "N": size, "D": tokens, "among_runs": plane.among_runs(size, tokens)})
    return pl.DataFrame(points, schema=_CONTOUR)


def _within(value: float, ends: Ends) -> bool:
    return ends[0] / ROUNDING <= value <= ends[1] * ROUNDING
