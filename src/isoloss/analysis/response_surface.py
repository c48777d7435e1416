"""A response surface over settings of many values, as random search draws them: what matters, and where it is best.

Powers of each setting and products of pairs, shrunk by `surface_fit`. Importance is the share of the variance of the
response over these runs; intervals are of draws of the surface given the data (Gelman and others 2013, chapter 14),
conditional on the sizes of the groups.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import polars as pl
from numpy.typing import NDArray
from scipy import special

from isoloss.analysis.columns import usable_rows
from isoloss.analysis.estimate import LEVEL, Estimate
from isoloss.analysis.factor import MAX_LEVELS
from isoloss.analysis.factorial import Floats
from isoloss.analysis.factorial_table import MAX_FACTORS, check_roles
from isoloss.analysis.optimum import Optimum, sought
from isoloss.analysis.response_scale import Scale
from isoloss.analysis.roles import check_columns, is_quantity
from isoloss.analysis.surface_fit import ShrunkFit, fit_shrunk
from isoloss.diagnostic import Diagnostic
from isoloss.errors import ConfigError

MANY_VALUES = 10
"""Values beyond which a factor that seldom repeats them is a covariate."""
PAIRED = 12
"""Factors, those with the largest share, whose products are in the model."""
MIN_RUNS = 8
DECADE = 10.0
"""A positive factor that spans it is taken on its log scale."""
DRAWS, PLACES = 600, 601
TELLS = 0.001
"""Share of the variance from which on, with 97.5% probability, a factor's optimum is given."""


@dataclass(frozen=True)
class Importance:
    """Share of the response's variance over these runs that a factor explains alone, and with its interactions."""

    factor: str
    scale: str
    alone: Estimate
    total: Estimate


@dataclass(frozen=True)
class Surface:
    """A response surface of `n` runs. `noise_sd` is what it leaves of a run.

    `explained` is the share of the variance that the surface explains, `predicted` of runs left out one at a time.
    """

    response: str
    n: int
    noise_sd: float
    explained: float
    predicted: float
    importance: tuple[Importance, ...]
    optima: tuple[Optimum, ...]
    cautions: tuple[Diagnostic, ...]
    scale: Scale = "raw"
    """Of the response, whose name says it too."""


@dataclass(frozen=True)
class _Axis:
    """A factor as columns: powers of a number on its scale, or one for each word but the first."""

    name: str
    value_n: Floats | None
    log: bool
    columns_nxt: Floats

    @property
    def scale(self) -> str:
        """In words."""
        return "words" if self.value_n is None else "log" if self.log else "linear"

    @property
    def linear_nxt(self) -> Floats:
        """What is multiplied with another factor's."""
        return self.columns_nxt if self.value_n is None else self.columns_nxt[:, :1]


def needs_surface(table: pl.DataFrame, factors: Sequence[str]) -> bool:
    """Whether a number among the factors has many values that seldom repeat, or the factors are too many for cells."""
    names = list(dict.fromkeys(factors))
    check_columns(names, table.columns)
    return len(names) > MAX_FACTORS or any(_many(table[name]) for name in names)


def _many(column: pl.Series) -> bool:
    values = column.drop_nulls()
    distinct = values.n_unique()
    return is_quantity(values) and (distinct > MAX_LEVELS or (distinct > MANY_VALUES and distinct > len(values) / 2))


def analyse_surface(table: pl.DataFrame, response: str, factors: Sequence[str]) -> Surface:
    """Fit a response surface to a table with one row a run.

    Raises ConfigError when a column is missing or unfit, or there are fewer than MIN_RUNS runs.
    """
    names = list(dict.fromkeys(factors))
    check_columns([response, *names], table.columns)
    check_roles(response, names, None)
    numeric = [name for name in names if table[name].dtype.is_float()]
    rows = usable_rows(table, numeric=[response, *numeric], other=[name for name in names if name not in numeric])
    y_n, n = rows.floats(response), len(rows.table)
    if n < MIN_RUNS:
        raise ConfigError(f"{n} runs are too few for a response surface: at least {MIN_RUNS}")
    varying = [name for name in names if rows.table[name].n_unique() > 1]
    if not varying or float(np.ptp(y_n)) == 0.0:
        raise ConfigError(f"neither '{response}' nor a factor may be the same in all {n} runs", (response,))
    axes = [_axis(rows.table[name]) for name in varying]
    centre = float(y_n.mean())
    chosen = _strongest(axes, y_n - centre)
    owners, parts = _terms(axes, chosen)
    x_nxt = np.hstack(parts)
    group_t = np.repeat(np.arange(len(parts)), [part.shape[1] for part in parts])
    fit = fit_shrunk(x_nxt, y_n - centre, group_t)
    residual_n = y_n - centre - x_nxt @ fit.mean_t
    total = float(((y_n - centre) ** 2).sum())
    left_out = float(((residual_n / (1 - fit.leverage_n)) ** 2).sum())
    draws_dxt = _draws(fit)
    importance = list(_importance(axes, owners, parts, draws_dxt, fit, n))
    tells = [i for i, each in enumerate(importance) if each.alone.low is not None and each.alone.low > TELLS]
    found = [_optimum(axes[i], group_t == owners.index((i,)), draws_dxt, fit, response) for i in tells]
    cautions = [*rows.cautions, *_lack_of_fit(axes, residual_n), *_pairs_left_out(axes, chosen)]
    return Surface(
        response,
        n,
        math.sqrt(fit.noise),
        1 - fit.noise * (n - 1) / total if fit.noise * (n - 1) < total else 0.0,
        1 - left_out / total,
        tuple(sorted(importance, key=lambda each: -each.total.value)),
        tuple(each for each in found if each is not None),
        tuple(cautions),
    )


