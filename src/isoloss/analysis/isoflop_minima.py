"""Minima of polynomials through IsoFLOP profiles: of each alone, or of cubics with one asymmetry for all.

At equal compute L = E + A/N^α + B/D^β has third over second derivative by log N of β − α at its minimum, whatever the
compute. One such ratio for all profiles leaves more to tell where each minimum lies.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from math import log1p, sqrt

import numpy as np
from scipy import optimize, special

from isoloss.analysis.cells import SAME
from isoloss.analysis.laws import Floats

DIFFERENT = 0.01
"""Profiles keep asymmetries of their own where an F test finds that these differ with a p of at most this."""


@dataclass(frozen=True)
class Minimum:
    """Place (log N) and height of a curve's minimum, their standard errors per unit of noise, and what is left over."""

    x: float
    x_se: float
    height: float
    height_se: float
    squares: float
    df: int
    curvature: float
    """Second derivative by log N."""
    asymmetry: float
    """Third derivative over the second."""
    x_n: Floats
    """The points that the curve goes through: log N, log C less its mean where the loss may fall with it, the loss."""
    c_n: Floats | None
    y_n: Floats
    common_se: float = 0.0
    """What one standard error of the asymmetry that profiles share moves x by, in the unit of x_se."""

    @property
    def bracketed(self) -> bool:
        """Whether it lies between the second smallest and the second largest size."""
        inner = np.sort(self.x_n)[1:-1]
        return bool(inner[0] <= self.x <= inner[-1])


@dataclass(frozen=True)
class Minima:
    """Minima with what is common to them."""

    found: Sequence[Minimum]
    noise: float
    """Relative to the loss."""
    df: int
    n_alike: int = 0
    """How many have one asymmetry, 0 where each has its own."""


def minimum_of(x_n: Floats, c_n: Floats, y_n: Floats, degree: int) -> Minimum | None:
    """The polynomial's minimum at the mean compute; None where it is not bracketed.

    Where computes differ by more than 1% and there are points enough, the loss may also fall with log C.
    """
    centre = float(x_n.mean())
    basis_nxt = np.vander(x_n - centre, degree + 1, increasing=True)
    falls = float(np.ptp(c_n)) > log1p(SAME) and len(x_n) > degree + 2
    if falls:
        basis_nxt = np.column_stack([basis_nxt, c_n])
    coefficients_t, *_ = np.linalg.lstsq(basis_nxt, y_n, rcond=None)
    squares = float(np.sum((y_n - basis_nxt @ coefficients_t) ** 2))
    unit_txt = np.asarray(np.linalg.pinv(basis_nxt.T @ basis_nxt), dtype=np.float64)
    unit_txt = unit_txt[: degree + 1, : degree + 1]
    polynomial = np.polynomial.Polynomial(coefficients_t[: degree + 1])
    inner = np.sort(x_n - centre)[1:-1]
    minima = [
        float(root.real)
        for root in polynomial.deriv().roots()
        if abs(root.imag) < 1e-9 and inner[0] <= root.real <= inner[-1] and polynomial.deriv(2)(root.real) > 0
    ]
    if not minima:
        return None
    x = min(minima, key=lambda place: float(polynomial(place)))
    curvature = float(polynomial.deriv(2)(x))
    powers_t = np.arange(degree + 1)
    slope_t = powers_t * x ** np.maximum(powers_t - 1, 0)  # of the derivative by each coefficient
    x_se = float(np.sqrt(slope_t @ unit_txt @ slope_t)) / curvature
    height_t = x**powers_t
    height_se = float(np.sqrt(height_t @ unit_txt @ height_t))
    return Minimum(
        x + centre,
        x_se,
        float(polynomial(x)),
        height_se,
        squares,
        len(x_n) - basis_nxt.shape[1],
        curvature,
        float(polynomial.deriv(3)(x)) / curvature,
        x_n,
        c_n if falls else None,
        y_n,
    )


