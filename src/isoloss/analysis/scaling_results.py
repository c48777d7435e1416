"""A fitted scaling law and all that follows from it, of anyone's table or of a study."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import polars as pl

from isoloss.analysis.by_group import Groups, fits_by_group
from isoloss.analysis.cells import SAME, close_groups
from isoloss.analysis.clusters import cluster_doubts
from isoloss.analysis.columns import number_column
from isoloss.analysis.compute_column import compute_doubts, cost_of, unit_doubts, with_tokens
from isoloss.analysis.cost import Cost
from isoloss.analysis.frontier import (
    FRONTIER_FORMS,
    Frontier,
    HoldOut,
    Prediction,
    data_compute,
    frontier,
    held_out_doubts,
    hold_out_largest,
    predict,
)  # fmt: skip
from isoloss.analysis.isoflop import TOLERANCE, Curve, Profile, isoflop_profiles
from isoloss.analysis.isoflop_law import IsoflopLaw, disagreement, isoflop_law
from isoloss.analysis.laws import FREE, SHAPES, SUMMARY_COLUMNS, VARIABLES, Form, Restrictions, summary_columns
from isoloss.analysis.roles import check_columns
from isoloss.analysis.scaling import Fit, Intervals, fit_law, other_objectives, rows_of_law
from isoloss.analysis.solve import Objective
from isoloss.analysis.true_floor import TrueFloor, true_floor
from isoloss.analysis.unlisted import unlisted_columns
from isoloss.diagnostic import Diagnostic
from isoloss.errors import ConfigError
from isoloss.wording import counted, listed, loss

PARAMETER_COUNTS = ("params_non_embedding", "params_total")
"""The two ways to count N that a study's summary holds; a fit with one is shown with the other."""
AHEAD = (1.0, 10.0)
"""The frontier is given at these multiples of the data's largest compute."""
FORM_OF: dict[str, Form] = {"ND": "LND", "N": "LN", "D": "LD"}
"""The law for the variables that a study varies."""
LADDER_FACTORS = ("n_layer", "n_embd", "max_iters")
"""Factors that a law in N and D is meant to describe."""
MIXED_FACTORS = {"batch_size": "D", "gradient_accumulation_steps": "D", "block_size": "D", "bias": "N"}
"""Factors that change N or D, and training besides."""


@dataclass(frozen=True)
class ScalingResults:
    """A fit to `runs` (the table's rows that have a value in every column) and what follows from it.

    An unidentified fit has neither other objectives, frontier, predictions nor hold-out; `cautions` say why.
    """

    fit: Fit
    runs: pl.DataFrame
    other_objectives: Mapping[str, Mapping[str, float | None]]
    """Point estimates under the other objectives, None at a bound."""
    other_counts: Mapping[str, Fit]
    """The same fit with parameters counted otherwise, by column."""
    frontier: Frontier | None
    """At AHEAD times the largest compute; None for a law that is not one of N and D."""
    profiles: Sequence[Profile]
    isoflop_law: IsoflopLaw | None
    """Through the minima of three profiles or more."""
    cost: Cost
    """Of the table's runs, by which profiles are compared with the law."""
    predictions: Sequence[Prediction]
    holdout: HoldOut | None
    groups: Groups | None
    """A fit for each value of a column."""
    true_floor: TrueFloor | None
    """Of a synthetic text."""
    cautions: Sequence[Diagnostic]


