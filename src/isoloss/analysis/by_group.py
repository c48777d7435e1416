"""A law for each group of rows, and how its parameters differ between groups."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import combinations
from math import sqrt
from typing import Any

import polars as pl
from scipy import special

from isoloss.analysis.estimate import LEVEL, Estimate
from isoloss.analysis.laws import Form
from isoloss.analysis.roles import check_columns
from isoloss.analysis.scaling import Fit, fit_law
from isoloss.errors import ConfigError
from isoloss.wording import counted

MOST_GROUPS = 20


@dataclass(frozen=True)
class Difference:
    """How much larger a parameter is in `group` than in `base`."""

    parameter: str
    group: str
    base: str
    difference: Estimate


@dataclass(frozen=True)
class Groups:
    """A fit for each value of a column, in the order of its values, and the differences between every two."""

    column: str
    fits: Mapping[str, Fit]
    differences: Sequence[Difference]


def fits_by_group(table: pl.DataFrame, form: Form, columns: Mapping[str, str], by: str, **options: Any) -> Groups:
    """Fit the law to the rows of each value of `by`; `options` are those of `fit_law`.

    Fits of different rows are independent: a difference's variance is the sum of theirs, and its interval t with the
    degrees of freedom of Welch (1947). Raises ConfigError for a column that is missing, has one value, or too many.
    """
    check_columns([by], table.columns)
    values = table[by].drop_nulls().unique().sort().to_list()
    if not 2 <= len(values) <= MOST_GROUPS:
        had = counted(len(values), "value")
        raise ConfigError(f"--by {by}: it has {had}; from 2 to {MOST_GROUPS} can be compared", (by,))
    fits = {str(value): fit_law(table.filter(pl.col(by) == value), form, columns, **options) for value in values}
    differences = [
        Difference(name, group, base, _difference(fits[group], fits[base], name))
        for base, group in combinations(fits, 2)
        for name in fits[base].parameters
        if all(fits[each].parameters.get(name) and fits[each].parameters[name].se for each in (base, group))
    ]
    return Groups(by, fits, differences)


def _difference(one: Fit, other: Fit, name: str) -> Estimate:
    variances: list[float] = []
    spent = 0.0
    for fit in (one, other):
        se = fit.parameters[name].se
        assert se is not None and fit.uncertainty is not None
        variances.append(se**2)
        spent += se**4 / fit.uncertainty.df
    variance = sum(variances)
    df = variance**2 / spent if spent > 0 else 1.0
    value = one.parameters[name].estimate.value - other.parameters[name].estimate.value
    half = float(special.stdtrit(df, (1 + LEVEL) / 2)) * sqrt(variance)
    method = f"difference of two fits, Welch's t with {df:.3g} df"
    return Estimate(value, value - half, value + half, LEVEL, one.n + other.n, method)
