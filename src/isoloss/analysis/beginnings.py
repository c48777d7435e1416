"""Runs that share a beginning: their first evaluations are the same numbers, since they were trained once or copied.

Such runs are no independent observations. A family is all runs with the same first evaluation after step 0, to the last
digit; where it has six decimals or fewer, two runs may agree by chance, and the second evaluation has to agree as well.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from isoloss.analysis.curves import Curve

Floats = NDArray[np.float64]
FEW_DECIMALS = 6


def families_of(curves: Sequence[Curve]) -> NDArray[np.int64]:
    """The family of each curve, numbered from 0 in the order of their first members."""
    numbers: dict[object, int] = {}
    return np.array(
        [numbers.setdefault(_beginning(curve) or number, len(numbers)) for number, curve in enumerate(curves)], np.int64
    )


def means_of_families(loss_uxj: Floats, family_u: NDArray[np.int64]) -> Floats:
    """Mean losses of each family, [family, j], in order of their first members."""
    return np.stack([loss_uxj[family_u == family].mean(0) for family in np.unique(family_u)])


def first_of_equals(curves: Sequence[Curve], places: Sequence[int]) -> list[bool]:
    """Whether no earlier curve has the same evaluations up to the place given for each: those count once."""
    seen: set[object] = set()
    first: list[bool] = []
    for curve, place in zip(curves, places, strict=True):
        after_zero = (curve.step_n > 0) & (np.arange(len(curve.step_n)) <= place)
        until = curve.step_n[after_zero].tobytes(), curve.loss_n[after_zero].tobytes()
        first.append(_beginning(curve) is None or until not in seen)
        seen.add(until)
    return first


def mostly_own(curves: Sequence[Curve]) -> list[bool]:
    """Whether half or more of a run's evaluations in its last two doublings of steps are of no longer run before it."""
    family_u, seen = families_of(curves), dict[int, set[tuple[float, float]]]()
    own, size_f = [True] * len(curves), np.bincount(family_u)
    related = np.flatnonzero(size_f[family_u] > 1).tolist()
    for number in sorted(related, key=lambda number: -curves[number].step_n[-1]):
        curve, known = curves[number], seen.setdefault(int(family_u[number]), set())
        late = curve.step_n >= curve.step_n[-1] / 4
        evaluations = list(zip(curve.step_n[late].tolist(), curve.loss_n[late].tolist(), strict=True))
        own[number] = 2 * sum(each in known for each in evaluations) <= len(evaluations)
        known.update(evaluations)
    return own


def _beginning(curve: Curve) -> tuple[bytes, bytes] | None:
    """What the curves of a family have in common; None where it is too little to tell."""
    after_zero = curve.step_n > 0
    step_n, loss_n = curve.step_n[after_zero], curve.loss_n[after_zero]
    if not len(loss_n):
        return None
    needed = 2 if loss_n[0] == round(float(loss_n[0]), FEW_DECIMALS) else 1
    return (step_n[:needed].tobytes(), loss_n[:needed].tobytes()) if len(loss_n) >= needed else None
