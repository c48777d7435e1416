"""The plain tables behind the scaling figures: the fitted law as curves, contours of equal loss, the frontier.

On the (N, D) plane the law L = E + A/N^α + B/D^β is solved for D in closed form, so a contour is exact at its points.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import polars as pl

from isoloss.analysis.frontier import FLOPS_PER_PARAMETER_TOKEN, data_compute, frontier, predict
from isoloss.analysis.isoflop import SAME_COMPUTE, Profile
from isoloss.analysis.laws import AXES, Floats
from isoloss.analysis.scaling import Fit
from isoloss.report.figures import log_ticks
from isoloss.report.wording import count, si

MARGIN = 1.3
"""How far beyond the outermost runs curves are drawn, as a ratio."""
REACH = 6.0
"""How far beyond the runs the plane is extended to where the frontier runs, as a ratio."""
CURVE_POINTS, CONTOUR_POINTS, FRONTIER_POINTS = 24, 48, 100
MAX_CONTOURS, MAX_COMPUTES = 14, 5
STEPS = (0.001, 0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1.0, 2.0, 5.0)
"""Distances between neighbouring contours, in nats; the finest that gives at most MAX_CONTOURS is taken."""
NEAR = 1 + 1e-9
"""Points this close to an edge are on it."""
ASPECT = 1.7
"""Width of the plane over its height, for distances as the eye sees them."""

Row = dict[str, Any]


@dataclass(frozen=True)
class Plane:
    """The rectangle of (N, D) that is drawn, and within it the one the runs span."""

    sizes: tuple[float, float]
    tokens: tuple[float, float]
    run_sizes: tuple[float, float]
    run_tokens: tuple[float, float]

    def among_runs(self, size: float, tokens: float) -> bool:
        """Whether a point lies in the rectangle the runs span, to rounding."""
        return _within(size, self.run_sizes) and _within(tokens, self.run_tokens)

    def sizes_at(self, compute: float) -> tuple[float, float] | None:
        """The sizes for which 6·N·D = compute lies on the plane; None where the diagonal misses it."""
        product = compute / FLOPS_PER_PARAMETER_TOKEN
        low, high = max(self.sizes[0], product / self.tokens[1]), min(self.sizes[1], product / self.tokens[0])
        return (low, high) if low < high else None

    def place(self, size: Floats, tokens: Floats) -> Floats:
        """Points as seen, [n, 2]: the plane's height is 1 and its width ASPECT."""
        across, up = (
            (np.log(x) - np.log(low)) / np.log(high / low)
            for x, (low, high) in ((size, self.sizes), (tokens, self.tokens))
        )
        return np.column_stack([ASPECT * across, up])


def run_rows(done: pl.DataFrame, fit: Fit) -> pl.DataFrame:
    """The runs that were fitted: run_id, label, seed, the law's variables and the loss, horizons as words."""
    axes = AXES[fit.form]
    named = done.select(
        "run_id", "label", "seed", *(pl.col(fit.columns[axis]).cast(pl.Float64()).alias(axis) for axis in axes),
        loss=pl.col(fit.columns["loss"]),
    )  # fmt: skip
    rows = named.filter(pl.col("loss").is_finite())
    return rows.with_columns(horizon=words(rows["D"])) if "D" in axes else rows


def words(values: pl.Series) -> pl.Series:
    """Whole numbers as a page spells them."""
    return pl.Series([count(round(value)) for value in values], dtype=pl.String())


def law_curves(fit: Fit, runs: pl.DataFrame) -> pl.DataFrame:
    """The law with its interval along N, one curve a horizon; along D where the law has no N: x, loss, low, high."""
    axes = AXES[fit.form]
    x = _spaced(*_widened(runs[axes[0]]), CURVE_POINTS)
    others = sorted(runs["D"].unique()) if len(axes) == 2 else [None]
    rows: list[Row] = []
    for tokens in others:
        for value in x:
            law = predict(fit, {axes[0]: value} if tokens is None else {"N": value, "D": tokens}).law
            rows.append({axes[0]: value, "tokens": tokens, "loss": law.value, "low": law.low, "high": law.high})
    curves = pl.DataFrame(rows)
    return curves if others == [None] else curves.with_columns(horizon=words(curves["tokens"])).drop("tokens")


def make_plane(fit: Fit, runs: pl.DataFrame) -> Plane:
    """The runs' rectangle, widened, and extended to the frontier at the runs' computes as far as REACH allows."""
    ends = frontier(fit, data_compute(fit)).optima
    spans: list[tuple[float, float]] = []
    for values, optima in ((runs["N"], [o.n_params for o in ends]), (runs["D"], [o.tokens for o in ends])):
        low, high = _range(values)
        best = [optimum.value for optimum in optima]
        spans.append((max(low / REACH, min(low, *best)) / MARGIN, min(high * REACH, max(high, *best)) * MARGIN))
    return Plane(spans[0], spans[1], _range(runs["N"]), _range(runs["D"]))


def round_computes(fit: Fit) -> list[float]:
    """A few round computes among those of the runs, in FLOPs; the two ends where none is round."""
    low, high = data_compute(fit)
    ticks = log_ticks(low, high) or [low, high]
    return ticks if len(ticks) <= MAX_COMPUTES else ticks[::2]


