"""Scaling fits of anyone's table: parameters with intervals, and what limits or blocks what they say."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Literal

import numpy as np
import polars as pl
from scipy import special

from isoloss.analysis.columns import usable_rows
from isoloss.analysis.estimate import LEVEL, Estimate
from isoloss.analysis.laws import AXES, Floats, Form, Law, make_law
from isoloss.analysis.solve import Objective, ObjectiveName, Solution, make_objective, solve
from isoloss.analysis.uncertainty import Uncertainty, by_bootstrap, by_delta, cells
from isoloss.diagnostic import Diagnostic
from isoloss.errors import ConfigError
from isoloss.spec.audit_scaling import FEWEST_LEVELS, MOST_CORRELATION
from isoloss.wording import counted

Intervals = Literal["delta", "bootstrap"]
COLLINEAR = 0.99
"""|correlation| of log N and log D from which their exponents cannot be told apart at all."""
ILL_CONDITIONED, SINGULAR = 1e3, 1e6
"""Condition number of the Jacobian, its columns scaled to length 1."""
EXPONENTS = ("alpha", "beta")
PLAUSIBLE_EXPONENTS = (0.03, 1.5)
AT_BOUND = 1e-5


@dataclass(frozen=True)
class Parameter:
    """A published parameter (E, A, B, alpha, beta) with its standard error on its own scale.

    The interval of E, A and B is symmetric in the logarithm. A floor the data do not show is 0, without either.
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
    cautions: tuple[Diagnostic, ...]

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
    wanted = [columns[axis] for axis in (*axes, "loss")]
    if len(set(wanted)) < len(wanted):
        raise ConfigError(f"{', '.join(axes)} and the loss must be columns of their own, not {', '.join(wanted)}")
    rows = usable_rows(table, positive=wanted)
    law = make_law(form, floor, np.array([rows.floats(columns[axis]) for axis in axes]), rows.floats(columns["loss"]))
    if len(law.y_n) > 1 and law.y_n.max() - law.y_n.min() < 1e-12:
        raise ConfigError(f"all values of '{columns['loss']}' are equal: there is nothing to fit", (columns["loss"],))
    cautions = _of_design(law)
    solution = uncertainty = None
    parameters: dict[str, Parameter] = {}
    if not _blocked(cautions):
        law, solution = _solved(law, objective)
        if floor and not law.floor:
            text = "The data show no floor: E is at its lower bound, and the law is fitted without it."
            cautions.append(Diagnostic("at_bound", "limits", text))
        cautions += _of_solution(law, objective, solution)
        if not _blocked(cautions):
            uncertainty = by_delta(law, objective, solution.theta_p)
            cautions += _lack_of_fit(law, objective, uncertainty)
            if intervals == "bootstrap":
                uncertainty = by_bootstrap(law, objective, uncertainty, generator or np.random.default_rng(0))
            parameters = parameters_of(law, uncertainty)
            cautions += _of_exponents(parameters)
            if _blocked(cautions):
                uncertainty, parameters = None, {}
            elif floor and not law.floor:
                zero = Estimate(0.0, None, None, LEVEL, len(law.y_n), "at its lower bound")
                parameters = {"E": Parameter(zero, None), **parameters}
    cautions += [*_other_variables(rows.table, form, columns), *_of_schedule(rows.table)]
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
        (*rows.cautions, *cautions),
    )


def other_objectives(fit: Fit) -> dict[str, dict[str, float | None]]:
    """Published parameters under the objectives the fit did not use; empty when it is unidentified.

    A floor at its lower bound is None, and so are all parameters where another one is at a bound.
    """
    if fit.uncertainty is None:
        return {}
    law = replace(fit.law, floor="E" in fit.parameters)
    names: tuple[ObjectiveName, ...] = ("huber", "ls", "lad")
    return {name: _values(law, make_objective(name)) for name in names if name != fit.objective.name}


def _solved(law: Law, objective: Objective) -> tuple[Law, Solution]:
    """The law and its solution; a floor that would end at its lower bound is left out of the law."""
    solution = solve(law, objective)
    if _at_bound(law, solution.theta_p) != ["E"]:
        return law, solution
    law = replace(law, floor=False)
    return law, solve(law, objective)


def _values(law: Law, objective: Objective) -> dict[str, float | None]:
    solved, solution = _solved(law, objective)
    values: dict[str, float | None] = dict.fromkeys(law.names)
    if not _at_bound(solved, solution.theta_p):
        for name, value in zip(solved.names, solved.published(solution.theta_p)[0].tolist(), strict=True):
            values[name] = value if name in EXPONENTS else float(np.exp(value))
    return values


