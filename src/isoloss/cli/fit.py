"""What `isoloss fit` prints."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from rich.console import Console
from rich.table import Table

from isoloss.analysis.estimate import Estimate
from isoloss.analysis.frontier import Frontier, HoldOut, Prediction
from isoloss.analysis.isoflop import Profile
from isoloss.analysis.laws import AXES
from isoloss.analysis.scaling import Fit
from isoloss.analysis.solve import OBJECTIVES
from isoloss.diagnostic import Diagnostic
from isoloss.errors import ConfigError
from isoloss.spec.studyfile import parse_scalar


@dataclass(frozen=True)
class Answer:
    """Everything one call found out."""

    fit: Fit
    others: Mapping[str, Mapping[str, float | None]]
    """Point estimates under the other objectives, None at a bound."""
    other_counts: Mapping[str, Fit]
    """The same fit with parameters counted otherwise, by column."""
    frontier: Frontier | None
    profiles: Sequence[Profile]
    predictions: Sequence[Prediction]
    holdout: HoldOut | None
    cautions: Sequence[Diagnostic]


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


def answer_as_json(answer: Answer) -> str:
    """One object, numbers at full precision."""
    fit, frontier, holdout = answer.fit, answer.frontier, answer.holdout
    solution = fit.solution
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
        "warnings": [asdict(caution) for caution in answer.cautions],
        "intervals": fit.uncertainty.method if fit.uncertainty else None,
        "parameters": _parameters(fit),
        "other_objectives": answer.others,
        "other_counts": {column: {"status": f.status, **_parameters(f)} for column, f in answer.other_counts.items()},
        "frontier": asdict(frontier) if frontier else None,
        "isoflop": [asdict(profile) for profile in answer.profiles],
        "predictions": [_prediction(prediction) for prediction in answer.predictions],
        "holdout": _holdout(holdout) if holdout else None,
    }
    return json.dumps(document, indent=2, allow_nan=False)


def answer_as_text(answer: Answer) -> str:
    """What was fitted, the parameters with their intervals, what follows from them, and every doubt."""
    fit = answer.fit
    columns = ", ".join(f"{axis} from {fit.columns[axis]}" for axis in AXES[fit.form])
    cells = "" if fit.n_cells == fit.n else f" in {fit.n_cells} cells"
    delta = f", delta {fit.objective.delta:g}" if fit.objective.name == "huber" else ""
    console = Console(width=120)
    with console.capture() as captured:
        console.print(
            f"{fit.law.formula}: {columns}, L from {fit.columns['loss']}; {fit.n:,} rows{cells}", highlight=False
        )
        if fit.solution is not None:
            console.print(
                f"{OBJECTIVES[fit.objective.name]}{delta}: {fit.solution.value:.6g}; {fit.solution.n_agreeing} of "
                f"{fit.solution.n_polished} polished starts agree",
                highlight=False,
            )
        if fit.uncertainty is None:
            console.print("\nunidentified: these data do not determine the law; no numbers are given", highlight=False)
        else:
            console.print(f"95% intervals: {fit.uncertainty.method}\n", highlight=False)
            console.print(_parameter_table(answer))
            for line in _consequences(answer):
                console.print(line, highlight=False)
        for caution in answer.cautions:
            console.print(f"\n{caution.code}: {caution.text}", highlight=False)
    return captured.get().rstrip()


def _parameter_table(answer: Answer) -> Table:
    table = Table(box=None, pad_edge=False)
    table.add_column("")
    counted = {column: f for column, f in answer.other_counts.items() if f.uncertainty}
    headings = ["value", "95% interval", *(f"by {name}" for name in answer.others), *(f"N = {c}" for c in counted)]
    for heading in headings:
        table.add_column(heading, justify="right")
    for name, parameter in answer.fit.parameters.items():
        cells = [f"{parameter.estimate.value:.5g}", _interval(parameter.estimate)]
        others = [values.get(name) for values in answer.others.values()]
        cells += ["at bound" if value is None else f"{value:.5g}" for value in others]
        counts = [fit.parameters.get(name) for fit in counted.values()]
        cells += ["–" if found is None else _with_interval(found.estimate) for found in counts]
        table.add_row(name, *cells)
    return table


def _consequences(answer: Answer) -> list[str]:
    lines: list[str] = []
    if answer.frontier:
        a, b = answer.frontier.a, answer.frontier.b
        lines.append(f"\ncompute-optimal: N* ∝ C^{a.value:.3f} ({_interval(a)}), D* ∝ C^{b.value:.3f} ({_interval(b)})")
        for optimum in answer.frontier.optima:
            lines.append(
                f"  at {optimum.flops:.3g} FLOPs: N* {_with_interval(optimum.n_params, 3)}, "
                f"D* {_with_interval(optimum.tokens, 3)}, L {_with_interval(optimum.loss)}{' *' * optimum.beyond}"
            )
        if any(optimum.beyond for optimum in answer.frontier.optima):
            lines.append("  * outside the sizes or tokens of the data: extrapolated")
    for profile in answer.profiles:
        if profile.optimal_params:
            lines.append(
                f"\nIsoFLOP profile at {profile.flops:.2e}, {profile.n} runs of {len(profile.sizes)} sizes, "
                f"{profile.curve}: lowest at N = {_with_interval(profile.optimal_params)}"
            )
        else:
            lines.append(f"\nIsoFLOP profile at {profile.flops:.2e}: {profile.cautions[-1].text}")
    for prediction in answer.predictions:
        where = ", ".join(f"{name} = {value:g}" for name, value in prediction.point.items())
        lines.append(
            f"\nat {where}: {prediction.law.value:.4f}, 95% interval of the law {_interval(prediction.law)}, of one "
            f"new run {_interval(prediction.new_run)}"
        )
    if answer.holdout:
        held = answer.holdout
        lines.append(
            f"\nheld out {held.variable} = {held.level:,.0f} ({len(held.rows)} rows): observed minus predicted "
            f"{held.mean_error:+.4f} on average; {held.n_inside} of {len(held.rows)} inside their prediction interval"
        )
    return lines


def _parameters(fit: Fit) -> dict[str, Any]:
    return {
        name: {"value": p.estimate.value, "low": p.estimate.low, "high": p.estimate.high, "se": p.se}
        for name, p in fit.parameters.items()
    }


def _prediction(prediction: Prediction) -> dict[str, Any]:
    """`low` and `high` are the prediction interval of one new run, `law_low` and `law_high` the law's own."""
    new, law = prediction.new_run, prediction.law
    ends = {"value": new.value, "low": new.low, "high": new.high, "law_low": law.low, "law_high": law.high}
    return {**prediction.point, **ends, "level": new.level, "warnings": [asdict(c) for c in prediction.cautions]}


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


def _interval(estimate: Estimate, digits: int = 4) -> str:
    return "–" if estimate.low is None else f"{estimate.low:.{digits}g} to {estimate.high:.{digits}g}"


def _with_interval(estimate: Estimate, digits: int = 4) -> str:
    return f"{estimate.value:.{digits}g} ({_interval(estimate, digits)})"