def _axis(column: pl.Series) -> _Axis:
    if not is_quantity(column):
        words, code_n = np.unique(column.cast(pl.String()).to_numpy(), return_inverse=True)
        if len(words) > MAX_LEVELS:
            text = f"factor '{column.name}' has {len(words):,} labels, at most {MAX_LEVELS}: leave it out"
            raise ConfigError(text, (column.name,))
        return _Axis(column.name, None, False, _centred((code_n[:, None] == np.arange(1, len(words))) * 1.0))
    value_n = column.cast(pl.Float64()).to_numpy()
    log = bool(value_n.min() > 0 and value_n.max() >= DECADE * value_n.min())
    return _Axis(column.name, value_n, log, _powers(value_n, value_n, log))


def _powers(value_p: Floats, observed_n: Floats, log: bool) -> Floats:
    """The first three powers, fewer of few values, on the scale of the observed ones and centred over them."""

    def on_scale(values: Floats) -> Floats:
        return np.log(values) if log else values

    ends = on_scale(np.array([observed_n.min(), observed_n.max()]))
    middle, half = float(ends.mean()), float(np.ptp(ends)) / 2
    z_p, z_n = (on_scale(value_p) - middle) / half, (on_scale(observed_n) - middle) / half
    degrees = np.arange(1, min(3, len(np.unique(observed_n)) - 1) + 1)
    return z_p[:, None] ** degrees - (z_n[:, None] ** degrees).mean(axis=0)


def _centred(x_nxt: Floats) -> Floats:
    return x_nxt - x_nxt.mean(axis=0)


def _strongest(axes: Sequence[_Axis], y_n: Floats) -> list[int]:
    """The factors whose products are in the model: all of a few, else those with the largest effects of their own."""
    if len(axes) <= PAIRED:
        return list(range(len(axes)))
    parts = [axis.columns_nxt for axis in axes]
    fit = fit_shrunk(np.hstack(parts), y_n, np.repeat(np.arange(len(parts)), [part.shape[1] for part in parts]))
    ends = np.cumsum([part.shape[1] for part in parts])
    sizes = [float((part @ fit.mean_t[end - part.shape[1] : end]).var()) for part, end in zip(parts, ends, strict=True)]
    return sorted(np.argsort(sizes)[::-1][:PAIRED].tolist())


def _terms(axes: Sequence[_Axis], chosen: Sequence[int]) -> tuple[list[tuple[int, ...]], list[Floats]]:
    """Groups of columns: each factor's own, then the products of pairs; and the factors of each."""
    owners: list[tuple[int, ...]] = [(i,) for i in range(len(axes))]
    parts = [axis.columns_nxt for axis in axes]
    for one, other in itertools.combinations(chosen, 2):
        a_nxt, b_nxt = axes[one].linear_nxt, axes[other].linear_nxt
        parts.append(_centred((a_nxt[:, :, None] * b_nxt[:, None, :]).reshape(len(a_nxt), -1)))
        owners.append((one, other))
    return owners, parts


def _draws(fit: ShrunkFit) -> Floats:
    values_t, vectors_txt = np.linalg.eigh(fit.covariance_txt)
    spread_txt = vectors_txt * np.sqrt(np.maximum(values_t, 0))
    normal_dxt = np.random.default_rng(0).standard_normal((DRAWS, len(fit.mean_t)))
    return np.asarray(fit.mean_t + normal_dxt @ spread_txt.T, dtype=np.float64)


