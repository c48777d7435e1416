"""Scaling fits of anyone's table: parameters with intervals, and every reason to doubt them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

import numpy as np
import polars as pl

from isoloss.analysis.columns import usable_rows
from isoloss.analysis.estimate import Caution, Estimate
from isoloss.analysis.laws import AXES, MAX_EXPONENT, Floats, Form, Law, make_law
from isoloss.analysis.solve import Objective, ObjectiveName, Solution, make_objective, solve
from isoloss.analysis.uncertainty import Uncertainty, by_bootstrap, by_delta, cells
from isoloss.errors import ConfigError

Intervals = Literal["delta", "bootstrap"]
MIN_LEVELS = 3
CORRELATED, COLLINEAR = 0.9, 0.99
"""|correlation| of log N and log D from which their exponents are hard, or impossible, to tell apart."""
ILL_CONDITIONED, SINGULAR = 1e3, 1e6
"""Condition number of the Jacobian, its columns scaled to length 1."""
PLAUSIBLE_EXPONENTS = (0.03, 1.5)
AT_BOUND = 1e-6


@dataclass(frozen=True)
class Parameter:
    """A published parameter (E, A, B, alpha, beta) with its standard error on its own scale.

    The interval of E, A and B is symmetric in the logarithm. At a bound there is neither interval nor error.
    """

    estimate: Estimate
    se: float | None


@dataclass(frozen=True)
class Fit:
    """A scaling law fitted to a table. Without `uncertainty` it is unidentified, and there are no parameters."""

    form: Form
    columns: Mapping[str, str]
    """The table's column for each variable (N, D, C) and for the loss."""
    objective: Objective
    n: int
    n_cells: int
    law: Law
    solution: Solution | None
    """None where the design alone leaves the law unidentified."""
    uncertainty: Uncertainty | None
    parameters: Mapping[str, Parameter]
    cautions: tuple[Caution, ...]

    @property
    def status(self) -> Literal["ok", "unidentified"]:
        """Whether the data determine the parameters."""
        return "unidentified" if self.uncertainty is None else "ok"


def fit_law(
    table: pl.DataFrame,
    form: Form,
    columns: Mapping[str, str],
    *,
    floor: bool = True,
    objective: Objective | None = None,
    intervals: Intervals = "delta",
    generator: np.random.Generator | None = None,
) -> Fit:
    """Fit a form to a table with one row a run. `columns` names the columns of N, D, C and the loss.

    The bootstrap draws from `generator`, by default one seeded with 0. Raises ConfigError when a column is missing, not
    numeric or not positive.
    """
    objective = objective or make_objective("huber")
    axes = AXES[form]
    rows = usable_rows(table, positive=[columns[axis] for axis in (*axes, "loss")])
    law = make_law(form, floor, np.array([rows.floats(columns[axis]) for axis in axes]), rows.floats(columns["loss"]))
    if len(law.y_n) > 1 and law.y_n.max() - law.y_n.min() < 1e-12:
        raise ConfigError(f"all values of '{columns['loss']}' are equal: there is nothing to fit", (columns["loss"],))
    doubts, hopeless = _design_doubts(law)
    solution = uncertainty = None
    parameters: dict[str, Parameter] = {}
    if not hopeless:
        solution = solve(law, objective)
        at_bound = _at_bound(law, solution.theta_p)
        condition = _condition(law, objective, solution.theta_p, at_bound)
        doubts += _solution_doubts(law, solution, at_bound, condition)
        if condition <= SINGULAR:
            free_p = [i for i in range(law.n_parameters) if i not in at_bound]
            uncertainty = by_delta(law, objective, solution.theta_p, free_p)
            if intervals == "bootstrap":
                uncertainty = by_bootstrap(law, objective, uncertainty, generator or np.random.default_rng(0))
            parameters = _parameters(law, uncertainty, at_bound)
    doubts += _schedule_doubts(rows.table)
    return Fit(
        form,
        dict(columns),
        objective,
        len(law.y_n),
        cells(law)[1],
        law,
        solution,
        uncertainty,
        parameters,
        (*rows.cautions, *doubts),
    )


def other_objectives(fit: Fit) -> dict[str, dict[str, float]]:
    """Published parameters under the objectives the fit did not use; empty when it is unidentified."""
    if fit.uncertainty is None:
        return {}
    names: tuple[ObjectiveName, ...] = ("huber", "ls", "lad")
    return {name: _values(fit.law, make_objective(name)) for name in names if name != fit.objective.name}


def _values(law: Law, objective: Objective) -> dict[str, float]:
    published_p, _ = law.published(solve(law, objective).theta_p)
    return {
        name: float(value if name in ("alpha", "beta") else np.exp(value))
        for name, value in zip(law.names, published_p, strict=True)
    }