def analyse_scaling(
    table: pl.DataFrame,
    form: Form,
    columns: Mapping[str, str],
    *,
    floor: bool = True,
    objective: Objective | None = None,
    intervals: Intervals = "delta",
    curve: Curve = "cubic",
    tolerance: float = TOLERANCE,
    points: Sequence[Mapping[str, float]] = (),
    holdout: bool | None = None,
    restrictions: Restrictions = FREE,
    by: str | None = None,
    known_compute: bool = False,
) -> ScalingResults:
    """Fit a law to a table with one row a run, and derive all that was asked for.

    `columns` names the columns of N, D, C and the loss, and may name those of the unique tokens U, the weight and the
    cluster; `points` are to be predicted at. Computes within `tolerance` are one IsoFLOP profile. The largest size is
    held out wherever the rows allow it; `holdout` True says why where they do not, False leaves it. The law is
    also fitted to the rows of each value of `by`. With `known_compute` C is in FLOPs, whatever 6ND is.
    Raises ConfigError as `fit_law` and `predict` do.

    Example: `analyse_scaling(runs, "LND", {"N": "N", "D": "D", "C": "C", "loss": "loss"}, holdout=True)`.
    """
    table, derived = with_tokens(table, form, columns)
    options: dict[str, Any] = {"floor": floor, "objective": objective, "restrictions": restrictions}
    fit = fit_law(table, form, columns, intervals=intervals, **options)
    identified = fit.uncertainty is not None
    counts = [
        column
        for column in PARAMETER_COUNTS
        if "N" in form and columns["N"] in PARAMETER_COUNTS and column != columns["N"] and column in table.columns
    ]
    rows = rows_of_law(table, form, columns)
    axes = [columns[axis] for axis in VARIABLES[form]]
    levels = {column: close_groups(x_n) for column, x_n in zip(axes, fit.law.x_Kxn, strict=True)}
    cells = rows.table.with_columns(pl.Series(column, level_n) for column, level_n in levels.items())
    cautions = [*fit.cautions, *derived]
    if not (derived or known_compute):
        cautions += unit_doubts(rows.table, columns) or compute_doubts(rows.table, columns)
    cautions += cluster_doubts(rows.table, columns.get("cluster"), [*columns.values()])
    cautions += repeated_data(rows.table, form, columns)
    cautions += unlisted_columns(cells, fit.law.y_n, axes, columns.values(), _one_at_a_time)
    if points and not identified:
        text = "The table does not identify the law, so nothing was predicted."
        cautions.append(Diagnostic("prediction_unidentified", "blocks", text))
    held = hold_out_largest(fit, table) if holdout is not False else None
    if isinstance(held, Diagnostic):
        cautions += [held] if holdout else []
    elif held:
        cautions += held_out_doubts(held)
    predictions = [predict(fit, point) for point in points] if identified else []
    profiled = "N" in form and columns.get("C") in table.columns
    profiles: list[Profile] = []
    if profiled:
        profiles = isoflop_profiles(table, columns["N"], columns["C"], columns["loss"], curve, tolerance)
    cost = cost_of(rows.table, columns)
    minima = isoflop_law(profiles, cost)
    if minima and fit.uncertainty and form in FRONTIER_FORMS and "compute_mismatch" not in {c.code for c in cautions}:
        losses_n = np.exp(fit.law.log_loss(fit.uncertainty.theta_p, fit.law.x_Kxn)[0])
        fitted = rows.table.with_columns(pl.Series(columns["loss"], losses_n))
        profiles_of_law = isoflop_profiles(fitted, columns["N"], columns["C"], columns["loss"], curve, tolerance)
        cautions += disagreement(fit, minima, isoflop_law(profiles_of_law, cost))
    return ScalingResults(
        fit,
        rows.table,
        other_objectives(fit),
        {c: fit_law(table, form, {**columns, "N": c}, **options) for c in counts},
        frontier(fit, [times * data_compute(fit)[1] for times in AHEAD])
        if form in FRONTIER_FORMS and identified
        else None,
        profiles,
        minima,
        cost,
        predictions,
        None if isinstance(held, Diagnostic) else held,
        fits_by_group(table, form, columns, by, intervals=intervals, **options) if by else None,
        true_floor(fit, rows.table),
        [*cautions, *(caution for prediction in predictions for caution in prediction.cautions)],
    )


def repeated_data(table: pl.DataFrame, form: Form, columns: Mapping[str, str]) -> list[Diagnostic]:
    """A caution where D exceeds the unique tokens of the column U by more than 1%."""
    tokens, unique = columns.get("D", "D"), columns.get("U")
    if SHAPES[form].repeats or unique is None or tokens not in table.columns:
        return []
    check_columns([unique], table.columns)
    epochs = (number_column(table[tokens]) / number_column(table[unique])).drop_nulls().drop_nans()
    repeated = epochs.filter(epochs > 1 + SAME).to_list()
    if not repeated:
        return []
    text = (
        f"In {len(repeated):,} of {counted(len(table), 'row')} {tokens} exceeds {unique}, by up to {max(repeated):.3g} "
        "epochs: the law takes repeated tokens for new ones."
    )
    return [
        Diagnostic(
            "repeated_data", "limits", text, "Fit a data-constrained form: isoloss fit TABLE --form LNDUN (or LNDU)."
        )
    ]


