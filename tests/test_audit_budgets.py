"""The audit of studies whose runs share budgets of compute: bracketed minima, and the cell that would tell most."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import polars as pl
import pytest
from scipy import optimize

from isoloss.analysis.frontier import frontier
from isoloss.analysis.scaling import fit_law
from isoloss.design import audit_budgets
from isoloss.design.audit import audit
from isoloss.design.audit_budgets import ALPHA, BETA, LOG_A, LOG_B
from isoloss.diagnostic import Diagnostic
from isoloss.study import compute
from isoloss.study.config import RunConfig
from isoloss.study.studyfile import parse_study
from isoloss.study.texts import DataFacts

DATA = DataFacts("0" * 64, 65, 111_540, 1_003_854)
FOUR = [1e11, 2e11, 4e11, 8e11]
SIX = [12, 16, 24, 32, 48, 64]


def runs_of(flops: list[float], widths: list[int], base: str = "", seeds: int = 2) -> list[RunConfig]:
    text = f"name: x\nbase: {{n_layer: 2, n_head: 4, block_size: 64, batch_size: 8{base}}}\nseeds: {seeds}\n"
    return parse_study(text + f"budgets: {{flops: {flops}, n_embd: {widths}}}", "x.yaml").expand(DATA)


def findings(runs: list[RunConfig], noise_sd: float | None = None) -> dict[str, Diagnostic]:
    study = parse_study("name: x\nseeds: 2", "x.yaml")
    return {found.code: found for found in audit(study, runs, noise_sd=noise_sd)}


def law(n: Any, d: Any) -> Any:
    return 0.845 + math.exp(LOG_A) / n**ALPHA + math.exp(LOG_B) / d**BETA


def test_sizes_to_both_sides_of_the_guessed_best_one_bracket_it() -> None:
    found = findings(runs_of(FOUR, SIX))
    assert "minima_not_bracketed" not in found
    text = found["minima_bracketed"].text
    runs = runs_of([1e11], SIX, seeds=1)
    log_n = np.log([compute.params_non_embedding(run) for run in runs])
    per = np.polynomial.Polynomial.fit(log_n, np.log([compute.flops_per_token(run) for run in runs]), 1)
    best = optimize.minimize_scalar(
        lambda u: law(math.exp(u), 1e11 / math.exp(per(u))), bounds=(5, 15), method="bounded"
    ).x  # fmt: skip
    said = float(text.partition("guessed at ")[2].partition(" k parameters")[0])
    assert said == pytest.approx(math.exp(best) / 1000, rel=0.01)


@pytest.mark.parametrize(("flops", "widths", "add", "where"), [
    ([4e11, 8e11, 16e11, 32e11], [64, 80, 96, 128], "smaller", "4e11"),
    ([4e11, 8e11, 16e11, 32e11], [4, 12, 16, 24], "larger", "3.2e12"),
    (FOUR, [8, 12, 16, 24, 32, 48], "larger", "8e11"),  # one size lies beyond the best
])  # fmt: skip
def test_a_minimum_at_the_edge_of_the_sizes_is_said_before_it_is_trained(
    flops: list[float], widths: list[int], add: str, where: str
) -> None:
    found = findings(runs_of(flops, widths))
    missing = found["minima_not_bracketed"]
    assert missing.severity == "limits" and missing.remedy and f"Add {add} sizes" in missing.remedy
    assert f"{where} FLOPs (best" in missing.text and "minima_bracketed" not in found


def test_too_few_sizes_or_budgets_for_an_exponent_are_named() -> None:
    found = findings(runs_of([1e11, 2e11], [16, 24, 32]))
    assert "1e11 FLOPs and 2e11 FLOPs have fewer than 4 sizes" in found["few_sizes_at_budget"].text
    assert "has no interval" in found["few_budgets"].text
    assert "one degree" in findings(runs_of(FOUR[:3], SIX))["few_budgets"].text
    assert not {"few_budgets", "few_sizes_at_budget"} & set(findings(runs_of(FOUR, SIX)))


def test_a_grid_of_sizes_and_horizons_has_no_budgets() -> None:
    grid = parse_study("name: x\nfactors: {n_embd: [32, 64, 128], max_iters: [500, 1000, 2000]}", "x.yaml")
    assert not {"minima_bracketed", "minima_not_bracketed", "next_cell"} & set(findings(grid.expand(DATA)))


def test_the_guessed_interval_of_the_exponent_is_that_of_a_fit() -> None:
    runs, sd = runs_of(FOUR, SIX, seeds=5), 0.002
    n = np.array([compute.params_non_embedding(run) for run in runs], dtype=float)
    d = np.array([compute.train_tokens(run) for run in runs], dtype=float)
    noise = sd * np.random.default_rng(1).standard_normal(len(runs))
    table = pl.DataFrame({"N": n, "D": d, "loss": law(n, d) + noise})
    a = frontier(fit_law(table, "LND", {"N": "N", "D": "D", "loss": "loss"}, objective=None), []).a
    assert a.low is not None and a.high is not None
    said = findings(runs, sd)["next_cell"].text
    guessed = float(said.partition("± ")[2].split()[0])
    assert guessed == pytest.approx((a.high - a.low) / 2, rel=0.35)


def test_the_cell_to_add_narrows_the_exponent_more_than_others() -> None:
    runs = runs_of(FOUR, SIX)
    said = findings(runs, 0.007)["next_cell"].text
    width, budget = said.partition("n_embd ")[2].split()[0], float(said.rpartition(" at ")[2].split()[0])
    after = float(said.rpartition("to ± ")[2].split()[0])
    assert int(width) not in SIX and budget in FOUR
    for other in runs_of(FOUR, [8, 20, 40, 80], seeds=1):
        half = audit_budgets._half_interval([*runs, other, other], 0.007)  # pyright: ignore[reportPrivateUsage]
        assert half is None or half >= after * 0.95


def test_sizes_that_do_not_vary_by_width_alone_have_no_cell_to_add() -> None:
    text = "name: x\nbase: {n_head: 4, batch_size: 8}\npaired: {n_embd: [16, 24, 32, 48], n_layer: [1, 2, 2, 3]}\n"
    runs = parse_study(text + f"budgets: {{flops: {FOUR}}}", "x.yaml").expand(DATA)
    assert "next_cell" not in findings(runs)


def test_runs_that_happen_to_cost_the_same_are_no_budget() -> None:
    text = "name: x\nbase: {n_layer: 2, n_head: 2, batch_size: 1}\nseeds: 2\n"
    text += "runs: [{n_embd: 64, block_size: 512}, {n_embd: 72, block_size: 64}, {n_embd: 68, block_size: 256}]\n"
    assert not {"minima_bracketed", "next_cell"} & set(
        findings(parse_study(text + "budgets: {flops: [1e11]}", "x").expand(DATA))
    )
