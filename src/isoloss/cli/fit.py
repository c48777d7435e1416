"""`isoloss fit`: its points and columns as they are typed, and its JSON."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from typing import Any

import polars as pl

from isoloss.analysis.by_group import Groups
from isoloss.analysis.frontier import HoldOut, Prediction
from isoloss.analysis.laws import Restrictions, summary_columns
from isoloss.analysis.roles import check_columns
from isoloss.analysis.scaling import Fit
from isoloss.analysis.scaling_results import ScalingResults
from isoloss.errors import ConfigError
from isoloss.study.studyfile import parse_scalar


def parse_point(text: str) -> dict[str, float]:
    """'N=1e8,D=2e9' as numbers. Raises ConfigError."""
    point: dict[str, float] = {}
    for part in text.split(","):
        name, equals, value = part.partition("=")
        number = parse_scalar(value, f"--predict {text}") if equals else None
        if isinstance(number, bool) or not isinstance(number, int | float):
            raise ConfigError(f"--predict {text}: expected NAME=NUMBER, like N=1e8,D=2e9")
        point[name.strip()] = float(number)
    return point


def parse_restrictions(fix: Sequence[str], tie: Sequence[str]) -> Restrictions:
    """'E=1.69' and 'alpha=beta' as restrictions of a law. Raises ConfigError."""
    fixed: dict[str, float] = {}
    for text in fix:
        name, equals, value = text.partition("=")
        number = parse_scalar(value, f"--fix {text}") if equals else None
        if isinstance(number, bool) or not isinstance(number, int | float):
            raise ConfigError(f"--fix {text}: expected NAME=NUMBER, like E=1.69")
        fixed[name.strip()] = float(number)
    tied: dict[str, str] = {}
    for text in tie:
        name, equals, other = (part.strip() for part in text.partition("="))
        if not (name and equals and other):
            raise ConfigError(f"--tie {text}: expected NAME=NAME, like alpha=beta")
        tied[other] = name
    return Restrictions(fixed, tied)


def choose_columns(given: Mapping[str, str | None], table: pl.DataFrame, *, study: bool) -> dict[str, str]:
    """The column of each variable: as given, else a study's, else the variable's own name.

    Raises ConfigError when a given one is not in the table.
    """
    check_columns(filter(None, given.values()), table.columns)
    known = summary_columns(table) if study else {axis: axis for axis in given}
    chosen = {axis: column or known.get(axis) for axis, column in given.items()}
    return {
        axis: column
        for axis, column in chosen.items()
        if column and (axis not in ("U", "weight", "cluster") or given[axis] or study)
    }


def scaling_as_json(found: ScalingResults) -> str:
    """One object, numbers at full precision."""
    fit, solution = found.fit, found.fit.solution
    objective: dict[str, Any] = {"name": fit.objective.name, "delta": fit.objective.delta, "value": None}
    starts: dict[str, int] = {}
    if solution is not None:
        objective |= {"value": solution.value, "gradient_norm": solution.gradient_norm}
        starts = {"tried": solution.n_starts, "polished": solution.n_polished, "agree": solution.n_agreeing}
    document = {
        "form": fit.form,
        "floor": fit.law.floor,
        "columns": dict(fit.columns),
        "objective": objective,
        "starts": starts,
        "n": fit.n,
        "n_cells": fit.n_cells,
        "status": fit.status,
        "warnings": [asdict(caution) for caution in found.cautions],
        "intervals": fit.uncertainty.method if fit.uncertainty else None,
        "parameters": _parameters(fit),
        "determined": {name: asdict(estimate) for name, estimate in fit.determined.items()},
        "restrictions": asdict(fit.law.restrictions),
        "other_objectives": found.other_objectives,
        "other_counts": {column: {"status": f.status, **_parameters(f)} for column, f in found.other_counts.items()},
        "frontier": asdict(found.frontier) if found.frontier else None,
        "isoflop": {
            "profiles": [asdict(profile) for profile in found.profiles],
            "law": asdict(found.isoflop_law) if found.isoflop_law else None,
        },
        "predictions": [_prediction(prediction) for prediction in found.predictions],
        "holdout": _holdout(found.holdout) if found.holdout else None,
        "by": _groups(found.groups) if found.groups else None,
        "true_floor": asdict(found.true_floor) if found.true_floor else None,
    }
    return json.dumps(document, indent=2, allow_nan=False)


def _parameters(fit: Fit) -> dict[str, Any]:
    return {
        name: {"value": p.estimate.value, "low": p.estimate.low, "high": p.estimate.high, "se": p.se}
        for name, p in fit.parameters.items()
    }


def _groups(found: Groups) -> dict[str, Any]:
    groups = [
        {
            "level": level,
            "n": fit.n,
            "status": fit.status,
            "parameters": _parameters(fit),
            "warnings": [asdict(caution) for caution in fit.cautions],
        }
        for level, fit in found.fits.items()
    ]
    differences = [asdict(difference) for difference in found.differences]
    return {"column": found.column, "groups": groups, "differences": differences}


def _prediction(prediction: Prediction) -> dict[str, Any]:
    """`low` and `high` are the prediction interval of one new run, `law_low` and `law_high` the law's own."""
    new, law = prediction.new_run, prediction.law
    ends = {"value": new.value, "low": new.low, "high": new.high, "law_low": law.low, "law_high": law.high}
    found = {**prediction.point, **ends, "level": new.level, "warnings": [asdict(c) for c in prediction.cautions]}
    best = prediction.optimum
    return found | ({"N": asdict(best.n_params), "D": asdict(best.tokens)} if best else {})


def _holdout(held: HoldOut) -> dict[str, Any]:
    rows = [
        {
            **row.point,
            "observed": row.observed,
            "predicted": row.predicted.value,
            "low": row.predicted.low,
            "high": row.predicted.high,
            "error": row.error,
            "inside": row.inside,
        }
        for row in held.rows
    ]
    totals = {"variable": held.variable, "level": held.level, "n": len(rows), "n_inside": held.n_inside}
    return {**totals, "mean_error": held.mean_error, "rows": rows, "parameters": _parameters(held.fit)}
