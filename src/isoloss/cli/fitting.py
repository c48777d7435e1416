"""`isoloss fit` from a table and its options to everything it says."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import polars as pl

from isoloss.analysis.frontier import data_compute, frontier, hold_out_largest, predict
from isoloss.analysis.isoflop import Curve, isoflop_profiles
from isoloss.analysis.laws import SUMMARY_COLUMNS, Form
from isoloss.analysis.scaling import Intervals, fit_law, other_objectives
from isoloss.analysis.solve import ObjectiveName, make_objective
from isoloss.cli.fit import Answer, parse_point
from isoloss.diagnostic import Diagnostic
from isoloss.errors import ConfigError
from isoloss.spec.synonyms import did_you_mean

COUNTS = ("params_non_embedding", "params_total")
"""The two ways to count N that a study's summary holds; a fit with one is shown beside the other."""
AHEAD = (1.0, 10.0)
"""The frontier is given at these multiples of the data's largest compute."""


def question_columns(given: Mapping[str, str | None], table: pl.DataFrame, *, study: bool) -> dict[str, str]:
    """The column of each variable: as given, else a study's, else the variable's own name.

    Raises ConfigError when a given one is not in the table.
    """
    for column in filter(None, given.values()):
        if column not in table.columns:
            raise ConfigError(f"the table has no column '{column}': {did_you_mean(column, table.columns)}", (column,))
    return {axis: column or (SUMMARY_COLUMNS[axis] if study else axis) for axis, column in given.items()}


def answer_question(
    table: pl.DataFrame,
    form: Form,
    columns: Mapping[str, str],
    *,
    floor: bool,
    objective: ObjectiveName,
    delta: float,
    intervals: Intervals,
    curve: Curve,
    points: Sequence[str],
    holdout: bool,
) -> Answer:
    """Fit, and all that was asked of the fit. Raises ConfigError before anything is computed."""
    if not delta > 0:
        raise ConfigError(f"--delta {delta:g}: must be above 0")
    parsed = [parse_point(point) for point in points]
    target = make_objective(objective, delta)
    fit = fit_law(table, form, columns, floor=floor, objective=target, intervals=intervals)
    identified = fit.uncertainty is not None
    counts = [c for c in COUNTS if columns["N"] in COUNTS and c != columns["N"] and c in table.columns and "N" in form]
    others = {c: fit_law(table, form, {**columns, "N": c}, floor=floor, objective=target) for c in counts}
    held = hold_out_largest(fit, table) if holdout and identified else None
    cautions = list(fit.cautions)
    if parsed and not identified:
        text = "The table does not identify the law, so nothing was predicted."
        cautions.append(Diagnostic("prediction_unidentified", "blocks", text))
    if holdout and held is None:
        text = "Without its largest level the table does not identify the law, so nothing was predicted."
        cautions.append(Diagnostic("holdout_unidentified", "blocks", text))
    profiled = "N" in form and columns["C"] in table.columns
    predictions = [predict(fit, point) for point in parsed] if identified else []
    return Answer(
        fit,
        other_objectives(fit),
        others,
        frontier(fit, [times * data_compute(fit)[1] for times in AHEAD]) if form == "LND" and identified else None,
        isoflop_profiles(table, columns["N"], columns["C"], columns["loss"], curve) if profiled else [],
        predictions,
        held,
        [*cautions, *(caution for prediction in predictions for caution in prediction.cautions)],
    )
