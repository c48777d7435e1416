"""What a reader of the states of convergence has to know about the runs they were told from."""

from __future__ import annotations

from collections.abc import Sequence

from isoloss.analysis.beginnings import families_of
from isoloss.analysis.curves import Curve
from isoloss.analysis.trend import LEAST, Points, RunNoise
from isoloss.diagnostic import Diagnostic

CORRELATED = 0.5
"""Autocorrelation from point to point above which a run's intervals are not to be relied on."""


def cautions_about(
    curves: Sequence[Curve], points: Sequence[Points], noises: Sequence[RunNoise | None], lost: set[str]
) -> list[Diagnostic]:
    """Each with the number of runs it is about; `lost` are those that end without a finite loss."""
    judged = {curve.run for curve in curves}
    few = sum(len(each.x_j) < LEAST for each in points)
    unknown = sum(noise is None and len(p.x_j) >= LEAST for p, noise in zip(points, noises, strict=True))
    pooled = sum(noise is not None and noise.runs > 1 for noise in noises)
    noisier = sum(noise is not None and noise.above_pool for noise in noises)
    correlated = sum(noise is not None and (noise.autocorrelation or 0) > CORRELATED for noise in noises)
    at_zero = sum(bool((curve.step_n == 0).any()) for curve in curves)
    repeated = len(curves) - len(set(families_of(curves).tolist()))
    found = (
        (len(lost & judged), "ends_without_loss", "end with a loss that is not finite; diverged."),
        (len(lost - judged), "no_finite_loss", "have no finite loss at all and appear nowhere below."),
        (few, "few_evaluations", "have fewer than 4 evaluations after step 0; inconclusive."),
        (unknown, "noise_unknown", "have too few evaluations to tell their noise, also together; inconclusive."),
        (
            pooled,
            "noise_pooled",
            "have few evaluations and share one estimate of noise, taken to be equal and without memory.",
        ),
        (
            noisier,
            "noise_differs",
            "are noisier than the others by more than chance and are judged by their own noise.",
        ),
        (
            correlated,
            "correlated_noise",
            f"have an autocorrelation above {CORRELATED} from point to point (noise that lasts, or a trend that bends "
            "fast): their intervals are not to be relied on.",
        ),
        (
            repeated,
            "shared_beginning",
            "begin with the very evaluations of another run, which count once: in the mean that crosses a target, in "
            "the share of runs that reached it, and in the noise that runs share.",
        ),
        (at_zero, "step_zero", "are evaluated at step 0, which has no logarithm and is left out of slopes."),
    )
    return [
        Diagnostic(code, "limits", f"{count:,} of {len(judged | lost):,} runs {text}")
        for count, code, text in found
        if count
    ]