def _one_at_a_time(columns: Sequence[str]) -> str:
    return f"Fit rows that agree in {listed(columns)}; only what does not change the loss may vary."


def study_law(table: pl.DataFrame, done: pl.DataFrame, factors: Sequence[str]) -> ScalingResults | Diagnostic:
    """The law L(N, D), L(N) or L(D), by what a study's design varies, fitted to the final losses of its runs.

    `table` is the study's summary, `done` its rows of the runs that are done, `factors` those that vary. A diagnostic
    says why there is nothing to fit.
    """
    form = FORM_OF.get("".join(axis for axis in ("N", "D") if table[SUMMARY_COLUMNS[axis]].n_unique() > 1))
    if form is None:
        size, tokens = (int(table[SUMMARY_COLUMNS[axis]][0]) for axis in ("N", "D"))
        text = (
            f"There is no scaling law to fit: all runs have {size:,} parameters without embeddings and see {tokens:,} "
            "training tokens."
        )
        return Diagnostic("nothing_scaled", "blocks", text, "Vary n_embd or n_layer, and max_iters.")
    if done.is_empty():
        return Diagnostic("no_runs_done", "blocks", "No scaling law is fitted yet: no run is done.")
    try:
        found = analyse_scaling(done, form, summary_columns(done), holdout=True, known_compute=True)
    except ConfigError as error:
        return Diagnostic("scaling_not_fitted", "blocks", f"No scaling law is fitted: {error}.")
    # Its factors are told of below, and a row is a run.
    told = [caution for caution in found.cautions if caution.code not in ("unlisted_columns", "rows_share_runs")]
    return replace(found, cautions=[*told, *_of_study(table, done, factors)])


def _of_study(table: pl.DataFrame, done: pl.DataFrame, factors: Sequence[str]) -> Iterator[Diagnostic]:
    """What the law leaves out: runs that are not done, other factors, overfitting."""
    if len(done) < len(table):
        states = Counter(table.filter(pl.col("status") != "done")["status"].to_list())
        lost = listed(f"{n:,} {state}" for state, n in sorted(states.items()))
        text = f"{len(table) - len(done):,} of {counted(len(table), 'run')} are not done and not part of it: {lost}."
        yield Diagnostic("runs_not_done", "limits", text)
    others = [factor for factor in factors if factor not in LADDER_FACTORS and factor not in MIXED_FACTORS]
    ladder = [factor for factor in factors if factor in LADDER_FACTORS]
    for factor in ladder:
        for other in [each for each in others if done.group_by(factor).agg(pl.n_unique(each))[each].max() == 1]:
            others.remove(other)
            text = f"{other} goes with {factor}: its effect is in the exponents."
            yield Diagnostic("factor_goes_along", "limits", text)
    if others:
        whose = "its effect is" if len(others) == 1 else "their effects are"
        text = f"The study also varies {listed(others)}: {whose} in the residuals of the fit."
        yield Diagnostic("other_factors", "limits", text)
    for factor in factors:
        if factor in MIXED_FACTORS:
            axis = MIXED_FACTORS[factor]
            text = f"{factor} changes {axis}: what else it does to training is taken for an effect of {axis}."
            yield Diagnostic("mixed_factor", "limits", text)
    rises = (done["final_val_loss"] - done["best_val_loss"]).drop_nulls()
    risen = rises.filter(rises > 0).to_list()
    if risen:
        text = (
            f"In {len(risen):,} of {counted(len(rises), 'run')} the last validation loss is not the lowest, by up to "
            f"{loss(max(risen))} nats/token; the law has no term for overfitting."
        )
        yield Diagnostic("loss_rises", "limits", text)
