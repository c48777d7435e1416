"""What a law leaves over: whether its residuals still depend on size, on tokens, or on their product.

Added-variable F tests in the linearised law (Cook and Weisberg 1982): by how much do levels of a variable, or powers of
it, lower the squares that the law's own derivatives leave between cells.
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
from scipy import special

from isoloss.analysis.cells import close_groups
from isoloss.analysis.estimate import LEVEL, p_in_words
from isoloss.analysis.laws import AXES, Floats, Law
from isoloss.analysis.solve import Objective
from isoloss.analysis.uncertainty import cells, least_squares_fit
from isoloss.diagnostic import Diagnostic

MOST_LEVELS = 8
"""A variable with more levels is tested by its square and cube, else level by level."""
NOUNS = {"N": "size", "D": "tokens", "C": "compute"}


def residual_trends(law: Law, objective: Objective, theta_p: Floats) -> list[Diagnostic]:
    """A caution for each variable, and for the product of two, on which residuals depend; 5% false among all tests."""
    residuals_n, jacobian_nxp = least_squares_fit(law, objective, theta_p)
    cell_n, _ = cells(law)
    root_c = np.sqrt(np.bincount(cell_n))

    def between(column_n: Floats) -> Floats:
        return np.bincount(cell_n, column_n) / root_c

    jacobian_cxp = np.column_stack([between(column_n) for column_n in jacobian_nxp.T])
    tests = list(_columns(law))
    found: list[Diagnostic] = []
    for axes, added_nxt in tests:
        added_cxt = np.column_stack([between(column_n) for column_n in added_nxt.T])
        p = p_of_added(between(residuals_n), jacobian_cxp, added_cxt)
        if p is None or p * len(tests) >= 1 - LEVEL:
            continue
        name = " and ".join(f"{NOUNS[axis]} {axis}" for axis in axes)
        if len(axes) == 1:
            text = (
                f"Residuals depend on {name} (p {p_in_words(p)}): the law misses some of its values more than others."
            )
            remedy = (
                "Look for what changes along with it, such as a learning rate tuned at one size or data seen more than "
                "once; another form may do."
            )
        else:
            text = f"Residuals depend on {name} together (p {p_in_words(p)}): their effects do not add up."
            remedy = "Fit the form with an interaction (--form LNDX)."
        found.append(Diagnostic("residuals_trend", "limits", text, remedy))
    return found


def _columns(law: Law) -> Iterator[tuple[tuple[str, ...], Floats]]:
    """What residuals may depend on: variables, and columns that stand for such a dependence, [n, t]."""
    axes = AXES[law.form]
    for axis, x_n in zip(axes, law.x_Kxn, strict=False):
        level_n = close_groups(x_n)
        levels = int(level_n.max()) + 1
        by_level = levels <= MOST_LEVELS and len(axes) > 1
        yield (axis,), np.eye(levels)[level_n] if by_level else np.column_stack([x_n**2, x_n**3])
    if len(axes) == 2 and law.form != "LNDX":
        yield axes, (law.x_Kxn[0] * law.x_Kxn[1])[:, None]


def p_of_added(residuals_c: Floats, jacobian_cxp: Floats, added_cxt: Floats) -> float | None:
    """p of the F test that the added columns explain nothing; None where too few cells are left."""
    width_p = np.maximum(np.linalg.norm(jacobian_cxp, axis=0), 1e-300)
    basis_cxp, _ = np.linalg.qr(jacobian_cxp / width_p)
    left_c = residuals_c - basis_cxp @ (basis_cxp.T @ residuals_c)
    inside_cxt = added_cxt - basis_cxp @ (basis_cxp.T @ added_cxt)
    directions_cxt, sizes_t, _ = np.linalg.svd(inside_cxt, full_matrices=False)
    directions_cxt = directions_cxt[:, sizes_t > 1e-6 * np.linalg.norm(added_cxt)]
    more = len(directions_cxt.T)
    df = len(residuals_c) - jacobian_cxp.shape[1] - more
    if more == 0 or df < 2:
        return None
    explained = float(np.sum((directions_cxt.T @ left_c) ** 2))
    unexplained = float(left_c @ left_c) - explained
    ratio = explained / more / max(unexplained / df, 1e-300)
    return float(np.asarray(special.fdtrc(more, df, ratio), dtype=np.float64))
