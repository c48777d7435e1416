"""What budgets of equal compute can tell: whether each has its best size inside, and which cell would tell more."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from math import exp, log, sqrt
from statistics import NormalDist, geometric_mean

import numpy as np
from numpy.typing import NDArray

from isoloss.design.power import LEVEL
from isoloss.diagnostic import Diagnostic
from isoloss.study.budgets import CLOSE
from isoloss.study.compute import flops_per_token, params_non_embedding, train_flops, train_tokens
from isoloss.study.config import RunConfig
from isoloss.wording import counted, listed, number, percent, si

FEWEST_SIZES = 4
"""At a budget, from which on a curve through them has a minimum of its own (the analysis asks for as many)."""
FEWEST_BUDGETS = 4
"""From which on a power law through their minima has a useful interval: t on 1 degree of freedom is 12.7."""
ALPHA, BETA = 0.164, 0.418
LOG_A, LOG_B = log(4.27), log(176)
"""Of L = E + A/N^α + B/D^β on tiny Shakespeare by characters, from the built-in study `ladder` (docs/log.md)."""
GUESSED = "by the law of tiny Shakespeare, a guess for other texts"
WIDTHS_A_DOUBLING = 4
"""Candidates for a size to add, between half the smallest width and twice the largest."""


@dataclass(frozen=True)
class _Budget:
    """The runs of about equal training FLOPs, and their sizes in non-embedding parameters, ascending."""

    flops: float
    runs: list[RunConfig]
    sizes: list[int]


def budget_findings(configs: Sequence[RunConfig], noise_sd: float) -> Iterator[Diagnostic]:
    """Findings on runs that share budgets of training FLOPs; none where they do not.

    `noise_sd` is the seed-to-seed standard deviation of a run's validation loss in nats.
    """
    budgets = _budgets(configs)
    if not budgets:
        return
    yield from _too_few(budgets)
    yield _bracketed(budgets)
    yield from _next_cell(budgets, configs, noise_sd)


def _budgets(configs: Sequence[RunConfig]) -> list[_Budget]:
    """Groups of runs whose FLOPs differ by rounding to whole steps; empty unless each has several sizes."""
    groups: list[list[RunConfig]] = []
    for config in sorted(configs, key=train_flops):
        if not groups or train_flops(config) > (1 + 2 * CLOSE) * train_flops(groups[-1][0]):
            groups.append([])
        groups[-1].append(config)
    found = [
        _Budget(geometric_mean(map(train_flops, runs)), runs, sorted({*map(params_non_embedding, runs)}))
        for runs in groups
    ]
    # Runs of equal compute by accident may have few sizes, or larger ones that are cheaper.
    return found if all(len(budget.sizes) > 2 and _cost(budget)[0] > 0 for budget in found) else []


def _too_few(budgets: Sequence[_Budget]) -> Iterator[Diagnostic]:
    short = [budget for budget in budgets if len(budget.sizes) < FEWEST_SIZES]
    if short:
        yield Diagnostic(
            "few_sizes_at_budget",
            "limits",
            f"{listed(_flop(b.flops) for b in short)} {'has' if len(short) == 1 else 'have'} fewer than {FEWEST_SIZES} "
            "sizes: no curve through them has a minimum of its own.",
            f"Train at least {FEWEST_SIZES} sizes at each budget, the best of them inside.",
        )
    if len(budgets) < FEWEST_BUDGETS:
        yield Diagnostic(
            "few_budgets",
            "limits",
            f"The study has {counted(len(budgets), 'budget')} of training FLOPs: the exponent of the best size "
            + ("has no interval." if len(budgets) < 3 else "rests on one degree of freedom."),
            f"Train at least {FEWEST_BUDGETS} budgets.",
        )


def _bracketed(budgets: Sequence[_Budget]) -> Diagnostic:
    """Whether the guessed best size of each budget lies among those trained, with two on either side of it."""
    best = [_best_size(budget) for budget in budgets]
    sides = [(sum(s < n for s in b.sizes), sum(s > n for s in b.sizes)) for b, n in zip(budgets, best, strict=True)]
    open_ends = [
        f"{_flop(budget.flops)} (best about {si(size)}, trained {si(budget.sizes[0])} to {si(budget.sizes[-1])})"
        for budget, size, side in zip(budgets, best, sides, strict=True)
        if min(side) < 2
    ]
    if not open_ends:
        between = f"{si(best[0])} parameters at {_flop(budgets[0].flops)}, {si(best[-1])} at {_flop(budgets[-1].flops)}"
        text = f"Each budget has two sizes or more to either side of its best one, guessed at {between} ({GUESSED})."
        return Diagnostic("minima_bracketed", "note", text, "Nothing to change.")
    smaller = any(below < 2 for below, _ in sides)
    larger = any(above < 2 for _, above in sides)
    which = listed([*(["smaller"] if smaller else []), *(["larger"] if larger else [])])
    return Diagnostic(
        "minima_not_bracketed",
        "limits",
        f"Fewer than two sizes lie beyond the guessed best one of {listed(open_ends)}: its minimum may not be found "
        f"({GUESSED}).",
        f"Add {which} sizes, or change the budgets.",
    )


def _best_size(budget: _Budget) -> float:
    """The size of the lowest loss where C = k·N^p·D, with k and p of the budget's runs."""
    power, log_per = _cost(budget)
    alpha, log_product = ALPHA / power, log(budget.flops) - log_per
    return exp(float((log(alpha / BETA) + LOG_A - LOG_B + BETA * log_product) / (alpha + BETA) / power))


