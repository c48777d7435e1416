"""Least squares for factorials: main effects and two-factor interactions, blocks taken out, no cell assumed equal.

Factors are coded by columns that sum to zero over their levels, so that a contrast of least-squares means (cells
weighted alike: Searle, Speed and Milliken 1980) reads its own term's coefficients alone. Additive blocks are swept out
of both sides (Frisch and Waugh 1933, Lovell 1963), so that their number costs nothing.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any, cast

import numpy as np
from numpy.typing import NDArray
from scipy import linalg, special

from isoloss.analysis.factor import Factor
from isoloss.analysis.factorial_table import FactorialTable

Floats = NDArray[np.float64]
Term = tuple[int, ...]
"""The factors of a main effect or an interaction, by position."""

TOLERANCE = 1e-6
"""A direction of the design below this share of its columns' length is rounding; one run in 100,000 makes 3e-3."""


MAX_DEGREE = 2
"""Of polynomials in interactions where cells are empty."""


@dataclass(frozen=True)
class SumOfSquares:
    """What a term adds to a model, on how many degrees of freedom; 0 of them where the runs do not determine it."""

    value: float
    df: int


@dataclass(frozen=True)
class TwoFactorFit:
    """The model of all main effects and two-factor interactions, in r orthonormal coordinates of its t columns.

    `codings` are those of the factors' levels, `pair_codings` those in interactions: the same, or where cells are empty
    polynomials of `degree`, and nothing of words.
    `solver_rxt` turns a contrast of coefficients into one of coordinates: the transposed coordinates' pseudo-inverse.
    `basis_gxr` and `observed_g` are the coordinates' axes and the response of g groups of runs that share cell and
    block, less their block's mean and times the root of their number; `block_g` is the block.
    """

    columns: dict[Term, slice]
    codings: tuple[Floats, ...]
    pair_codings: tuple[Floats, ...]
    degree: int | None
    coordinates_rxt: Floats
    response_r: Floats
    solver_rxt: Floats
    residual: SumOfSquares
    basis_gxr: Floats
    observed_g: Floats
    block_g: NDArray[np.intp]

    def type_two(self, term: Term) -> SumOfSquares:
        """A term adjusted for every term that does not contain it (Type II; Yates 1934, Langsrud 2003)."""
        added_rxd = self.added(term)
        return SumOfSquares(float(((added_rxd.T @ self.response_r) ** 2).sum()), added_rxd.shape[1])

    def added(self, term: Term) -> Floats:
        """The d orthonormal directions that a term adds to all terms that do not contain it, shape [r, d]."""
        return self._directions[term]

    @cached_property
    def _directions(self) -> dict[Term, Floats]:
        """Of every term, computed when one is first asked for."""
        return {term: self._added(term) for term in self.columns}

    def _added(self, term: Term) -> Floats:
        own, slice_ = set(term), self.columns[term]
        if slice_.start == slice_.stop:
            return np.zeros((len(self.response_r), 0))
        others = [self.coordinates_rxt[:, each] for other, each in self.columns.items() if not own <= set(other)]
        return _directions(self.coordinates_rxt[:, slice_], _basis(others, len(self.response_r)))

    def determines_means(self) -> bool:
        """Whether differences between the means of all factors' levels are determined."""
        return all(
            self.contrast((position,), [column_l]) is not None
            for position, coding in enumerate(self.codings)
            for column_l in coding.T
        )

    def contrast(self, term: Term, weights: Sequence[Floats]) -> Floats | None:
        """What a contrast of least-squares means weighs each coordinate by, shape [r]: its value is that of `value`.

        `weights` are those of each factor's levels. None when the runs do not determine it.
        """
        own, codings = np.ones(1), self.codings if len(term) == 1 else self.pair_codings
        for position, weights_l in zip(term, weights, strict=True):
            own = np.kron(own, weights_l @ codings[position])
        if not own.size:
            return None
        wanted_t = np.zeros(self.coordinates_rxt.shape[1])
        wanted_t[self.columns[term]] = own
        solved_r = self.solver_rxt @ wanted_t
        if np.linalg.norm(wanted_t - solved_r @ self.coordinates_rxt) > TOLERANCE * np.linalg.norm(wanted_t):
            return None
        return solved_r

    def value(self, weights_r: Floats) -> float:
        """The value of a contrast."""
        return float(weights_r @ self.response_r)

    def level_means(self, position: int, at: tuple[int, int] | None = None) -> tuple[NDArray[np.intp], Floats, Floats]:
        """Least-squares means of a factor's levels, up to a shift of all, and their covariance in error variances.

        With `at`, another factor and a level of it, the means at that level. The first array has the levels, of all
        those whose differences the runs determine the largest set.
        """
        coding_lxt = self.codings[position]
        wanted_lxt = np.zeros((len(coding_lxt), self.coordinates_rxt.shape[1]))
        wanted_lxt[:, self.columns[position,]] = coding_lxt
        if at is not None:
            other, level = at
            first = (self.pair_codings[position], self.pair_codings[other][level : level + 1])
            pair = first if position < other else first[::-1]
            wanted_lxt[:, self.columns[min(position, other), max(position, other)]] = np.kron(*pair)
        solved_lxr = wanted_lxt @ self.solver_rxt.T
        missed_lxt = wanted_lxt - solved_lxr @ self.coordinates_rxt
        apart_lxl = np.linalg.norm(missed_lxt[:, None] - missed_lxt, axis=-1)
        same_lxl = apart_lxl <= TOLERANCE * np.linalg.norm(wanted_lxt, axis=1).max()
        levels = np.flatnonzero(same_lxl[int(same_lxl.sum(axis=1).argmax())])
        return levels, solved_lxr[levels] @ self.response_r, solved_lxr[levels] @ solved_lxr[levels].T


