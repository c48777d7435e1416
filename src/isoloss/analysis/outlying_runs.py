"""Runs whose response lies far from what the model of the other runs expects, such as one that diverged.

The externally studentized residual of a run is t (Cook and Weisberg 1982), its p multiplied by the number of runs. So
that several such runs do not hide each other, the one with the largest residual is left out again and again, and all
up to the last that p calls outlying are taken (Rosner 1983); each is then held against the runs that are left (Hadi and
Simonoff 1993). A run has to lie outside the noise of each of its levels, too, and apart from the other runs of its
cell, so that neither a noisy level nor an interaction makes any.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from isoloss.analysis.estimate import LEVEL
from isoloss.analysis.factorial import Floats, t_two_sided
from isoloss.analysis.run_residuals import MIN_DF, SATURATED, RunResiduals
from isoloss.diagnostic import Diagnostic
from isoloss.wording import level, number

TRIED, MAX_SHARE = 20, 0.25
"""Runs that are left out in turn: so many, more where more are FAR, but this share of all at most."""
FAR = 4.0
"""Median absolute deviations, as standard deviations, from the median residual: seldom in normal noise."""
MAX_WORK = 1e10
"""The number of runs times the cube of those left out: seconds."""
MAX_SHARE_OF_LEVEL = 1 / 3
"""Of a level's runs: with more it is the level that is noisy."""
ALIKE = 0.9
"""Residuals at this share of the largest, squared: of two runs that differ, the one further from all others is out."""
TELLING_DF = 2.0
"""A level with fewer degrees of freedom does not show how noisy it is."""
NOISIEST = 10.0
"""Times the noise of all runs that such a level is allowed to have."""
MAX_NAMED = 3


@dataclass(frozen=True)
class OutlyingRun:
    """A run, what it was trained at, its response, and what the runs that do not lie outside lead to expect there.

    `expected` and `p` (adjusted for the number of runs) are of the model without any outlying run.
    """

    place: int
    """Among the runs."""
    name: str
    """'run 3f2a', or 'row 14' where runs have no names."""
    levels: dict[str, float | str | bool]
    response: float
    expected: float
    p: float


def outlying_runs(residuals: RunResiduals) -> list[OutlyingRun]:
    """The runs that lie outside at 5% over all of them, the furthest first."""
    runs = residuals.runs
    if residuals.df < MIN_DF or float(np.ptp(runs.response_n)) <= runs.rounding:
        return []
    shared: dict[int, Floats] = {}
    left, out, last = _Left(residuals, (), shared), (), 0
    for _ in range(_tried(residuals)):
        run = left.furthest()
        if run is None:
            break
        out = (*out, run)
        left = _Left(residuals, out, shared)
        last = len(out) if left.p(run) < 1 - LEVEL else last
    out = out[:last]
    while out:
        left = _Left(residuals, out, shared)
        p = [left.p(run) for run in out]
        if max(p) < 1 - LEVEL:
            return sorted(map(left.described, out), key=lambda found: -abs(found.response - found.expected))
        out = tuple(run for place, run in enumerate(out) if place != int(np.argmax(p)))
    return []


