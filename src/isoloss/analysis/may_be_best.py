"""Which configurations may be the best: those whose mean is not above the lowest by more than chance explains."""

from __future__ import annotations

import numpy as np
import polars as pl
from scipy import special

from isoloss.analysis.estimate import LEVEL


def may_be_best(runs: pl.DataFrame, configuration: str, response: str, block: str) -> list[str] | None:
    """Configurations that may have the lowest expected response, the one with the lowest mean first.

    The others are above it by t tests of their differences in each block (seed) that both have, at 5% over all
    comparisons (subset selection, Gupta 1956; Bonferroni), whatever the noise of each. The tests are two-sided, as
    which mean is the lowest is known from the same runs: of two equal configurations one would be told worse in 10% of
    studies else. One that shares fewer than two blocks with it may be the best. None where all others do: then nothing
    can be told.
    """
    means = runs.group_by(configuration, maintain_order=True).agg(pl.col(response).mean()).sort(response)
    best, others = means[configuration][0], len(means) - 1
    own = runs.filter(pl.col(configuration) == best).select(block, pl.col(response).alias("\0best"))
    paired = runs.filter(pl.col(configuration) != best).join(own, on=block)
    differences = paired.group_by(configuration, maintain_order=True).agg(
        n=pl.len(), mean=(pl.col(response) - pl.col("\0best")).mean(), sd=(pl.col(response) - pl.col("\0best")).std()
    )
    compared = differences.filter(pl.col("n") > 1)
    if compared.is_empty():
        return None
    n, mean, sd = (compared[name].cast(pl.Float64()).to_numpy() for name in ("n", "mean", "sd"))
    above = mean > special.stdtrit(n - 1, 1 - (1 - LEVEL) / 2 / others) * sd / np.sqrt(n)
    worse = {*compared.filter(pl.Series(above))[configuration]}
    return [each for each in means[configuration] if each not in worse]
