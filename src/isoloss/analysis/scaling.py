"""Scaling fits of anyone's table: parameters with intervals, and what limits or blocks what they say."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Literal

import numpy as np
import polars as pl

from isoloss.analysis.clusters import cluster_codes
from isoloss.analysis.columns import Rows, usable_rows
from isoloss.analysis.determined import determined, said_determined, slice_of
from isoloss.analysis.estimate import LEVEL, Estimate
from isoloss.analysis.law_doubts import (
    at_bound,
    lack_of_fit,
    noiseless,
    of_design,
    of_exponents,
    of_schedule,
    of_solution,
    other_variables,
)  # fmt: skip
from isoloss.analysis.laws import EXPONENTS, FREE, ORDER, SHAPES, VARIABLES, Floats, Form, Law, Restrictions, make_law
from isoloss.analysis.residuals import residual_trends
from isoloss.analysis.solve import Objective, ObjectiveName, Solution, make_objective, solve
from isoloss.analysis.spread import varies_within_cells
from isoloss.analysis.uncertainty import Uncertainty, by_bootstrap, by_cluster_bootstrap, by_delta, cells
from isoloss.diagnostic import Diagnostic
from isoloss.errors import ConfigError

Intervals = Literal["delta", "bootstrap"]
FIXED = "fixed"
"""The method of a parameter that was given."""


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
    determined: Mapping[str, Estimate]
    """Of an unidentified law, the parameters that the data determine nevertheless."""

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
    restrictions: Restrictions = FREE,
) -> Fit:
    """Fit a form to a table with one row a run. `columns` names those of N, D, C, U, the loss, weight and cluster.

    A weight is a row's inverse variance, up to a factor; rows of one cluster share an error. The bootstrap draws from
    `generator`, by default one seeded with 0. Raises ConfigError when a column is missing, not numeric or not positive,
    or the form lacks a parameter.
    """
    objective = objective or make_objective("huber")
    axes = VARIABLES[form]
    if "U" in axes and "U" not in columns:
        raise ConfigError(f"the form {form} needs the unique tokens: --unique COLUMN", ("unique",))
    floor, restrictions = checked(form, floor, restrictions)
    wanted = [columns[name] for name in (*axes, "loss")]
    if len(set(wanted)) < len(wanted):
        raise ConfigError(f"{', '.join(axes)} and the loss must be columns of their own, not {', '.join(wanted)}")
    rows = rows_of_law(table, form, columns)
    cluster_n = cluster_codes(rows.table[columns["cluster"]]) if "cluster" in columns else None
    variables_Kxn = np.array([rows.floats(columns[axis]) for axis in axes])
    weight_n = rows.floats(columns["weight"]) if "weight" in columns else None
    law = make_law(form, floor, variables_Kxn, rows.floats(columns["loss"]), restrictions, weight_n)
    if len(law.y_n) > 1 and law.y_n.max() - law.y_n.min() < 1e-12:
        raise ConfigError(f"all values of '{columns['loss']}' are equal: there is nothing to fit", (columns["loss"],))
    cautions = of_design(law)
    solution = uncertainty = None
    parameters: dict[str, Parameter] = {}
    if not _blocked(cautions):
        law, solution = _solved(law, objective)
        if floor and not law.floor:
            text = "The data show no floor: E is at its lower bound, and the law is fitted without it."
            cautions.append(Diagnostic("at_bound", "limits", text))
        cautions += of_solution(law, objective, solution)
    if solution is not None and not _blocked(cautions):
        uncertainty = by_delta(law, objective, solution.theta_p, cluster_n)
        synthetic = noiseless(law, objective, uncertainty)
        if cluster_n is None and not synthetic:  # these tests take cells to be independent, and see rounding
            cautions += [*lack_of_fit(law, objective, uncertainty), *residual_trends(law, objective, solution.theta_p)]
        parameters = parameters_of(law, uncertainty)
        cautions += of_exponents({name: parameter.estimate for name, parameter in parameters.items()})
        cautions += synthetic
        if _blocked(cautions):  # by the delta method, so that the status does not depend on how intervals are asked for
            uncertainty, parameters = None, {}
        elif intervals == "bootstrap":
            generator = generator or np.random.default_rng(0)
            if cluster_n is None:
                uncertainty = by_bootstrap(law, objective, uncertainty, generator)
            else:
                uncertainty = by_cluster_bootstrap(law, objective, uncertainty, cluster_n, generator)
            parameters = parameters_of(law, uncertainty)
    if parameters and floor and not law.floor:
        zero = Estimate(0.0, None, None, LEVEL, len(law.y_n), "at its lower bound")
        parameters = {"E": Parameter(zero, None), **parameters}
    found: Mapping[str, Estimate] = {}
    if _blocked(cautions):
        found, said = _determined(rows.table, law, columns, objective, solution)
        cautions += said
    others = other_variables(rows.table, form, columns)
    cautions += [*others, *of_schedule(rows.table)]
    if not others:
        cautions += varies_within_cells(rows.table, law, columns)
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
        found,
    )


def _determined(
    table: pl.DataFrame, law: Law, columns: Mapping[str, str], objective: Objective, solution: Solution | None
) -> tuple[Mapping[str, Estimate], list[Diagnostic]]:
    """What an unidentified law's data determine: of its solution, else of a law in one variable."""
    if solution is not None:
        found = determined(law, objective, solution)
        residuals_n, _ = make_objective("ls_log").residuals(law, solution.theta_p)
        return found, said_determined(law, found, "", float(np.std(residuals_n)))
    part = slice_of(law)
    if part is None:
        return {}, []
    fit = fit_law(table.filter(pl.Series(part.rows_n > 0)), part.form, columns, objective=objective)
    found = {name: fit.parameters[name].estimate for name in EXPONENTS if name in fit.parameters}
    return found, said_determined(law, found, part.where, None)