def parameters_of(law: Law, uncertainty: Uncertainty, level: float = LEVEL) -> dict[str, Parameter]:
    """The published parameters of a law that was fitted, with intervals at a level."""
    found: dict[str, Parameter] = {}
    for i, name in enumerate(law.names):
        log = name not in EXPONENTS

        def quantity(theta_p: Floats, i: int = i) -> float:
            return float(law.published(theta_p)[0][i])

        estimate, se = uncertainty.estimate(quantity, log=log, level=level), uncertainty.se(quantity)
        found[name] = Parameter(estimate, se * estimate.value if log else se)
    return {name: found[name] for name in ("E", "A", "B", "alpha", "beta") if name in found}


def _blocked(cautions: Sequence[Diagnostic]) -> bool:
    """Whether something leaves the law unidentified."""
    return any(caution.severity == "blocks" for caution in cautions)


def _of_design(law: Law) -> list[Diagnostic]:
    """What the table's sizes and horizons cannot tell."""
    found: list[Diagnostic] = []
    axes, (_, n_cells) = AXES[law.form], cells(law)
    if n_cells <= law.n_parameters:
        text = f"{n_cells} different points cannot determine {law.n_parameters} parameters with an error of their own."
        found.append(Diagnostic("too_few_rows", "blocks", text))
    levels = [len({round(x, 9) for x in x_n}) for x_n in law.x_Kxn.tolist()]
    undetermined = min(levels) < 2 or (min(levels) < FEWEST_LEVELS and (law.floor or max(levels) < FEWEST_LEVELS))
    for axis, count in zip(axes, levels, strict=True):
        if count < FEWEST_LEVELS:
            text = f"{axis} takes {counted(count, 'value')}; an exponent and a floor need at least {FEWEST_LEVELS}."
            remedy = f"Train at {FEWEST_LEVELS} values of {axis} or more."
            found.append(Diagnostic("few_levels", "blocks" if undetermined else "limits", text, remedy))
    if len(axes) == 2 and min(levels) > 1:
        correlation = float(np.corrcoef(law.x_Kxn[0], law.x_Kxn[1]).item(1))
        if abs(correlation) > MOST_CORRELATION:
            text = f"log N and log D are correlated at {correlation:.3f}: the data hardly tell their exponents apart."
            severity = "blocks" if abs(correlation) > COLLINEAR else "limits"
            found.append(Diagnostic("axes_correlated", severity, text, "Vary N and D independently, as in a grid."))
    return found


def _of_solution(law: Law, objective: Objective, solution: Solution) -> list[Diagnostic]:
    """What is to be known of a solution; a parameter at a bound or a singular Jacobian blocks."""
    at_bound = _at_bound(law, solution.theta_p)
    if at_bound:
        text = f"{' and '.join(at_bound)} at a bound: the data do not show a term of this law, or not how it falls."
        return [Diagnostic("at_bound", "blocks", text)]
    found: list[Diagnostic] = []
    for name, value in zip(law.names, law.published(solution.theta_p)[0], strict=True):
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


def _of_exponents(parameters: Mapping[str, Parameter]) -> list[Diagnostic]:
    """What is to be known of the exponents; one that could be nearly anything blocks."""
    said: list[Diagnostic] = []
    for name in EXPONENTS:
        found = parameters[name].estimate if name in parameters else None
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


def _other_variables(table: pl.DataFrame, form: Form, columns: Mapping[str, str]) -> list[Diagnostic]:
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


def _lack_of_fit(law: Law, objective: Objective, uncertainty: Uncertainty) -> list[Diagnostic]:
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
        f"{value:.2g} nats" if objective.delta is None else f"{value:.2%} of the loss"
        for value in (uncertainty.noise, within**0.5)
    )
    text = (
        f"Cells miss the law by more than chance: runs are off it with a standard deviation of {between}, and differ "
        f"by {inside} among themselves at equal {' and '.join(AXES[law.form])}. More replicates will not help: the law "
        "or the design is at fault. Intervals allow for it."
    )
    return [Diagnostic("lack_of_fit", "limits", text)]


def _of_schedule(table: pl.DataFrame) -> list[Diagnostic]:
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


def _at_bound(law: Law, theta_p: Floats) -> list[str]:
    low_p, high_p = law.bounds()
    near_p = np.minimum(theta_p - low_p, high_p - theta_p) < AT_BOUND
    return [name for name, near in zip(law.names, near_p, strict=True) if near]


def _condition(law: Law, objective: Objective, theta_p: Floats) -> float:
    jacobian_nxp = objective.residuals(law, theta_p)[1]
    width_p = np.linalg.norm(jacobian_nxp, axis=0)
    return float(np.linalg.cond(jacobian_nxp / width_p)) if np.all(width_p > 0) else float("inf")