def fit_two_factor(runs: FactorialTable) -> TwoFactorFit:
    """Fit main effects and two-factor interactions, with an additive effect of each block; needs a factor or more.

    Where cells are empty and hide main effects, interactions are restricted as far as that takes: to products of
    parabolas, then of lines, then to none; words have none then.
    """
    full = _fit(runs, None)
    if runs.complete or full.determines_means():
        return full
    restricted = (_fit(runs, degree) for degree in range(MAX_DEGREE, -1, -1))
    return next((fit for fit in restricted if fit.determines_means()), full)


def _fit(runs: FactorialTable, degree: int | None) -> TwoFactorFit:
    codings = tuple(_coding(len(factor.levels)) for factor in runs.factors)
    pairs = codings if degree is None else tuple(_polynomial_coding(factor, degree) for factor in runs.factors)
    main, slopes = (
        [coding[runs.cells_cxf[:, position]] for position, coding in enumerate(each)] for each in (codings, pairs)
    )
    columns: dict[Term, slice] = {}
    parts: list[Floats] = []
    start = 0
    for term in terms_of(len(runs.factors)):
        part = main[term[0]]
        if len(term) == 2:
            first_cxk, second_cxk = slopes[term[0]], slopes[term[1]]
            size = first_cxk.shape[1] * second_cxk.shape[1]
            part = (first_cxk[:, :, None] * second_cxk[:, None, :]).reshape(runs.n_cells, size)
        parts.append(part)
        columns[term] = slice(start, start + part.shape[1])
        start += part.shape[1]
    # Blocks that have the same runs see the same design, whose basis is then that of one of them.
    same = runs.counts_cxb.shape[1] if np.ptp(runs.counts_cxb) == 0 else 1
    x_gxt, y_g = _without_blocks(runs, np.hstack(parts), same)
    basis_gxr = _basis([x_gxt[:, slice_] for slice_ in columns.values()], len(x_gxt))
    coordinates_rxt, basis_gxr = basis_gxr.T @ x_gxt, np.repeat(basis_gxr, same, axis=0) / math.sqrt(same)
    response_r = basis_gxr.T @ y_g
    missed = float(((y_g - basis_gxr @ response_r) ** 2).sum())
    residual = SumOfSquares(missed + runs.within_ss, runs.n - runs.counts_cxb.shape[1] - len(response_r))
    solver_rxt = np.asarray(np.linalg.solve(coordinates_rxt @ coordinates_rxt.T, coordinates_rxt), dtype=np.float64)
    block_g = np.tile(np.arange(runs.counts_cxb.shape[1], dtype=np.intp), runs.n_cells)
    model = columns, codings, pairs, degree, coordinates_rxt, response_r, solver_rxt, residual
    return TwoFactorFit(*model, basis_gxr, y_g, block_g)


def terms_of(n_factors: int) -> list[Term]:
    """All main effects, then all two-factor interactions."""
    return [*((a,) for a in range(n_factors)), *itertools.combinations(range(n_factors), 2)]