def contours(fit: Fit, plane: Plane, runs: pl.DataFrame) -> pl.DataFrame:
    """Lines of equal loss on the plane: loss, N, D, whether among the runs, and the piece each point belongs to."""
    rows: list[Row] = []
    for loss in _contour_losses(fit, plane, runs):
        sizes, tokens = _contour(fit, plane, loss)
        if len(sizes) < 2:
            continue
        points = [{"loss": loss, "N": n, "D": d} for n, d in zip(sizes.tolist(), tokens.tolist(), strict=True)]
        rows += _pieces(points, plane, f"{loss:g}")
    return pl.DataFrame(rows, schema=_PIECES)


def contour_labels(lines: pl.DataFrame, plane: Plane, occupied: pl.DataFrame) -> pl.DataFrame:
    """One point of each contour to write its loss at: as far as can be from what is drawn there, and from the others.

    `occupied` holds the N and D of dots and lines to keep clear of.
    """
    taken = plane.place(occupied["N"].to_numpy(), occupied["D"].to_numpy())
    decimals = max(len(f"{loss:.10g}".partition(".")[2]) for loss in [*lines["loss"], 0.1])
    rows: list[Row] = []
    for (loss,), line in lines.group_by("loss", maintain_order=True):
        places = plane.place(line["N"].to_numpy(), line["D"].to_numpy())
        clear = np.min(np.linalg.norm(places[:, None] - taken[None], axis=2), axis=1)
        edge = np.minimum(np.minimum(places[:, 0], ASPECT - places[:, 0]), np.minimum(places[:, 1], 1 - places[:, 1]))
        at = int(np.argmax(np.minimum(clear, edge)))
        taken = np.vstack([taken, places[at]])
        rows.append({"loss": loss, "label": f"{loss:.{decimals}f}", "N": line["N"][at], "D": line["D"][at]})
    return pl.DataFrame(rows, schema={"loss": pl.Float64(), "label": pl.String(), "N": pl.Float64(), "D": pl.Float64()})


def diagonals(plane: Plane) -> pl.DataFrame:
    """Lines of equal compute across the plane at round FLOPs: the two ends of each, label at the smaller size."""
    product = FLOPS_PER_PARAMETER_TOKEN
    rows: list[Row] = []
    for compute in log_ticks(product * plane.sizes[0] * plane.tokens[0], product * plane.sizes[1] * plane.tokens[1]):
        ends = plane.sizes_at(compute)
        if ends:
            points = [{"N": size, "D": compute / product / size, "compute": flop(compute)} for size in ends]
            points[0]["at_top"] = points[0]["D"] >= plane.tokens[1] / NEAR
            rows += points
    return pl.DataFrame(rows)


def frontier_line(fit: Fit, plane: Plane) -> tuple[pl.DataFrame, pl.DataFrame]:
    """The compute-optimal frontier on the plane in pieces like a contour's, and the outline of its band."""
    product = FLOPS_PER_PARAMETER_TOKEN
    ends = (product * plane.sizes[0] * plane.tokens[0], product * plane.sizes[1] * plane.tokens[1])
    line: list[Row] = []
    below: list[Row] = []
    above: list[Row] = []
    for optimum in frontier(fit, _spaced(*ends, FRONTIER_POINTS)[1:-1]).optima:
        size, here = optimum.n_params, plane.sizes_at(optimum.flops)
        if here is None or size.low is None or size.high is None:
            continue
        if here[0] <= size.value <= here[1]:
            line.append({"loss": optimum.loss.value, "N": size.value, "D": optimum.tokens.value})
        low, high = max(size.low, here[0]), min(size.high, here[1])
        if low < high:
            below.append({"N": low, "D": optimum.flops / product / low})
            above.append({"N": high, "D": optimum.flops / product / high})
    outline = pl.DataFrame([*below, *reversed(above)], schema={"N": pl.Float64(), "D": pl.Float64()})
    return pl.DataFrame(_pieces(line, plane, "frontier"), schema=_PIECES), outline.with_row_index("order")


def side_by_side(runs: pl.DataFrame, plane: Plane) -> pl.DataFrame:
    """The runs with those of equal N and D moved apart along N, a step of 1.2 % of the plane's width each."""
    step = (plane.sizes[1] / plane.sizes[0]) ** 0.012
    place = pl.int_range(pl.len()).over("N", "D") - (pl.len().over("N", "D") - 1) / 2
    return runs.with_columns(shown=pl.col("N") * step**place)


def isoflop_curves(fit: Fit, plane: Plane, computes: Sequence[float]) -> pl.DataFrame:
    """The law along constant compute: compute, N, loss, low, high, in pieces like a contour's."""
    rows: list[Row] = []
    for compute in computes:
        ends = plane.sizes_at(compute)
        points: list[Row] = []
        for size in _spaced(*ends, CURVE_POINTS) if ends else []:
            tokens = compute / FLOPS_PER_PARAMETER_TOKEN / size
            law = predict(fit, {"N": size, "D": tokens}).law
            band = {"loss": law.value, "low": law.low, "high": law.high}
            points.append({"compute": flop(compute), "N": size, "D": tokens, **band})
        rows += _pieces(points, plane, flop(compute))
    return pl.DataFrame(rows)


