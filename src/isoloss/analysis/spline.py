"""Cubic splines without the knots next to the ends (not-a-knot; de Boor 1978), by numpy alone.

Loading scipy's takes longer than all that is interpolated here.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]


def spline(x_p: Floats, y_p: Floats) -> Callable[[Floats], Floats]:
    """The cubic spline through four points or more, `x_p` ascending; infinite outside of them."""
    step_p, slope_p = np.diff(x_p), np.diff(y_p) / np.diff(x_p)
    rise_p = _derivatives(step_p, slope_p)
    twist_p = (rise_p[:-1] + rise_p[1:] - 2 * slope_p) / step_p
    bend_p = (slope_p - rise_p[:-1]) / step_p - twist_p

    def value(at: Floats) -> Floats:
        p = np.clip(np.searchsorted(x_p, at, side="right") - 1, 0, len(step_p) - 1)
        u = at - x_p[p]
        found = y_p[p] + u * (rise_p[p] + u * (bend_p[p] + u * (twist_p / step_p)[p]))
        return np.where((at < x_p[0]) | (at > x_p[-1]), np.inf, found)

    return value


def _derivatives(step_p: Floats, slope_p: Floats) -> Floats:
    """Those at all points, between which the intervals have these lengths and slopes."""
    system_pxp = np.zeros((len(step_p) + 1, len(step_p) + 1))
    right_p = np.zeros(len(system_pxp))
    inner = np.arange(1, len(step_p))
    system_pxp[inner, inner - 1] = step_p[1:]
    system_pxp[inner, inner] = 2 * (step_p[:-1] + step_p[1:])
    system_pxp[inner, inner + 1] = step_p[:-1]
    right_p[inner] = 3 * (step_p[1:] * slope_p[:-1] + step_p[:-1] * slope_p[1:])
    for row, (beside, end), (near, far) in ((0, (1, 0), (0, 1)), (-1, (-2, -1), (-1, -2))):
        both = step_p[near] + step_p[far]
        system_pxp[row, end], system_pxp[row, beside] = step_p[far], both
        right_p[row] = (step_p[near] + 2 * both) * step_p[far] * slope_p[near] + step_p[near] ** 2 * slope_p[far]
        right_p[row] /= both
    return np.asarray(np.linalg.solve(system_pxp, right_p), dtype=np.float64)