def _importance(
    axes: Sequence[_Axis],
    owners: Sequence[tuple[int, ...]],
    parts: Sequence[Floats],
    draws_dxt: Floats,
    fit: ShrunkFit,
    n: int,
) -> Iterator[Importance]:
    ends = np.cumsum([part.shape[1] for part in parts])
    variance_gxd = np.array(
        [_variances(part, draws_dxt[:, end - part.shape[1] : end]) for part, end in zip(parts, ends, strict=True)]
    )
    total_d = _variances(np.hstack(parts), draws_dxt) + fit.noise
    method = f"share of the variance of the response over {n} runs, draws of a shrunk response surface"
    for i, axis in enumerate(axes):
        own = np.array([owner == (i,) for owner in owners])
        any_of = np.array([i in owner for owner in owners])
        alone, every = (
            _summary(np.minimum(variance_gxd[which].sum(axis=0) / total_d, 1.0), n, method) for which in (own, any_of)
        )
        yield Importance(axis.name, axis.scale, alone, every)


def _variances(part_nxt: Floats, draws_dxt: Floats) -> Floats:
    """Of what some columns contribute to each run, over the runs, for each draw."""
    moments_txt = part_nxt.T @ part_nxt / len(part_nxt)
    return np.asarray((draws_dxt @ moments_txt * draws_dxt).sum(axis=1), dtype=np.float64)


def _summary(value_d: Floats, n: int, method: str) -> Estimate:
    low, middle, high = np.quantile(value_d, [(1 - LEVEL) / 2, 0.5, (1 + LEVEL) / 2]).tolist()
    return Estimate(middle, low, high, LEVEL, n, method)


def _optimum(axis: _Axis, own_t: NDArray[np.bool_], draws_dxt: Floats, fit: ShrunkFit, response: str) -> Optimum | None:
    """Where the surface, averaged over all other factors, is best; None for words and for two values."""
    value_n = axis.value_n
    if value_n is None or axis.columns_nxt.shape[1] < 2:
        return None
    ends = float(value_n.min()), float(value_n.max())
    place_p = np.geomspace(*ends, PLACES) if axis.log else np.linspace(*ends, PLACES)
    basis_pxt = _powers(place_p, value_n, axis.log)
    sign = -1.0 if sought(response) == "highest" else 1.0
    curve_dxp = sign * draws_dxt[:, own_t] @ basis_pxt.T
    best_d = place_p[np.argmin(curve_dxp, axis=1)]
    value = float(place_p[int(np.argmin(sign * basis_pxt @ fit.mean_t[own_t]))])
    low, high = np.quantile(best_d, [(1 - LEVEL) / 2, (1 + LEVEL) / 2], method="nearest").tolist()
    return Optimum(
        factor=axis.name,
        at={},
        value=value,
        low=None if low <= place_p[0] else min(low, value),
        high=None if high >= place_p[-1] else max(high, value),
        best_level=float(value_n[np.argmin(np.abs(value_n - value))]),
        indistinguishable=(),
        edge=value in (float(place_p[0]), float(place_p[-1])),
        response=response,
        method=f"minimum of a shrunk cubic in {'log ' if axis.log else ''}{axis.name} over {DRAWS} draws",
        n=len(value_n),
        sought=sought(response),
    )


def _lack_of_fit(axes: Sequence[_Axis], residual_n: Floats) -> Iterator[Diagnostic]:
    """Factors along which neighbouring residuals are alike, at 5% over all (von Neumann 1941)."""
    numeric = [axis for axis in axes if axis.value_n is not None and len(np.unique(axis.value_n)) > MANY_VALUES]
    n = len(residual_n)
    for axis in numeric:
        assert axis.value_n is not None
        sorted_n = residual_n[np.argsort(axis.value_n, kind="stable")]
        ratio = float((np.diff(sorted_n) ** 2).sum() / max(float((sorted_n**2).sum()), 1e-300))
        p = float(special.ndtr((ratio - 2) / math.sqrt(4 * (n - 2) / (n**2 - 1))))
        if p < (1 - LEVEL) / len(numeric):
            text = (
                f"The surface misses how {axis.name} acts: runs of neighbouring values miss it alike (p = {p:.2g}), so "
                "its optimum may lie elsewhere."
            )
            remedy = f"Analyse the runs near the best {axis.name} alone."
            yield Diagnostic("lack_of_fit", "limits", text, remedy)


def _pairs_left_out(axes: Sequence[_Axis], chosen: Sequence[int]) -> Iterator[Diagnostic]:
    if len(chosen) < len(axes):
        text = (
            f"Interactions are looked for among the {len(chosen)} of {len(axes)} factors with the largest effects of "
            "their own."
        )
        yield Diagnostic("pairs_left_out", "note", text)