def isoflop_minima(fit: Fit, plane: Plane, computes: Sequence[float]) -> pl.DataFrame:
    """The minimum of each of these curves where it lies on the plane, its interval in N cut to the plane."""
    rows: list[Row] = []
    for optimum in frontier(fit, computes).optima:
        size, ends = optimum.n_params, plane.sizes_at(optimum.flops)
        if ends is None or size.low is None or size.high is None or not ends[0] <= size.value <= ends[1]:
            continue
        low, high = max(size.low, plane.sizes[0]), min(size.high, plane.sizes[1])
        rows.append(
            {"compute": flop(optimum.flops), "N": size.value, "low": low, "high": high, "loss": optimum.loss.value}
        )
    schema = {"compute": pl.String(), **dict.fromkeys(("N", "low", "high", "loss"), pl.Float64())}
    return pl.DataFrame(rows, schema=schema)


def profile_runs(runs: pl.DataFrame, profiles: Sequence[Profile]) -> pl.DataFrame:
    """The runs that make up the profiles, each with its profile's compute."""
    flops = pl.col("N") * pl.col("D") * FLOPS_PER_PARAMETER_TOKEN
    parts = [
        runs.filter((flops / profile.flops - 1).abs() <= SAME_COMPUTE).with_columns(compute=pl.lit(flop(profile.flops)))
        for profile in profiles
    ]
    return pl.concat(parts) if parts else runs.clear().with_columns(compute=pl.lit(None, pl.String()))


def flop(compute: float) -> str:
    """A compute like 20 TFLOP."""
    return f"{si(compute)}FLOP"


_PIECES: dict[str, pl.DataType] = {
    "loss": pl.Float64(), "N": pl.Float64(), "D": pl.Float64(), "among_runs": pl.Boolean(), "piece": pl.String()
}  # fmt: skip


def _pieces(points: list[Row], plane: Plane, name: str) -> list[Row]:
    """A line cut where it enters or leaves the runs' rectangle; neighbours share the point they are cut at."""
    rows: list[Row] = []
    number, before = 0, None
    for point in points:
        inside = plane.among_runs(point["N"], point["D"])
        if before is not None and inside != before["among_runs"]:
            number += 1
            shared = {"among_runs": inside, "piece": f"{name} {number}"}
            rows.append({**before, **shared})
        before = {**point, "among_runs": inside, "piece": f"{name} {number}"}
        rows.append(before)
    return rows


def _contour_losses(fit: Fit, plane: Plane, runs: pl.DataFrame) -> list[float]:
    """Round losses between the law's lowest on the plane and the highest among the runs."""
    lowest = predict(fit, {"N": plane.sizes[1], "D": plane.tokens[1]}).law.value
    highest = max(predict(fit, {"N": plane.run_sizes[0], "D": plane.run_tokens[0]}).law.value, _range(runs["loss"])[1])
    step = next(
        (step for step in STEPS if (highest - lowest) / step <= MAX_CONTOURS), (highest - lowest) / MAX_CONTOURS
    )
    return [round(k * step, 10) for k in range(int(np.ceil(lowest / step)), int(np.floor(highest / step)) + 1)]


def _contour(fit: Fit, plane: Plane, loss: float) -> tuple[Floats, Floats]:
    """Sizes, ascending, and tokens at which the law takes a loss, on the plane.

    Points are spaced along both axes, since a contour is steep at one end and flat at the other.
    """
    (floor, scale_n, scale_d, alpha, beta) = (
        fit.parameters[name].estimate.value for name in ("E", "A", "B", "alpha", "beta")
    )
    of_tokens = loss - floor - scale_d / np.array(_spaced(*plane.tokens, CONTOUR_POINTS)) ** beta
    steep = (scale_n / of_tokens[of_tokens > 0]) ** (1 / alpha)
    sizes = np.unique(
        [*_spaced(*plane.sizes, CONTOUR_POINTS), *steep[(steep > plane.sizes[0]) & (steep < plane.sizes[1])]]
    )
    of_sizes = loss - floor - scale_n / sizes**alpha
    sizes, of_sizes = sizes[of_sizes > 0], of_sizes[of_sizes > 0]
    tokens = (scale_d / of_sizes) ** (1 / beta)
    on_plane = [_within(value, plane.tokens) for value in tokens]
    return sizes[on_plane], tokens[on_plane]


def _within(value: float, ends: tuple[float, float]) -> bool:
    return ends[0] / NEAR <= value <= ends[1] * NEAR


def _widened(values: pl.Series) -> tuple[float, float]:
    low, high = _range(values)
    return low / MARGIN**0.5, high * MARGIN**0.5


def _spaced(low: float, high: float, points: int) -> list[float]:
    return np.geomspace(low, high, points).tolist()


def _range(values: pl.Series) -> tuple[float, float]:
    numbers = values.to_list()
    return min(numbers), max(numbers)
