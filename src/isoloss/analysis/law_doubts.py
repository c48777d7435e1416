"""What limits or blocks what a scaling fit says: its design, its solution, its intervals, and how it misses runs."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
import polars as pl
from scipy import special

from isoloss.analysis.cells import close_groups
from isoloss.analysis.estimate import LEVEL, Estimate
from isoloss.analysis.laws import AXES, EXPONENT_OF, EXPONENTS, Floats, Form, Law
from isoloss.analysis.solve import Objective, Solution
from isoloss.analysis.uncertainty import Uncertainty, cells
from isoloss.design.audit_scaling import FEWEST_LEVELS, MOST_CORRELATION
from isoloss.diagnostic import Diagnostic
from isoloss.wording import counted, listed

COLLINEAR = 0.99
"""|correlation| of log N and log D from which their exponents cannot be told apart at all."""
ILL_CONDITIONED, SINGULAR = 1e3, 1e6
"""Condition number of the Jacobian, its columns scaled to length 1."""
PLAUSIBLE_EXPONENTS = (0.03, 1.5)
AT_BOUND = 1e-5
LEAST_NOISE = 1e-5
"""Relative; two seeds of a run differ by 1e-3 or more, and losses are written to four digits."""
FLAT = 1.1
"""Starts that agree on the minimum's value, yet on an exponent only within this ratio, have found no minimum."""


def of_design(law: Law) -> list[Diagnostic]:
    """What the table's sizes and horizons cannot tell."""
    found: list[Diagnostic] = []
    axes, (_, n_cells) = AXES[law.form], cells(law)
    levels = [int(close_groups(x_n).max()) + 1 for x_n in law.x_Kxn[: len(axes)]]
    if n_cells <= law.n_parameters:
        points, parameters = counted(n_cells, "different point"), counted(law.n_parameters, "parameter")
        text = f"{points} cannot determine {parameters} with an error of their own."
        found.append(Diagnostic("too_few_rows", "blocks", text, _smaller(law, levels, n_cells)))
    undetermined = min(levels) < 2 or (min(levels) < FEWEST_LEVELS and (law.floor or max(levels) < FEWEST_LEVELS))
    fixed = {axis for axis in axes if EXPONENT_OF[axis] in law.restrictions.fixed}
    undetermined = undetermined and fixed < {*axes}
    for axis, count in zip(axes, levels, strict=True):
        if count < FEWEST_LEVELS and axis not in fixed:
            text = f"{axis} takes {counted(count, 'value')}; an exponent and a floor need at least {FEWEST_LEVELS}."
            remedy = f"Train at {FEWEST_LEVELS} values of {axis} or more."
            found.append(Diagnostic("few_levels", "blocks" if undetermined else "limits", text, remedy))
    if len(axes) == 2 and min(levels) > 1 and fixed < {*axes}:
        correlation = float(np.corrcoef(law.x_Kxn[0], law.x_Kxn[1]).item(1))
        if abs(correlation) > MOST_CORRELATION:
            text = f"log N and log D are correlated at {correlation:.3f}: the data hardly tell their exponents apart."
            severity = "blocks" if abs(correlation) > COLLINEAR else "limits"
            found.append(Diagnostic("axes_correlated", severity, text, "Vary N and D independently, as in a grid."))
    return found


def _smaller(law: Law, levels: Sequence[int], n_cells: int) -> str:
    """Which form would do for so many points."""
    options: list[tuple[int, str]] = []
    if len(levels) == 2 and min(levels) >= 2:
        plain = law.form not in ("LND", "LNDK")
        options += [(5, "--form LND")] * (plain and min(levels) >= FEWEST_LEVELS)
        options += [(4, "--form LND --tie alpha=beta"), (4, "--form LND --no_floor")]
    elif len(levels) == 2 and max(levels) >= 2:
        form = "LN" if levels[0] > levels[1] else "LD"
        options += [(3, f"--form {form}"), (2, f"--form {form} --no_floor")]
    elif law.floor:
        options.append((2, "--no_floor"))
    fitting = [(size, option) for size, option in options if size < min(n_cells, law.n_parameters)]
    if not fitting:
        return "No form of this program has so few parameters; train at more sizes and horizons."
    most = max(size for size, _ in fitting)
    return f"With {most} parameters {' or '.join(option for size, option in fitting if size == most)} would do."


def noiseless(law: Law, objective: Objective, uncertainty: Uncertainty) -> list[Diagnostic]:
    """A caution where residuals are smaller than any training leaves them."""
    scale = float(np.exp(law.y_n.mean())) if objective.name == "ls" else 1.0
    if uncertainty.noise / scale >= LEAST_NOISE:
        return []
    text = (
        f"The law meets the losses to {uncertainty.noise / scale:.1e} of their size: these data are synthetic, "
        "computed from a law of this form. Intervals say nothing of measured runs."
    )
    return [Diagnostic("noiseless", "limits", text)]