def other_objectives(fit: Fit) -> dict[str, dict[str, float | None]]:
    """Published parameters under the objectives the fit did not use; empty when it is unidentified.

    A floor at its lower bound is None, and so are all parameters where another one is at a bound.
    """
    if fit.uncertainty is None:
        return {}
    law = replace(fit.law, floor="E" in fit.parameters)
    names: tuple[ObjectiveName, ...] = ("huber", "ls", "lad")
    return {name: _values(law, make_objective(name)) for name in names if name != fit.objective.name}


def rows_of_law(table: pl.DataFrame, form: Form, columns: Mapping[str, str]) -> Rows:
    """The rows that a fit uses. Raises ConfigError as `usable_rows` does."""
    optional = [columns["weight"]] if "weight" in columns else []
    positive = [columns[name] for name in (*VARIABLES[form], "loss")]
    return usable_rows(table, positive=[*positive, *optional], other=[columns[n] for n in ("cluster",) if n in columns])


def checked(form: Form, floor: bool, restrictions: Restrictions) -> tuple[bool, Restrictions]:
    """Whether the law has a floor, and the restrictions. Raises ConfigError for those that the form cannot have."""
    shape = SHAPES[form]
    floor = floor and "E + " in shape.formula and restrictions.fixed.get("E") != 0
    fixed = {name: value for name, value in restrictions.fixed.items() if name != "E" or value != 0}
    names = {term.scale for term in shape.terms} if not shape.power else set[str]()
    names |= {name for term in shape.terms for name in term.exponents.values()} | ({"E"} if floor else set())
    names |= {*shape.repeats}
    for name, value in fixed.items():
        if name not in names:
            raise ConfigError(f"--fix {name}: {form} has no {name} to fix; it has {', '.join(sorted(names))}", ("fix",))
        if not value > 0:
            raise ConfigError(f"--fix {name}={value:g}: must be above 0", ("fix",))
    for name, other in restrictions.tied.items():
        if name == other or not {name, other} <= names & set(EXPONENTS):
            raise ConfigError(f"--tie {other}={name}: {form} can tie alpha and beta alone", ("tie",))
        if name in fixed or other in fixed:
            raise ConfigError(f"--tie {other}={name}: one of them is fixed; fix both instead", ("tie",))
    if not shape.power and names <= {*fixed, *restrictions.tied}:
        raise ConfigError("--fix leaves no parameter to fit", ("fix",))
    return floor, Restrictions(fixed, restrictions.tied)


def _solved(law: Law, objective: Objective) -> tuple[Law, Solution]:
    """The law and its solution; a floor that would end at its lower bound is left out of the law."""
    solution = solve(law, objective)
    if at_bound(law, solution.theta_p) != ["E"]:
        return law, solution
    law = replace(law, floor=False)
    return law, solve(law, objective)


def _values(law: Law, objective: Objective) -> dict[str, float | None]:
    solved, solution = _solved(law, objective)
    values: dict[str, float | None] = dict.fromkeys(law.names)
    if not at_bound(solved, solution.theta_p):
        for name, value in zip(solved.names, solved.published(solution.theta_p).tolist(), strict=True):
            values[name] = value if name in EXPONENTS else float(np.exp(value))
    return values


def parameters_of(law: Law, uncertainty: Uncertainty, level: float = LEVEL) -> dict[str, Parameter]:
    """The published parameters of a law that was fitted, with intervals at a level."""
    found: dict[str, Parameter] = {}
    for i, name in enumerate(law.names):
        if name in law.restrictions.fixed:
            value = law.restrictions.fixed[name]
            found[name] = Parameter(Estimate(value, None, None, level, len(law.y_n), FIXED), None)
            continue
        log = name not in EXPONENTS

        def quantity(theta_p: Floats, i: int = i) -> float:
            return float(law.published(theta_p)[i])

        estimate, se = uncertainty.estimate(quantity, log=log, level=level), uncertainty.se(quantity)
        found[name] = Parameter(estimate, se * estimate.value if log else se)
    return {name: found[name] for name in ORDER if name in found}


def _blocked(cautions: Sequence[Diagnostic]) -> bool:
    """Whether something leaves the law unidentified."""
    return any(caution.severity == "blocks" for caution in cautions)
