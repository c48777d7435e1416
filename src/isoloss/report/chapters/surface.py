"""A response surface: which settings matter, and where each is best."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import asdict
from typing import Any

import polars as pl

from isoloss.analysis.response_surface import Importance, Surface
from isoloss.report.chapter import Chapter
from isoloss.report.optimum_words import optima_in_words, optima_table
from isoloss.report.references import cited
from isoloss.report.response import response_of
from isoloss.report.table import Column, Table
from isoloss.wording import counted, listed, percent

MAX_NAMED = 3
MATTERS = 0.01
"""Share of the variance that a factor explains with 97.5% probability to be said to matter."""


def surface_chapter(surface: Surface) -> Chapter:
    """What a response surface says of the settings that were drawn."""
    name = response_of(surface.response).name
    return Chapter(
        "effects",
        f"Effects on {name}",
        list(_answer(surface)),
        tables=[_importance_table(surface), *([optima_table(surface.optima)] if surface.optima else [])],
        details=list(_details(surface)),
    )


def surface_as_json(surface: Surface) -> str:
    """One object, at full precision; `effects` is empty, as there are no levels to compare."""
    document: dict[str, Any] = {"method": "response surface"} | asdict(surface) | {"effects": [], "shifts": []}
    return json.dumps(document, indent=2, ensure_ascii=False, allow_nan=False)


def _matters(each: Importance) -> bool:
    return each.total.low is not None and each.total.low > MATTERS


def _answer(surface: Surface) -> Iterator[str]:
    found, name = [each for each in surface.importance if _matters(each)], response_of(surface.response).name
    if not found:
        yield f"No factor is shown to explain {name} over these {surface.n:,} runs."
    else:
        shares = listed(f"{each.factor} {_share(each)}" for each in found[:MAX_NAMED])
        more = f", and {counted(len(found) - MAX_NAMED, 'factor')} less" if len(found) > MAX_NAMED else ""
        yield f"Of the variance of {name} over {counted(surface.n, 'run')}, {shares} explain most{more}."
    told = {each.factor for each in found}
    said = list(optima_in_words([each for each in surface.optima if each.factor in told]))
    if said:
        yield " ".join(said)
    for caution in surface.cautions:
        if caution.code == "lack_of_fit":
            yield caution.text


def _share(each: Importance) -> str:
    low, high = each.total.low, each.total.high
    return f"{percent(each.total.value)} (95% interval {percent(low)} to {percent(high)})"


def _details(surface: Surface) -> Iterator[str]:
    yield (
        "Settings with many values that seldom repeat are covariates: the first three powers of each, on a log scale "
        "where it spans a decade, and products of pairs, every group shrunk by what the data tell of its size "
        f"{cited('tipping2001')}. Intervals are of draws of the surface given these sizes."
    )
    yield (
        f"The surface explains {percent(surface.explained)} of the variance and predicts {percent(surface.predicted)} "
        f"of that of runs left out one at a time; it leaves a standard deviation of {surface.noise_sd:.3g}."
    )
    yield from (caution.text + (f" {caution.remedy}" if caution.remedy else "") for caution in surface.cautions)


def _importance_table(surface: Surface) -> Table:
    rows = [
        {
            "factor": each.factor,
            "scale": each.scale,
            "alone": each.alone.value,
            "alone_low": each.alone.low,
            "alone_high": each.alone.high,
            "total": each.total.value,
            "total_low": each.total.low,
            "total_high": each.total.high,
            "n": each.total.n,
        }
        for each in surface.importance
    ]
    columns = [
        Column("factor", "factor", width=24),
        Column("scale", "scale"),
        Column("alone", "alone", "percent", interval=("alone_low", "alone_high")),
        Column("total", "with interactions", "percent", interval=("total_low", "total_high")),
    ]
    title = (
        f"Importance: share of the variance of {response_of(surface.response).name} over n = "
        f"{counted(surface.n, 'run')} that each factor explains; 95% intervals."
    )
    return Table("importance", title, pl.DataFrame(rows, infer_schema_length=None), columns)