def pure_error(runs: FactorialTable) -> SumOfSquares:
    """How far runs of a cell differ once an additive effect of their block is taken out; no model of the factors."""
    counts_cxb, means_cxb = runs.counts_cxb, runs.means_cxb
    if counts_cxb.shape[0] < counts_cxb.shape[1]:  # the smaller side is solved for, the larger averaged out
        counts_cxb, means_cxb = counts_cxb.T, means_cxb.T
    share_cxb = counts_cxb / counts_cxb.sum(axis=1, keepdims=True)
    centred_cxb = means_cxb - (share_cxb * means_cxb).sum(axis=1, keepdims=True)
    normal_bxb = np.diag(counts_cxb.sum(axis=0)) - counts_cxb.T @ share_cxb
    df = runs.n - counts_cxb.shape[0] - int(np.linalg.matrix_rank(normal_bxb, hermitian=True))
    inverse_bxb = np.asarray(np.linalg.pinv(normal_bxb, hermitian=True), dtype=np.float64)
    effect_b = inverse_bxb @ (counts_cxb * centred_cxb).sum(axis=0)
    fitted_cxb = effect_b - (share_cxb @ effect_b)[:, None]
    between = float((counts_cxb * (centred_cxb - fitted_cxb) ** 2).sum())
    return SumOfSquares(between + runs.within_ss, df)


def t_quantile(probability: float, df: float) -> float:
    """Quantile of Student's t; `df` need not be whole."""
    return float(special.stdtrit(df, probability))


def t_two_sided(t: float, df: float) -> float:
    """Probability of a value of Student's t at least as far from zero."""
    return float(2.0 * special.stdtr(df, -abs(t)))


def f_quantile(probability: float, df: float, error_df: float) -> float:
    """Quantile of F."""
    return float(special.fdtri(df, error_df, probability))


def f_upper(f: float, df: float, error_df: float) -> float:
    """Probability of a larger value of F."""
    return float(special.fdtrc(df, error_df, f))


def _coding(levels: int) -> Floats:
    """Orthonormal columns that sum to zero over the levels (Helmert), shape [levels, levels - 1]."""
    return np.asarray(cast(Any, linalg).helmert(levels).T, dtype=np.float64)


def _polynomial_coding(factor: Factor, degree: int) -> Floats:
    """Orthonormal polynomials up to a degree, over the logarithms of positive levels; no columns for words."""
    degree = min(degree, len(factor.levels) - 1) if factor.numeric else 0
    z_l = np.asarray(factor.levels if factor.numeric else range(len(factor.levels)), dtype=np.float64)
    z_l = np.log2(z_l) if (z_l > 0).all() else z_l
    powers_lxd = np.vander((z_l - z_l.mean()) / np.ptp(z_l), degree + 1, increasing=True)
    return np.linalg.qr(powers_lxd)[0][:, 1:]


def _without_blocks(runs: FactorialTable, x_cxt: Floats, same: int) -> tuple[Floats, Floats]:
    """Design and response a group of runs, less their block's mean, times the root of the group's runs.

    The design of so many blocks that have the `same` is given once, times the root of their number.
    """
    weights_cxb = runs.counts_cxb / runs.counts_cxb.sum(axis=0)
    roots_cxb = np.sqrt(runs.counts_cxb)
    y_cxb = runs.means_cxb - (weights_cxb * runs.means_cxb).sum(axis=0)
    x_cxbxt = (x_cxt[:, None, :] - weights_cxb[:, ::same].T @ x_cxt) * (math.sqrt(same) * roots_cxb[:, ::same, None])
    return x_cxbxt.reshape(-1, x_cxt.shape[1]), (y_cxb * roots_cxb).ravel()


def _basis(blocks: Sequence[Floats], rows: int) -> Floats:
    """Orthonormal columns that span all blocks of columns."""
    basis = np.zeros((rows, 0))
    for block in blocks:
        basis = np.hstack([basis, _directions(block, basis)])
    return basis


def _directions(block: Floats, basis: Floats) -> Floats:
    """Orthonormal columns that span what a block of columns adds to an orthonormal basis.

    Block Gram-Schmidt, done twice for orthogonality to rounding (Giraud and others 2005); nearly all matrix products.
    """
    shortest = TOLERANCE**2 * float((block**2).sum(axis=0).max(initial=0.0))
    for _ in range(2):
        block = block - basis @ (basis.T @ block)
        squares, vectors = np.linalg.eigh(block.T @ block)
        kept = squares > shortest
        block = block @ vectors[:, kept] / np.sqrt(squares[kept])
        shortest = 0.5  # what the first round kept has length 1 now, or was rounding and shrinks
    return block
