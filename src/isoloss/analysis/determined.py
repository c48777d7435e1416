"""What an unidentified law's data do determine: an exponent, a combination of two, the fitted values."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from math import exp, sqrt

import numpy as np
from scipy import special

from isoloss.analysis.cells import close_groups
from isoloss.analysis.estimate import LEVEL, Estimate, in_words
from isoloss.analysis.law_doubts import COLLINEAR, at_bound, flat_exponents
from isoloss.analysis.laws import AXES, EXPONENTS, Floats, Form, Law
from isoloss.analysis.solve import Objective, Solution
from isoloss.analysis.uncertainty import cells, least_squares_fit
from isoloss.design.audit_scaling import FEWEST_LEVELS
from isoloss.diagnostic import Diagnostic
from isoloss.wording import count, listed, percent

MOST_HALF = 0.5
"""An exponent, and the log of a floor, is determined where its interval is no wider than ± this."""
UNSEEN = 1e-4
"""A direction of θ whose singular value is below this share of the largest is not seen in the data."""


def determined(law: Law, objective: Objective, solution: Solution) -> dict[str, Estimate]:
    """The exponents and the floor whose delta-method interval is narrow though the law as a whole is not identified.

    Parameters at a bound are held there; directions that the data do not show are left out, and so are all parameters
    that depend on them.
    """
    theta_p = solution.theta_p
    if flat_exponents(law, solution):
        return {}
    residuals_n, jacobian_nxp = least_squares_fit(law, objective, theta_p)
    held = at_bound(law, theta_p)
    kept = [i for i, name in enumerate(law.free_names) if name not in held]
    cell_n, n_cells = cells(law)
    df = n_cells - len(kept)
    width_p = np.linalg.norm(jacobian_nxp[:, kept], axis=0)
    if not kept or df < 1 or not np.all(width_p > 0):
        return {}
    sums_c = np.bincount(cell_n, residuals_n)
    noise = sqrt(float(np.sum(sums_c**2 / np.bincount(cell_n))) / df)
    _, sizes_p, rows_pxp = np.linalg.svd(jacobian_nxp[:, kept] / width_p, full_matrices=False)
    seen = sizes_p > UNSEEN * sizes_p[0]
    quantile = float(special.stdtrit(df, (1 + LEVEL) / 2))
    found: dict[str, Estimate] = {}
    for column, i in enumerate(kept):
        name, weights_p = law.free_names[i], rows_pxp[:, column]
        half = quantile * noise * float(np.linalg.norm(weights_p[seen] / sizes_p[seen])) / float(width_p[column])
        value = float(theta_p[i])
        if name not in (*EXPONENTS, "E") or float(np.sum(weights_p[~seen] ** 2)) > UNSEEN or half > MOST_HALF:
            continue
        if name in EXPONENTS and value <= half:
            continue
        ends = (value, value - half, value + half)
        value, low, high = ends if name in EXPONENTS else (exp(end) for end in ends)
        fixed = f", {listed(held)} held at its bound" if held else ""
        found[name] = Estimate(value, low, high, LEVEL, len(law.y_n), f"delta method, t with {df} df{fixed}")
    return found


@dataclass(frozen=True)
class Slice:
    """A law in one variable that the rows of one level of the other, or all rows along a line, may determine."""

    form: Form
    rows_n: Floats
    where: str


def slice_of(law: Law) -> Slice | None:
    """The one-variable law to try where the design leaves two variables without a law; None where there is none."""
    if len(AXES[law.form]) != 2:
        return None
    level_kxn = [close_groups(x_n) for x_n in law.x_Kxn[:2]]
    counts = [int(level_n.max()) + 1 for level_n in level_kxn]
    forms: tuple[Form, Form] = ("LN", "LD")
    if min(counts) > 1 and abs(float(np.corrcoef(law.x_Kxn[0], law.x_Kxn[1]).item(1))) > COLLINEAR:
        power = float(law.x_Kxn[0] @ law.x_Kxn[1] / (law.x_Kxn[0] @ law.x_Kxn[0]))
        return Slice("LN", np.ones(len(law.y_n)), f"along D ∝ N^{power:.2g}, a combination of alpha and beta")
    for own, other in ((0, 1), (1, 0)):
        if counts[own] >= FEWEST_LEVELS > counts[other]:
            level = int(np.bincount(level_kxn[other]).argmax())
            rows_n = (level_kxn[other] == level).astype(np.float64)
            at = exp(float(law.x_Kxn[other][rows_n > 0].mean() + law.centre_k[other]))
            return Slice(forms[own], rows_n, f"at {AXES[law.form][other]} = {count(at)}")
    return None


def said_determined(law: Law, found: Mapping[str, Estimate], where: str, noise: float | None) -> list[Diagnostic]:
    """A note with what is determined, and what is not."""
    if not found:
        return []
    told = listed(f"{name} = {in_words(estimate)}" for name, estimate in found.items())
    others = [name for name in law.names if name not in found]
    text = f"Determined{f' {where}' if where else ''}: {told}."
    if noise is not None:
        text += f" The law's values at the runs are too; runs are off them by {percent(noise)}."
    if others:
        text += f" Not determined: {listed(others)}."
    return [Diagnostic("determined", "note", text)]