def each_alone(found: Sequence[Minimum]) -> Minima:
    """Minima whose curves have nothing in common but the noise."""
    df = sum(minimum.df for minimum in found)
    squares = sum(minimum.squares / minimum.height**2 for minimum in found)
    return Minima(found, sqrt(squares / df) if df else 0.0, df)


def alike(found: Sequence[Minimum]) -> Minima:
    """The minima of cubics H + Q·(u²/2 + S·u³/6), u = log N − log N*, with one S, by least squares from each alone.

    They stay alone where there are fewer than two, or where their asymmetries differ.
    """
    alone = each_alone(found)
    b, own_squares = len(found), alone.noise**2 * alone.df
    if b < 2 or own_squares == 0:
        return alone
    start_p = np.array(
        [
            *(minimum.x for minimum in found),
            *np.ones(b),
            *(np.log(minimum.curvature / minimum.height) for minimum in found),
            *np.zeros(sum(minimum.c_n is not None for minimum in found)),
            np.average([m.asymmetry for m in found], weights=[m.curvature / m.height for m in found]),
        ]
    )
    solved = optimize.least_squares(
        lambda theta_p: _residuals(found, theta_p)[0],
        start_p,
        jac=lambda theta_p: _residuals(found, theta_p)[1],
        x_scale="jac",
    )
    squares, df = 2 * float(solved.cost), alone.df + b - 1
    if special.fdtrc(b - 1, alone.df, (squares - own_squares) / (b - 1) / (own_squares / alone.df)) <= DIFFERENT:
        return alone
    theta_p, jacobian_nxp = solved.x, _residuals(found, solved.x)[1]
    unit_pxp = np.asarray(np.linalg.pinv(jacobian_nxp.T @ jacobian_nxp), dtype=np.float64)
    error_p = np.sqrt(np.diag(unit_pxp))
    together = [
        replace(
            minimum,
            x=float(theta_p[i]),
            x_se=float(error_p[i] / height),
            height=float(height),
            height_se=float(error_p[b + i]),
            curvature=float(np.exp(theta_p[2 * b + i]) * minimum.height),
            asymmetry=float(theta_p[-1]),
            common_se=float(unit_pxp[i, -1] / error_p[-1] / height),
        )
        for i, minimum in enumerate(found)
        for height in [theta_p[b + i] * minimum.height]
    ]
    return Minima(together, sqrt(squares / df), df, b)


def _residuals(found: Sequence[Minimum], theta_p: Floats) -> tuple[Floats, Floats]:
    """Cubics less losses, as shares of each minimum's height, shape [n], and derivatives by θ, [n, p].

    θ are the places, heights and log curvatures of all minima, the slopes on log C of those that have one, and S.
    """
    b, asymmetry = len(found), theta_p[-1]
    residuals: list[Floats] = []
    slopes: list[Floats] = []
    next_slope = 3 * b
    for i, minimum in enumerate(found):
        u_n, curvature = minimum.x_n - theta_p[i], np.exp(theta_p[2 * b + i])
        rise_n = curvature * (u_n**2 / 2 + asymmetry * u_n**3 / 6)
        fitted_n, slope_nxp = theta_p[b + i] + rise_n, np.zeros((len(u_n), len(theta_p)))
        slope_nxp[:, i] = -curvature * (u_n + asymmetry * u_n**2 / 2)
        slope_nxp[:, b + i] = 1.0
        slope_nxp[:, 2 * b + i] = rise_n
        slope_nxp[:, -1] = curvature * u_n**3 / 6
        if minimum.c_n is not None:
            fitted_n = fitted_n + theta_p[next_slope] * minimum.c_n
            slope_nxp[:, next_slope] = minimum.c_n
            next_slope += 1
        residuals.append(fitted_n - minimum.y_n / minimum.height)
        slopes.append(slope_nxp)
    return np.concatenate(residuals), np.vstack(slopes)