def of_solution(law: Law, objective: Objective, solution: Solution) -> list[Diagnostic]:
    """What is to be known of a solution; a parameter at a bound or a singular Jacobian blocks."""
    ends = flat_exponents(law, solution)
    if ends:
        told = listed(f"{name} from {low:.3g} to {high:.3g}" for name, (low, high) in ends.items())
        text = (
            f"The minimum is flat: {solution.n_agreeing} of {solution.n_polished} polished starts reach the same value "
            f"with {told}. Runs of equal {' and '.join(AXES[law.form])} may differ so much that any law between them "
            "fits as well."
        )
        return [Diagnostic("flat_minimum", "blocks", text, "Fit runs that one law can describe.")]
    bounds = at_bound(law, solution.theta_p)
    if bounds:
        text = f"{' and '.join(bounds)} at a bound: the data do not show a term of this law, or not how it falls."
        return [Diagnostic("at_bound", "blocks", text)]
    found: list[Diagnostic] = []
    for name, value in zip(law.names, law.published(solution.theta_p).tolist(), strict=True):
        low, high = PLAUSIBLE_EXPONENTS
        if name in EXPONENTS and not low <= value <= high:
            text = f"{name} = {value:.3g} lies outside {low} to {high}, where published exponents lie."
            found.append(Diagnostic("exponent_implausible", "limits", text))
    condition = _condition(law, objective, solution.theta_p)
    if condition > ILL_CONDITIONED:
        text = f"The fit's condition number is {condition:.1e}: parameters trade off against each other."
        found.append(Diagnostic("ill_conditioned", "blocks" if condition > SINGULAR else "limits", text))
    if solution.n_agreeing == 1:
        text = f"One of {solution.n_polished} polished starts alone reaches the minimum; it may not be the lowest."
        found.append(Diagnostic("starts_disagree", "limits", text))
    return found


def of_exponents(parameters: Mapping[str, Estimate]) -> list[Diagnostic]:
    """What is to be known of the exponents; one that could be nearly anything blocks."""
    said: list[Diagnostic] = []
    for name in EXPONENTS:
        found = parameters.get(name)
        if found is None or found.low is None or found.high is None:
            continue
        half = (found.high - found.low) / 2
        if half > PLAUSIBLE_EXPONENTS[1]:
            text = f"The 95% interval of {name} is ±{half:.3g}, wider than all that is plausible: it is not determined."
            said.append(Diagnostic("exponent_undetermined", "blocks", text))
        elif found.low <= 0:
            text = f"The interval of {name} reaches 0: the data hardly show that the loss falls along its axis."
            said.append(Diagnostic("exponent_unclear", "limits", text))
    return said


def flat_exponents(law: Law, solution: Solution) -> dict[str, tuple[float, float]]:
    """The ends between which starts that agree on the minimum leave an exponent; empty where it has one place."""
    found: dict[str, tuple[float, float]] = {}
    for name, values in zip(law.free_names, solution.agreeing_sxp.T, strict=True):
        low, high = float(values.min()), float(values.max())
        if name in EXPONENTS and high > FLAT * low:
            found[name] = (low, high)
    return found


def other_variables(table: pl.DataFrame, form: Form, columns: Mapping[str, str]) -> list[Diagnostic]:
    """Size or tokens that vary in the table though the form has no place for them."""
    found: list[Diagnostic] = []
    for axis in {"N", "D"} - set(AXES[form]) if form in ("LN", "LD") else set[str]():
        column = columns.get(axis)
        if column in table.columns and table[column].n_unique() > 1:
            text = (
                f"{column} varies too ({table[column].n_unique():,} values): this law averages over it, and its E and "
                f"exponent are not those at any one {axis}. The form LND has a place for both."
            )
            found.append(Diagnostic("other_variable", "limits", text))
    return found


def lack_of_fit(law: Law, objective: Objective, uncertainty: Uncertainty) -> list[Diagnostic]:
    """Whether cells miss the law by more than runs of a cell differ, by the F test for lack of fit."""
    residuals_n, _ = objective.residuals(law, uncertainty.theta_p)
    cell_n, n_cells = cells(law)
    df = len(residuals_n) - n_cells
    if df == 0:
        return []
    means_c = np.bincount(cell_n, residuals_n) / np.bincount(cell_n)
    within = float(np.sum((residuals_n - means_c[cell_n]) ** 2)) / df
    if within == 0 or special.fdtrc(uncertainty.df, df, uncertainty.noise**2 / within) >= 1 - LEVEL:
        return []
    between, inside = (
        f"{value:.2g} nats" if objective.name == "ls" else f"{value:.2%} of the loss"
        for value in (uncertainty.noise, within**0.5)
    )
    text = (
        f"Cells miss the law by more than chance: runs are off it with a standard deviation of {between}, and differ "
        f"by {inside} among themselves at equal {' and '.join(AXES[law.form])}. More replicates will not help: the law "
        "or the design is at fault. Intervals allow for it."
    )
    return [Diagnostic("lack_of_fit", "limits", text)]


def of_schedule(table: pl.DataFrame) -> list[Diagnostic]:
    """Runs whose learning rate does not reach its end with the run are prefixes of longer ones."""
    if not {"max_iters", "lr_decay_iters"} <= set(table.columns):
        return []
    decay, end = (pl.col(name).cast(pl.Float64(), strict=False) for name in ("lr_decay_iters", "max_iters"))
    never = pl.col("decay_lr").cast(pl.Boolean(), strict=False).not_() if "decay_lr" in table.columns else pl.lit(False)
    unmatched = table.filter((decay != end).fill_null(False) | (never & (table["max_iters"].n_unique() > 1)))
    if unmatched.is_empty():
        return []
    text = f"In {len(unmatched):,} rows the learning rate does not end with the run: its loss is of an unfinished one."
    return [Diagnostic("horizon_unmatched", "limits", text, "Let the learning rate decay over each run's own steps.")]


def at_bound(law: Law, theta_p: Floats) -> list[str]:
    """The parameters that lie at one of their bounds."""
    low_p, high_p = law.bounds()
    near_p = np.minimum(theta_p - low_p, high_p - theta_p) < AT_BOUND
    return [name for name, near in zip(law.free_names, near_p, strict=True) if near]


def _condition(law: Law, objective: Objective, theta_p: Floats) -> float:
    jacobian_nxp = objective.residuals(law, theta_p)[1]
    width_p = np.linalg.norm(jacobian_nxp, axis=0)
    return float(np.linalg.cond(jacobian_nxp / width_p)) if np.all(width_p > 0) else float("inf")