def _tried(residuals: RunResiduals) -> int:
    """How many runs to leave out in turn: TRIED, or half as many again as lie far from the median residual."""
    off_n = np.abs(residuals.residual_n - np.median(residuals.residual_n))
    far = int((off_n > FAR * 1.4826 * np.median(off_n)).sum())
    wanted = max(TRIED, min(3 * far // 2, int((MAX_WORK / residuals.runs.n) ** (1 / 3))))
    return int(min(wanted, max(1, MAX_SHARE * residuals.runs.n), residuals.df // 2))


class _Left:
    """The model of the runs without those in `out`: what it leaves of each run, and how far those in `out` are off.

    `shared` keeps the covariances of residuals between what is asked of it.
    """

    def __init__(self, residuals: RunResiduals, out: tuple[int, ...], shared: dict[int, Floats]) -> None:
        self._residuals, self._out = residuals, list(out)
        self._kept_n = np.ones(residuals.runs.n, dtype=np.bool_)
        self._kept_n[self._out] = False
        self._cell_n = residuals.runs.cell_n
        self._left_n, self._free_n = residuals.residual_n, residuals.free_n
        self._missed_o = self._variance_o = np.zeros(0)
        if out:  # what leaving out rows changes in least squares, without another fit (Cook and Weisberg 1982)
            for run in out:
                if run not in shared:
                    shared[run] = residuals.shared_with(run)
            shared_oxn = np.array([shared[run] for run in out])
            inverse_oxo = np.linalg.inv(shared_oxn[:, self._out])
            self._missed_o = inverse_oxo @ self._left_n[self._out]
            self._variance_o = np.diag(inverse_oxo)
            self._left_n = self._left_n - self._missed_o @ shared_oxn
            self._free_n = self._free_n - ((inverse_oxo @ shared_oxn) * shared_oxn).sum(axis=0)

    def furthest(self) -> int | None:
        """The run without which the squares would be least; None where the fit passes through all that are left."""
        told_n = self._kept_n & (self._free_n > SATURATED)
        if not told_n.any():
            return None
        response_n = self._residuals.runs.response_n
        gain_n = np.where(told_n, self._left_n**2 / np.where(told_n, self._free_n, 1.0), -1.0)
        alike = np.flatnonzero(gain_n >= ALIKE * gain_n.max())
        return int(alike[np.argmax(np.abs(response_n[alike] - np.median(response_n)))])

    def p(self, run: int) -> float:
        """That a run in `out` is as far off by chance, in the noise of all runs and of those at each of its levels."""
        runs, squared = self._residuals.runs, self._squared(run)
        smallest = runs.rounding**2
        df = self._residuals.df - len(self._out)
        of_all = self._mean_square(self._kept_n, df)
        if max(of_all, smallest) == 0.0:
            return 1.0
        p = [t_two_sided((squared / max(of_all, smallest)) ** 0.5, df)]
        for code_n in runs.cells_cxf[self._cell_n].T:
            level_n: NDArray[np.bool_] = code_n == code_n[run]
            kept_n = level_n & self._kept_n
            own_df = float(self._free_n[kept_n].sum())
            if (level_n & ~self._kept_n).sum() > max(1, MAX_SHARE_OF_LEVEL * level_n.sum()):
                return 1.0  # so many runs of the level that this is what it does
            if float(self._residuals.free_n[level_n].sum()) < TELLING_DF - SATURATED:
                p.append(t_two_sided((squared / max(of_all, smallest)) ** 0.5 / NOISIEST, df))
            elif own_df < 1 - SATURATED:
                return 1.0
            else:
                own = max(self._mean_square(kept_n, own_df), smallest)
                p.append(t_two_sided((squared / own) ** 0.5, own_df))
        return min(1.0, max(p) * runs.n)

    def _squared(self, run: int) -> float:
        """How far a run in `out` is off, squared, in error variances: from the model, and from the rest of its cell.

        Of a cell that is out as a whole, which may be what its levels do together, no more than beyond NOISIEST.
        """
        place = self._out.index(run)
        missed, variance = float(self._missed_o[place]), float(self._variance_o[place])
        cell_n: NDArray[np.bool_] = self._cell_n == self._cell_n[run]
        rest_n = cell_n & self._kept_n
        if not rest_n.any():
            return missed**2 / variance / (NOISIEST**2 if cell_n.sum() > 1 else 1.0)
        apart = missed - float(self._left_n[rest_n].mean())
        return min(missed**2 / variance, apart**2 / (1 + 1 / float(rest_n.sum())))

    def described(self, run: int) -> OutlyingRun:
        """A run in `out`."""
        runs, place = self._residuals.runs, self._out.index(run)
        response = float(runs.response_n[run])
        name = f"{runs.run_n.name} {runs.run_n[run]}"
        return OutlyingRun(
            run, name, runs.levels_of(run), response, response - float(self._missed_o[place]), self.p(run)
        )

    def _mean_square(self, of_n: NDArray[np.bool_], df: float) -> float:
        return float((self._left_n[of_n] ** 2).sum()) / df


def outlying_in_words(found: Sequence[OutlyingRun], response: str) -> list[Diagnostic]:
    """Names the runs, what they were trained at, how far they are off; of many the first."""
    if not found:
        return []
    named = [
        f"{run.name} ({', '.join(f'{factor} {level(at)}' for factor, at in run.levels.items())}) has "
        f"{number(run.response)} where the others lead to expect {number(run.expected)}"
        for run in found[:MAX_NAMED]
    ]
    more = [f"so {'does' if more == 1 else 'do'} {more} more"] if (more := len(found) - MAX_NAMED) > 0 else []
    lie = "run lies" if len(found) == 1 else "runs lie"
    text = (
        f"{len(found)} {lie} far outside the noise of all others in {response}: {'; '.join([*named, *more])}. "
        f"Means and intervals include {'it' if len(found) == 1 else 'them'}."
    )
    remedy = "Look at what happened there; leave such runs out with --where, or compare with --scale rank."
    return [Diagnostic("outlying_runs", "limits", text, remedy)]
