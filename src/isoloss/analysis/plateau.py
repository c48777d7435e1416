"""How many runs have plateaued by a step, with an interval that allows for the runs which cannot tell."""

from __future__ import annotations

from dataclasses import dataclass

from isoloss.analysis.convergence import Convergence
from isoloss.analysis.curves import clopper_pearson_low
from isoloss.analysis.estimate import LEVEL, Estimate


@dataclass(frozen=True)
class PlateauCounts:
    """Runs by what they show of a plateau by a step; `censored` ones, among the `unresolved`, end before that step."""

    plateaued: int
    not_plateaued: int
    unresolved: int
    censored: int


def plateau_counts(convergence: Convergence, step: float) -> PlateauCounts:
    """Runs by what they show of a plateau by `step`.

    Plateaued: the plateau began at or before it. Not plateaued: U-turned or diverged, or the lower end of the
    improvement is above the tolerance over the first window from `step` on (over the last one where none starts so
    late). A run that ends before `step` without a plateau is censored: what it would have done is not known, even if it
    was still improving.
    """
    plateaued = not_plateaued = censored = 0
    for run in convergence.runs:
        window = next(
            (each for each in run.windows if each.first_step >= step), run.windows[-1] if run.windows else None
        )
        if run.plateau_step is not None and run.plateau_step <= step:
            plateaued += 1
        elif run.state in ("U-turned", "diverged"):
            not_plateaued += 1
        elif run.last_step < step:
            censored += 1
        elif window is not None and window.improvement.low is not None:
            not_plateaued += window.improvement.low > convergence.tolerance
    unresolved = len(convergence.runs) - plateaued - not_plateaued
    return PlateauCounts(plateaued, not_plateaued, unresolved, censored)


def plateaued_by(convergence: Convergence, step: float, level: float = LEVEL) -> Estimate:
    """Share of the runs shown to have plateaued by `step`, with an interval for the share that has.

    The interval allows for whatever the unresolved runs did: its lower end counts none of them as plateaued, its upper
    end all (worst-case bounds, Manski 1989; each end Clopper–Pearson).
    """
    counts, n = plateau_counts(convergence, step), len(convergence.runs)
    low = clopper_pearson_low(counts.plateaued, n, level)
    high = 1 - clopper_pearson_low(counts.not_plateaued, n, level)
    method = (
        f"share shown to have plateaued by step {step:,g} at {convergence.tolerance:g} nats per doubling; "
        f"Clopper–Pearson bounds that allow for {counts.unresolved} unresolved runs, {counts.censored} ended before"
    )
    return Estimate(counts.plateaued / n, low, high, level, n, method)