def _parameters(law: Law, uncertainty: Uncertainty, at_bound: list[int]) -> dict[str, Parameter]:
    found: dict[str, Parameter] = {}
    for i, name in enumerate(law.names):
        log = name not in ("alpha", "beta")

        def quantity(theta_p: Floats, i: int = i) -> float:
            return float(law.published(theta_p)[0][i])

        estimate, se = uncertainty.estimate(quantity, log=log), uncertainty.se(quantity)
        if i in at_bound:
            bound = Estimate(estimate.value, None, None, estimate.level, estimate.n, "at its bound")
            found[name] = Parameter(bound, None)
        else:
            found[name] = Parameter(estimate, se * estimate.value if log else se)
    return {name: found[name] for name in ("E", "A", "B", "alpha", "beta") if name in found}


def _design_doubts(law: Law) -> tuple[list[Caution], bool]:
    """What the table's sizes and horizons cannot tell, and whether that leaves the law unidentified."""
    doubts: list[Caution] = []
    axes, (_, n_cells) = AXES[law.form], cells(law)
    hopeless = n_cells <= law.n_parameters
    if hopeless:
        text = f"{n_cells} different points cannot determine {law.n_parameters} parameters with an error of their own."
        doubts.append(Caution("too_few_rows", text))
    levels = [len({round(x, 9) for x in x_n}) for x_n in law.x_Kxn.tolist()]
    for axis, count in zip(axes, levels, strict=True):
        if count < MIN_LEVELS:
            text = (
                f"{axis} takes {count} value{'s' * (count != 1)}; an exponent and a floor need at least {MIN_LEVELS}."
            )
            doubts.append(Caution("few_levels", text))
    hopeless |= min(levels) < 2 or (min(levels) < MIN_LEVELS and (law.floor or max(levels) < MIN_LEVELS))
    if len(axes) == 2 and min(levels) > 1:
        correlation = float(np.corrcoef(law.x_Kxn[0], law.x_Kxn[1]).item(1))
        if abs(correlation) > CORRELATED:
            text = f"log N and log D are correlated at {correlation:.3f}: the data hardly tell their exponents apart."
            doubts.append(Caution("axes_correlated", text))
            hopeless |= abs(correlation) > COLLINEAR
    return doubts, hopeless


def _solution_doubts(law: Law, solution: Solution, at_bound: list[int], condition: float) -> list[Caution]:
    doubts: list[Caution] = []
    for i in at_bound:
        text = f"{law.names[i]} is at its bound; it has no interval, and the others hold it fixed there."
        doubts.append(Caution("at_bound", text))
    for name, value in zip(law.names, law.published(solution.theta_p)[0], strict=True):
        low, high = PLAUSIBLE_EXPONENTS
        if name in ("alpha", "beta") and not low <= value <= high:
            text = f"{name} = {value:.3g} lies outside {low} to {high}, where published exponents lie."
            doubts.append(Caution("exponent_implausible", text))
    if condition > ILL_CONDITIONED:
        text = f"The fit's condition number is {condition:.1e}: parameters trade off against each other."
        doubts.append(Caution("ill_conditioned", text))
    if solution.n_agreeing == 1:
        text = f"One of {solution.n_polished} polished starts alone reaches the minimum; it may not be the lowest."
        doubts.append(Caution("starts_disagree", text))
    return doubts


def _schedule_doubts(table: pl.DataFrame) -> list[Caution]:
    """Runs whose learning rate does not reach its end with the run are prefixes of longer ones."""
    if not {"max_iters", "lr_decay_iters"} <= set(table.columns):
        return []
    unmatched = table.filter(pl.col("lr_decay_iters").is_not_null() & (pl.col("lr_decay_iters") != pl.col("max_iters")))
    if unmatched.is_empty():
        return []
    text = f"In {len(unmatched):,} rows lr_decay_iters is not max_iters: their losses are those of an unfinished run."
    return [Caution("horizon_unmatched", text)]


def _at_bound(law: Law, theta_p: Floats) -> list[int]:
    low_p, high_p = law.bounds()
    near_p = np.minimum(theta_p - low_p, high_p - theta_p) < AT_BOUND * MAX_EXPONENT
    return np.flatnonzero(near_p).tolist()


def _condition(law: Law, objective: Objective, theta_p: Floats, at_bound: list[int]) -> float:
    jacobian_nxp = np.delete(objective.residuals(law, theta_p)[1], at_bound, axis=1)
    width_p = np.linalg.norm(jacobian_nxp, axis=0)
    return float(np.linalg.cond(jacobian_nxp / width_p)) if np.all(width_p > 0) else float("inf")