def _cost(budget: _Budget) -> tuple[float, float]:
    """p and log k of the budget's runs."""
    log_n = np.log([params_non_embedding(run) for run in budget.runs])
    power, log_per = np.polyfit(log_n, np.log([flops_per_token(run) for run in budget.runs]), 1)
    return float(power), float(log_per)


def _next_cell(budgets: Sequence[_Budget], configs: Sequence[RunConfig], noise_sd: float) -> Iterator[Diagnostic]:
    """The cell at one of the budgets that would narrow the interval of β/(α+β) the most, with as many seeds."""
    now = _half_interval(configs, noise_sd)
    if now is None:
        return
    narrowed: dict[float, tuple[_Budget, RunConfig]] = {}
    seeds = len({config.seed for config in configs})
    for budget in budgets:
        for run in _other_widths(budget):
            half = _half_interval([*configs, *[run] * seeds], noise_sd)
            if half is not None and half < now:
                narrowed[half] = (budget, run)
    if not narrowed:
        return
    half = min(narrowed)
    budget, run = narrowed[half]
    yield Diagnostic(
        "next_cell",
        "note",
        f"The exponent a, with which the best size grows with compute, will be known to ± {number(now, '.2g')} "
        f"({GUESSED}); of cells that could be added, n_embd {run.n_embd:,} at {_flop(budget.flops)} would narrow that "
        f"the most, to ± {number(half, '.2g')} ({percent(1 - half / now)} less).",
        "Nothing to change; a cell can be added later, in the same directory.",
    )


def _other_widths(budget: _Budget) -> list[RunConfig]:
    """The budget's runs at widths that it lacks, where width alone decides its sizes."""
    first = budget.runs[0]
    if len({(run.n_layer, run.bias) for run in budget.runs}) > 1 or len({run.n_head for run in budget.runs}) > 1:
        return []
    trained = {run.n_embd for run in budget.runs}
    steps = round(WIDTHS_A_DOUBLING * log(4 * max(trained) / min(trained), 2))
    widths = {
        first.n_head * max(1, round(min(trained) / 2 * 2 ** (step / WIDTHS_A_DOUBLING) / first.n_head))
        for step in range(steps + 1)
    }
    made: list[RunConfig] = []
    for width in sorted(widths - trained):
        run = first.model_copy(update={"n_embd": width})
        per_step = train_flops(run) / run.max_iters
        made.append(run.model_copy(update={"max_iters": max(1, round(budget.flops / per_step))}))
    return made


def _half_interval(runs: Sequence[RunConfig], noise_sd: float) -> float | None:
    """Half the interval of β/(α+β) from a fit of E, A, B, α and β to these runs; None where they leave it open."""
    log_n, log_d = (np.log([size(run) for run in runs]) for size in (params_non_embedding, train_tokens))
    by_size, by_tokens = np.exp(LOG_A - ALPHA * log_n), np.exp(LOG_B - BETA * log_d)
    slopes_nx5: NDArray[np.float64] = np.column_stack(
        [np.ones(len(runs)), by_size, -by_size * log_n, by_tokens, -by_tokens * log_d]
    )
    if len(runs) <= 5 or np.linalg.matrix_rank(slopes_nx5) < 5:
        return None
    unit_5x5 = np.linalg.inv(slopes_nx5.T @ slopes_nx5)
    of_exponent_5 = np.array([0, 0, -BETA, 0, ALPHA]) / (ALPHA + BETA) ** 2
    error = noise_sd * sqrt(float(of_exponent_5 @ unit_5x5 @ of_exponent_5))
    return NormalDist().inv_cdf((1 + LEVEL) / 2) * error


def _flop(flops: float) -> str:
    return f"{flops:.2g} FLOPs".replace("e+", "e")
