"""Scaling fits on laws whose parameters are known."""

from __future__ import annotations

import itertools
import json
import math
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pytest
import statsmodels.api as sm
from scipy import optimize, stats

from isoloss.analysis import solve as solve_module
from isoloss.analysis.by_group import fits_by_group
from isoloss.analysis.cells import cells_of, close_groups
from isoloss.analysis.compute_column import compute_doubts, unit_doubts
from isoloss.analysis.estimate import Estimate
from isoloss.analysis.frontier import HoldOut, data_compute, frontier, held_out_doubts, hold_out_largest, predict
from isoloss.analysis.isoflop import Profile, isoflop_profiles
from isoloss.analysis.isoflop_law import disagreement, isoflop_law
from isoloss.analysis.laws import AXES, Form, Restrictions, make_law
from isoloss.analysis.residuals import p_of_added
from isoloss.analysis.scaling import Fit, fit_law, other_objectives
from isoloss.analysis.scaling_results import analyse_scaling
from isoloss.analysis.solve import make_objective, polish, refine, solve
from isoloss.analysis.uncertainty import huber_inefficiency
from isoloss.cli import run_command_line
from isoloss.diagnostic import Diagnostic
from isoloss.errors import ConfigError
from isoloss.report.chapters.scaling import scaling_chapter

TRUTH = {"E": 1.4, "A": 60.0, "B": 160.0, "alpha": 0.38, "beta": 0.39}
COLUMNS = {"N": "N", "D": "D", "C": "C", "loss": "loss"}


def surface(n: Any, d: Any) -> Any:
    return TRUTH["E"] + TRUTH["A"] / n ** TRUTH["alpha"] + TRUTH["B"] / d ** TRUTH["beta"]


def grid(sizes: int = 4, horizons: int = 4, noise: float = 0.0, seed: int = 0, replicates: int = 1) -> pl.DataFrame:
    n, d = np.meshgrid(np.geomspace(1e5, 3e6, sizes), np.geomspace(5e5, 1.5e7, horizons), indexing="ij")
    n, d = np.repeat(n.ravel(), replicates), np.repeat(d.ravel(), replicates)
    loss = surface(n, d) * np.exp(noise * np.random.default_rng(seed).standard_normal(len(n)))
    return pl.DataFrame({"N": n, "D": d, "C": 6 * n * d, "loss": loss})


def fitted(table: pl.DataFrame, form: Form = "LND", **options: Any) -> Fit:
    return fit_law(table, form, COLUMNS, **options)


@pytest.fixture
def few_starts(monkeypatch: pytest.MonkeyPatch) -> None:
    """For tests that are not about the search for the minimum."""
    monkeypatch.setattr(solve_module, "POLISHED_STARTS", 4)


def values(fit: Fit) -> dict[str, float]:
    return {name: parameter.estimate.value for name, parameter in fit.parameters.items()}


@pytest.mark.parametrize("name", ["huber", "ls", "lad"])
def test_without_noise_the_parameters_come_back(name: Any) -> None:
    fit = fitted(grid(), objective=make_objective(name))
    assert values(fit) == pytest.approx(TRUTH, rel=1e-6)
    assert fit.solution is not None and fit.solution.n_agreeing > 16
    assert list(fit.parameters) == ["E", "A", "B", "alpha", "beta"]


@pytest.mark.parametrize("form", ["LN", "LD", "LC"])
@pytest.mark.parametrize("floor", [True, False])
def test_laws_in_one_variable_come_back_with_and_without_a_floor(form: Form, floor: bool) -> None:
    (axis,) = AXES[form]
    x = np.geomspace(1e5, 1e8, 6)
    table = pl.DataFrame({axis: x, "loss": 1.7 * floor + 50 * x**-0.3})
    found = values(fitted(table, form, floor=floor))
    scale, exponent = ("B", "beta") if axis == "D" else ("A", "alpha")
    assert found == pytest.approx({scale: 50.0, exponent: 0.3, **({"E": 1.7} if floor else {})}, rel=1e-6)


def test_a_large_table_is_searched_on_its_points_and_fitted_to_all_its_rows() -> None:
    table = grid(5, 5, noise=0.02, replicates=60)  # 1,500 rows of 25 points
    assert len(table) > solve_module.COARSE_ROWS
    large = fitted(table)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(solve_module, "COARSE_ROWS", len(table))
        whole = fitted(table)
    assert values(large) == pytest.approx(values(whole), rel=1e-6)
    assert large.solution and whole.solution
    assert large.solution.value == pytest.approx(whole.solution.value, rel=1e-9)


def test_derivatives_are_those_of_finite_differences() -> None:
    """Far from the minimum, where all residuals have one sign, and near it, where they have both."""
    table = grid(noise=0.01)
    law = make_law("LND", True, table.select("N", "D").to_numpy().T, table["loss"].to_numpy())
    near_p = polish(law, make_objective("ls"), np.array([-0.5, -0.7, 0.4, 0.3, 0.4]))
    for theta_p, name in itertools.product((np.array([-0.5, -0.7, 0.4, 0.3, 0.4]), near_p), ("huber", "ls", "lad")):
        objective = make_objective(name, 5e-3)
        residuals_n, jacobian_nxp = objective.residuals(law, theta_p)
        gradient_p = jacobian_nxp.T @ objective.slopes(residuals_n)
        for i, step_p in enumerate(1e-7 * np.eye(5)):
            plus_n, minus_n = (objective.residuals(law, theta_p + sign * step_p)[0] for sign in (1, -1))
            assert jacobian_nxp[:, i] == pytest.approx((plus_n - minus_n) / 2e-7, abs=1e-6)
            slope = (objective.value(plus_n) - objective.value(minus_n)) / 2e-7
            assert gradient_p[i] == pytest.approx(slope, rel=1e-4, abs=1e-6)
    signs = np.sign(make_objective("huber").residuals(law, near_p)[0])
    assert {-1.0, 1.0} <= set(signs.tolist())


def test_no_start_of_a_wide_random_search_finds_a_lower_minimum() -> None:
    table = grid(6, 6, noise=0.01, seed=3)
    law = make_law("LND", True, table.select("N", "D").to_numpy().T, table["loss"].to_numpy())
    for name in ("huber", "lad"):
        objective = make_objective(name)
        found = solve(law, objective)
        low_p, high_p = law.bounds()
        rng = np.random.default_rng(0)
        for _ in range(3):
            other_p = refine(law, objective, rng.uniform(low_p, high_p))
            other = objective.value(objective.residuals(law, other_p)[0])
            assert found.value <= other * (1 + 1e-7)


def test_huber_lies_between_least_squares_and_the_median_in_efficiency() -> None:
    assert huber_inefficiency(None, 0.01) == 1
    assert huber_inefficiency(1e-9, 0.01) == pytest.approx(np.pi / 2)
    assert huber_inefficiency(1.0, 0.01) == pytest.approx(1, abs=1e-6)
    assert huber_inefficiency(0.0145, 0.01) == pytest.approx(1 / 0.963, rel=0.01)  # 95% efficient at 1.345, Huber 1981


@pytest.mark.parametrize("cells", [3, 4])
def test_nominal_intervals_cover(cells: int) -> None:
    """`make calibrate` measures the rates; this would see intervals that are half as wide as they should be."""
    hits: list[bool] = []
    for seed in range(8):
        fit = fitted(grid(cells, cells, noise=0.004, seed=seed))
        for name, parameter in fit.parameters.items():
            low, high = parameter.estimate.low, parameter.estimate.high
            assert low is not None and high is not None
            hits.append(low <= TRUTH[name] <= high)
        new = predict(fit, {"N": 6e6, "D": 3e7}).law
        assert new.low is not None and new.high is not None
        hits.append(new.low <= surface(6e6, 3e7) <= new.high)
    assert np.mean(hits) >= 0.85


def test_bootstrap_and_delta_intervals_are_of_one_size() -> None:
    table = grid(4, 4, noise=0.004, replicates=2)
    delta = fitted(table)
    boot = fitted(table, intervals="bootstrap")
    assert "16 cells" in delta.uncertainty.method  # pyright: ignore[reportOptionalMemberAccess]
    for name in TRUTH:
        ratio = (boot.parameters[name].se or 0) / (delta.parameters[name].se or 1)
        assert 0.5 < ratio < 1.6, name


@pytest.mark.usefixtures("few_starts")
def test_refits_lie_around_the_fit_as_widely_as_the_delta_method_says() -> None:
    """Noise is shared by the three copies of a cell: residuals move as whole cells, inflated by their df."""
    size = np.geomspace(1e4, 1e8, 8)
    loss = 20 * size**-0.15 * np.exp(0.01 * np.random.default_rng(5).standard_normal(8))
    table = pl.concat([pl.DataFrame({"N": size, "loss": loss})] * 3)
    # A δ that no residual reaches: least squares, for which both must agree.
    delta, boot = (
        fitted(table, "LN", floor=False, objective=make_objective("huber", 0.1), intervals=intervals)
        for intervals in ("delta", "bootstrap")
    )
    assert boot.uncertainty is not None and boot.uncertainty.draws_Bxp is not None
    for name in ("A", "alpha"):
        assert (boot.parameters[name].se or 0) / (delta.parameters[name].se or 1) == pytest.approx(1, abs=0.13)
    off_p = boot.uncertainty.draws_Bxp.mean(axis=0) - boot.uncertainty.theta_p
    assert np.abs(off_p).max() < 0.2 * boot.uncertainty.draws_Bxp.std(axis=0).max()


def test_replicates_do_not_make_a_lack_of_fit_look_certain() -> None:
    """Noise that replicates share must widen intervals as if there were no replicates."""
    one = grid(4, 4, noise=0.01)
    copied = pl.concat([one] * 9)
    se = {n: [fitted(table).parameters["alpha"].se or 0 for table in (one, copied)] for n in ("alpha",)}["alpha"]
    assert se[1] == pytest.approx(se[0], rel=0.25)


@pytest.mark.parametrize(
    ("table", "code"),
    [
        (lambda: grid(2, 6), "few_levels"),
        (lambda: grid(6, 2), "few_levels"),
        (lambda: grid(2, 2), "too_few_rows"),
        (lambda: grid(1, 1), "too_few_rows"),
        (lambda: grid(6, 6).filter((pl.col("D") / pl.col("N")).is_between(4.9, 5.1)), "axes_correlated"),
    ],
)
def test_what_cannot_be_identified_gives_no_numbers(table: Callable[[], pl.DataFrame], code: str) -> None:
    fit = fitted(table().with_columns(loss=pl.col("loss") + pl.int_range(pl.len()) * 1e-4))
    assert fit.status == "unidentified"
    assert code in {caution.code for caution in fit.cautions if caution.severity == "blocks"}
    assert not fit.parameters and not other_objectives(fit)
    with pytest.raises(ConfigError, match="unidentified"):
        predict(fit, {"N": 1e6, "D": 1e6})


@pytest.mark.usefixtures("few_starts")
def test_where_the_data_show_no_floor_the_law_is_fitted_without_one() -> None:
    n, d = np.meshgrid(np.geomspace(1e5, 3e6, 4), np.geomspace(5e5, 1.5e7, 4), indexing="ij")
    loss = 400 / n**0.35 + 400 / d**0.3
    fit = fitted(pl.DataFrame({"N": n.ravel(), "D": d.ravel(), "loss": loss.ravel()}))
    assert values(fit) == pytest.approx({"E": 0, "A": 400, "B": 400, "alpha": 0.35, "beta": 0.3}, rel=1e-6)
    assert fit.parameters["E"].estimate.low is None
    for others in other_objectives(fit).values():
        assert others.pop("E") is None
        assert others == pytest.approx({"A": 400, "B": 400, "alpha": 0.35, "beta": 0.3}, rel=1e-6)
    assert "at_bound" in {caution.code for caution in fit.cautions}


@pytest.mark.usefixtures("few_starts")
def test_a_term_that_the_data_do_not_show_is_no_law() -> None:
    """Noise alone, and a law in N alone, would else give exponents at their bounds and a frontier without error."""
    for seed in range(4):
        noise = np.random.default_rng(seed).normal(0, 0.01, 16)
        flat = grid().with_columns(loss=2 + pl.Series(noise))
        assert fitted(flat).status == "unidentified"
        in_n_alone = grid().with_columns(loss=(1.4 + 60 / pl.col("N") ** 0.38) * (1 + pl.Series(noise) / 3))
        fit = fitted(in_n_alone)
        beta = fit.parameters["beta"].estimate if fit.parameters else None
        assert beta is None or (beta.high or 0) - (beta.low or 0) > 0.5


@pytest.mark.usefixtures("few_starts")
def test_an_exponent_that_could_be_anything_is_none() -> None:
    """D alone matters: with one seed in three a fit ends inside its bounds, with an exponent of 0.5 ± 50."""
    for seed in range(12):
        in_d_alone = grid(5, 5, 0.01, seed).with_columns(pl.col("loss") - surface(pl.col("N"), pl.col("D")))
        law = 1.4 + 160 / pl.col("D") ** 0.39
        fit = fitted(in_d_alone.with_columns(loss=law * (1 + pl.col("loss") / 2)))
        alpha = fit.parameters["alpha"].estimate if fit.parameters else None
        assert alpha is None or (alpha.high or 0) - (alpha.low or 0) <= 3


def test_a_law_in_one_variable_says_what_else_varies() -> None:
    assert "other_variable" in {caution.code for caution in fitted(grid(), "LN").cautions}
    one_horizon = grid().filter(pl.col("D") == pl.col("D").min())
    assert "other_variable" not in {caution.code for caution in fitted(one_horizon, "LN").cautions}


def test_a_lack_of_fit_is_told_from_noise() -> None:
    assert "lack_of_fit" not in {c.code for c in fitted(grid(4, 4, noise=0.004, replicates=3)).cautions}
    bumpy = grid(4, 4, noise=0.001, replicates=3).with_columns(
        pl.col("loss") * (1 + 0.01 * (pl.col("N").log() * 9).sin())
    )
    assert "lack_of_fit" in {c.code for c in fitted(bumpy).cautions}


@pytest.mark.usefixtures("few_starts")
def test_a_lack_of_fit_says_what_runs_of_a_cell_differ_by() -> None:
    """Every cell lies 1% above or below the law, and its three runs differ by a known 0.2%."""
    bumpy = grid(4, 4, replicates=3).with_columns(
        pl.col("loss") * (1 + 0.01 * (pl.col("N").log() * 9).sin()) * (0.002 * (pl.int_range(pl.len()) % 3 - 1)).exp()
    )
    said = next(c.text for c in fitted(bumpy).cautions if c.code == "lack_of_fit")
    assert "differ by 0.20% of the loss among themselves" in said


def codes(fit: Fit) -> set[str]:
    return {caution.code for caution in fit.cautions}


def test_levels_are_grouped_within_one_percent_and_no_wider() -> None:
    values = np.array([1000.0, 100.0, 100.9, 99.95, 1009.0, 1020.0])
    assert close_groups(np.log(values)).tolist() == [1, 0, 0, 0, 1, 2]
    dense = np.log(np.linspace(1e6, 1e8, 3000))  # checkpoints, each within 1% of the next
    group_n = close_groups(dense)
    assert max(np.ptp(dense[group_n == group]) for group in range(group_n.max() + 1)) <= math.log(1.01) + 1e-9
    x_Kxn = np.log([[1e5, 1e5, 2e5, 2e5], [1e6, 1.001e6, 1.001e6, 1e6]])
    assert cells_of(x_Kxn)[0].tolist() == [0, 0, 1, 1]


@pytest.mark.usefixtures("few_starts")
def test_token_counts_off_by_a_batch_are_one_horizon() -> None:
    """Three seeds at token counts that differ by 0.1%: the same cells, lack of fit, levels and intervals."""
    equal = grid(4, 4, noise=0.001, replicates=3).with_columns(
        pl.col("loss") * (1 + 0.01 * (pl.col("N").log() * 9).sin())
    )
    apart = equal.with_columns(pl.col("D") * (1 + 0.001 * (pl.int_range(pl.len()) % 3)))
    first, second = fitted(equal), fitted(apart)
    assert first.n_cells == second.n_cells == 16 and "lack_of_fit" in codes(first) & codes(second)
    assert second.parameters["alpha"].se == pytest.approx(first.parameters["alpha"].se, rel=0.02)
    two = apart.filter(pl.col("D").rank("dense") <= 6)
    assert "few_levels" in codes(fitted(two))
    assert fitted(apart.with_columns(pl.col("D") * 1.02 ** (pl.int_range(pl.len()) % 3))).n_cells == 48


def test_two_metrics_in_one_column_are_no_law() -> None:
    """Any law between the two lies as close to both by absolute residuals, so the minimum is flat."""
    nats = grid(4, 4, noise=0.002)
    mixed = pl.concat([
        nats.with_columns(metric=pl.lit("nats")), nats.with_columns(pl.col("loss") / 3, metric=pl.lit("bits per byte"))
    ])  # fmt: skip
    fit = fitted(mixed)
    assert fit.status == "unidentified" and "flat_minimum" in codes(fit)
    (said,) = [caution for caution in fit.cautions if caution.code == "varies_within_cells"]
    assert "metric explains it" in said.text and "factor of 3" in said.text and "--by metric" in (said.remedy or "")


@pytest.mark.usefixtures("few_starts")
def test_a_spread_within_cells_beyond_noise_is_said() -> None:
    seeds = grid(4, 4, noise=0.004, replicates=3).with_columns(seed=pl.int_range(pl.len()) % 3)
    assert "varies_within_cells" not in codes(fitted(seeds))
    hidden = seeds.with_columns(pl.col("loss") * (1 + 0.3 * (pl.col("seed") % 2)), unique=100 * (pl.col("seed") % 2))
    (named,) = [caution for caution in fitted(hidden).cautions if caution.code == "varies_within_cells"]
    assert "unique explains it" in named.text and '--where "unique = 0"' in (named.remedy or "")
    (bare,) = [c for c in fitted(hidden.drop("unique", "seed")).cautions if c.code == "varies_within_cells"]
    assert "No single column of the table explains most of it" in bare.text
    one = seeds.with_columns(loss=pl.col("loss") * (1 + 0.06 * (pl.int_range(pl.len()) == 7)))
    (cell,) = [caution for caution in fitted(one).cautions if caution.code == "varies_within_cells"]
    assert f"N = {one['N'][7]:,.0f}, D = {one['D'][7]:,.0f}" in cell.text


@pytest.mark.usefixtures("few_starts")
def test_the_status_does_not_depend_on_how_intervals_are_asked_for() -> None:
    for seed in range(2):
        flat = grid().with_columns(loss=2 + pl.Series(np.random.default_rng(seed).normal(0, 0.01, 16)))
        assert fitted(flat).status == fitted(flat, intervals="bootstrap").status == "unidentified"


def of_form(form: Form) -> tuple[pl.DataFrame, dict[str, float]]:
    """Runs without noise under a form whose parameters are known, some of them on repeated tokens."""
    table = grid(5, 5)
    n, d = table["N"].to_numpy(), table["D"].to_numpy()
    unique = np.where(np.arange(25) % 2, d, np.minimum(d, 1e6))
    seen = unique * (1 + 12 * (1 - np.exp(-(d / unique - 1) / 12)))
    optimal = (TRUTH["alpha"] * TRUTH["A"] / TRUTH["beta"] / TRUTH["B"] * unique ** TRUTH["beta"]) ** (
        1 / TRUTH["alpha"]
    )
    base = np.minimum(n, optimal)
    useful = base * (1 + 5 * (1 - np.exp(-(n / base - 1) / 5)))
    losses, truth = {
        "LNDX": (surface(n, d) + 2e3 / (n**0.38 * d**0.39), {**TRUTH, "G": 2e3}),
        "LNDU": (surface(n, seen), {**TRUTH, "R": 12.0}),
        "LNDUN": (surface(useful, seen), {**TRUTH, "R": 12.0, "RN": 5.0}),
        "LNDK": (((8.8e5 / n) ** 0.8 + 5.4e6 / d) ** 0.095,
                 {"Nc": 8.8e5, "Dc": 5.4e6, "alpha": 0.076, "beta": 0.095}),
    }[form]  # fmt: skip
    return table.with_columns(U=pl.Series(unique), loss=pl.Series(losses)), truth


@pytest.mark.usefixtures("few_starts")
@pytest.mark.parametrize("form", ["LNDX", "LNDU", "LNDUN", "LNDK"])
def test_other_laws_come_back_and_have_the_derivatives_of_finite_differences(form: Form) -> None:
    table, truth = of_form(form)
    fit = fit_law(table, form, {**COLUMNS, "U": "U"})
    assert values(fit) == pytest.approx(truth, rel=1e-5)
    assert codes(fit) == {"noiseless"}
    law = fit.law
    theta_p = law.start(np.array([-0.5, -0.7, 0.4, 0.3, 0.4])[: 4 + law.floor]) + 0.05
    jacobian_nxp = law.log_loss(theta_p, law.x_Kxn)[1]
    for i, step_p in enumerate(1e-6 * np.eye(len(theta_p))):
        plus_n, minus_n = (law.log_loss(theta_p + sign * step_p, law.x_Kxn)[0] for sign in (1, -1))
        assert jacobian_nxp[:, i] == pytest.approx((plus_n - minus_n) / 2e-6, abs=1e-7)


@pytest.mark.usefixtures("few_starts")
def test_the_optimum_of_kaplans_law_is_its_lowest_loss() -> None:
    table, truth = of_form("LNDK")
    (best,) = frontier(fitted(table, "LNDK"), [1e13]).optima
    n = np.geomspace(1e4, 1e8, 200_001)
    losses = ((truth["Nc"] / n) ** 0.8 + truth["Dc"] / (1e13 / 6 / n)) ** 0.095
    assert best.loss.value == pytest.approx(losses.min(), rel=1e-9)
    assert best.n_params.value == pytest.approx(n[losses.argmin()], rel=1e-3)


@pytest.mark.usefixtures("few_starts")
def test_tokens_seen_again_are_worth_less_than_new_ones() -> None:
    fit = fit_law(of_form("LNDU")[0], "LNDU", {**COLUMNS, "U": "U"})
    new, again = predict(fit, {"N": 1e6, "D": 1e7}).law, predict(fit, {"N": 1e6, "D": 1e7, "U": 1e6}).law
    assert new.value == pytest.approx(surface(1e6, 1e7), rel=1e-6)
    assert again.value == pytest.approx(surface(1e6, 1e6 * (1 + 12 * (1 - math.exp(-9 / 12)))), rel=1e-6)
    with pytest.raises(ConfigError, match="--unique"):
        fitted(grid(), "LNDU")


@pytest.mark.usefixtures("few_starts")
def test_a_law_of_repeated_tokens_says_which_are_new() -> None:
    points = [{"N": 1e6, "D": 1e7}, {"N": 1e6, "D": 1e7, "U": 1e6}]
    columns = {**COLUMNS, "U": "U"}
    chapter = scaling_chapter(analyse_scaling(of_form("LNDUN")[0], "LNDUN", columns, points=points, holdout=False))
    (table,) = [table for table in chapter.tables if table.name == "scaling_predictions"]
    assert "U" in [column.name for column in table.columns] and table.frame["U"].to_list() == [1e7, 1e6]
    assert "All of this is of tokens that are seen once" in " ".join(chapter.answer)
    assert chapter.figures[0].title.startswith("At every number of new tokens loss falls as 1/N'^α")


@pytest.mark.usefixtures("few_starts")
def test_rates_of_repetition_come_from_few_sizes_where_the_rest_is_published() -> None:
    """Muennighoff et al.'s own way: the law's other parameters are those of runs on new tokens."""
    table = of_form("LNDUN")[0].filter(pl.col("N").is_in(grid(5, 5)["N"].unique().sort()[[3, 4]].to_list()))
    columns = {**COLUMNS, "U": "U"}
    fit = fit_law(table, "LNDUN", columns, restrictions=Restrictions(TRUTH, {}))
    assert values(fit) == pytest.approx({**TRUTH, "R": 12.0, "RN": 5.0}, rel=1e-4)
    assert "few_levels" in codes(fit_law(table, "LNDUN", columns))
    new = table.with_columns(U=pl.col("D"), loss=pl.Series(surface(table["N"].to_numpy(), table["D"].to_numpy())))
    held = fit_law(new, "LNDU", columns, restrictions=Restrictions(TRUTH, {}))  # nothing is repeated
    assert held.status == "unidentified" and not held.determined
    (best,) = frontier(fit_law(of_form("LNDUN")[0], "LNDUN", columns), [1e14]).optima
    (plain,) = frontier(fitted(grid(5, 5)), [1e14]).optima
    assert best.n_params.value == pytest.approx(plain.n_params.value, rel=1e-3)


@pytest.mark.usefixtures("few_starts")
def test_parameters_can_be_tied_and_fixed() -> None:
    """Against scipy's least squares of the same restricted laws."""
    table = grid(5, 5, noise=0.004)
    n, d, y = (table[name].to_numpy() for name in ("N", "D", "loss"))

    def least(law: Callable[..., Any], start: list[float]) -> Any:
        found, covariance = optimize.curve_fit(
            lambda x, *p: np.log(law(*p)), np.arange(25), np.log(y), start, maxfev=20_000
        )
        return found, np.sqrt(np.diag(covariance))

    squares = make_objective("ls_log")
    tied = fitted(table, objective=squares, restrictions=Restrictions({}, {"beta": "alpha"}))
    (e, _, _, x), se = least(lambda e, a, b, x: e + np.exp(a) / n**x + np.exp(b) / d**x, [1.4, 4, 5, 0.38])
    assert values(tied)["alpha"] == values(tied)["beta"] == pytest.approx(x, rel=1e-4)
    assert values(tied)["E"] == pytest.approx(e, rel=1e-4) and tied.parameters["beta"].se == pytest.approx(
        se[3], rel=0.01
    )
    fixed = fitted(table, objective=squares, restrictions=Restrictions({"E": 1.4, "A": 60.0}, {}))
    (alpha, b, beta), _ = least(lambda x, b, y: 1.4 + 60 / n**x + np.exp(b) / d**y, [0.38, 5, 0.39])
    assert values(fixed) == pytest.approx({"E": 1.4, "A": 60, "B": math.exp(b), "alpha": alpha, "beta": beta}, rel=1e-4)
    assert fixed.parameters["E"].se is None and fixed.parameters["A"].estimate.method == "fixed"
    assert "E" not in values(fitted(table, restrictions=Restrictions({"E": 0.0}, {})))


@pytest.mark.usefixtures("few_starts")
def test_a_weight_counts_as_so_many_rows() -> None:
    table = grid(4, 4, noise=0.004).with_columns(w=1 + pl.int_range(pl.len()) % 3)
    repeated = pl.concat([table.filter(pl.col("w") > i) for i in range(3)])
    for name in ("huber", "ls", "ls_log"):
        objective = make_objective(name, 0.1)
        weighted = fit_law(table, "LND", {**COLUMNS, "weight": "w"}, objective=objective)
        assert values(weighted) == pytest.approx(values(fitted(repeated, objective=objective)), rel=1e-5), name


@pytest.mark.usefixtures("few_starts")
def test_each_group_has_a_law_and_differences_are_those_of_independent_fits(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    first, second = grid(4, 4, noise=0.002, seed=1), grid(4, 4, noise=0.004, seed=2)
    table = pl.concat([first.with_columns(data=pl.lit("old")), second.with_columns(data=pl.lit("new"))])
    found = fits_by_group(table, "LND", COLUMNS, "data")
    fits = {"old": fitted(first), "new": fitted(second)}
    assert list(found.fits) == ["new", "old"]
    for each in found.differences:
        one, other = (fits[name].parameters[each.parameter] for name in (each.group, each.base))
        assert (each.group, each.base) == ("old", "new") and one.se and other.se
        df = (one.se**2 + other.se**2) ** 2 / ((one.se**4 + other.se**4) / 11)
        half = stats.t.ppf(0.975, df) * math.hypot(one.se, other.se)
        value = one.estimate.value - other.estimate.value
        assert (each.difference.value, each.difference.low, each.difference.high) == pytest.approx(
            (value, value - half, value + half), rel=1e-6
        )
    assert {each.parameter for each in found.differences} == set(TRUTH)
    table.write_csv(tmp_path / "runs.csv")
    arguments = ["fit", str(tmp_path / "runs.csv"), "--by", "data", "--holdout", "none"]
    assert run_command_line([*arguments, "--json"]) == 0
    said = json.loads(capsys.readouterr().out)["by"]
    assert [group["level"] for group in said["groups"]] == ["new", "old"] and len(said["differences"]) == 5
    assert run_command_line(arguments) == 0
    assert "Differences of parameters between values of data" in capsys.readouterr().out
    with pytest.raises(ConfigError, match="it has 1 value"):
        fits_by_group(table.with_columns(data=pl.lit(1)), "LND", COLUMNS, "data")


def checkpoints(seed: int, runs: int = 8) -> pl.DataFrame:
    """Twelve checkpoints each of one run a size, whose errors are a run's own."""
    generator = np.random.default_rng(seed)
    table = grid(runs, 12, noise=0.001, seed=seed)
    shared = np.repeat(np.exp(0.004 * generator.standard_normal(runs)), 12)
    return table.with_columns(pl.col("loss") * pl.Series(shared), run=pl.int_range(pl.len()) // 12)


@pytest.mark.usefixtures("few_starts")
def test_errors_by_cluster_are_those_of_the_jackknife() -> None:
    """A power law without floor is linear in logarithms: refits without one run at a time are exact."""
    table = checkpoints(0).with_columns(loss=pl.col("loss") * pl.col("N") ** -0.1)
    columns = {**COLUMNS, "cluster": "run"}
    fit = fit_law(table, "LN", columns, floor=False, objective=make_objective("ls_log"))
    x, y, run = np.log(table["N"].to_numpy()), np.log(table["loss"].to_numpy()), table["run"].to_numpy()
    slopes = [np.polyfit(x[run != each], y[run != each], 1)[0] for each in range(8)]
    jackknife = math.sqrt(7 / 8 * np.sum((np.array(slopes) - np.polyfit(x, y, 1)[0]) ** 2))
    assert fit.parameters["alpha"].se == pytest.approx(jackknife, rel=1e-6)
    assert fit.uncertainty is not None and fit.uncertainty.df == 7 and "8 clusters" in fit.uncertainty.method


@pytest.mark.usefixtures("few_starts")
def test_intervals_by_cluster_hold_what_those_of_rows_miss() -> None:
    hits: dict[str, list[bool]] = {"rows": [], "runs": []}
    for seed in range(12):
        table = checkpoints(seed)
        for name, columns in (("rows", COLUMNS), ("runs", {**COLUMNS, "cluster": "run"})):
            alpha = fit_law(table, "LND", columns).parameters["alpha"].estimate
            hits[name].append((alpha.low or 9) <= TRUTH["alpha"] <= (alpha.high or 0))
    assert sum(hits["runs"]) >= 10 and sum(hits["rows"]) <= 8


@pytest.mark.usefixtures("few_starts")
def test_the_bootstrap_by_cluster_agrees_with_the_sandwich() -> None:
    options: dict[str, Any] = {"objective": make_objective("ls_log")}
    columns = {**COLUMNS, "cluster": "run"}
    delta = fit_law(checkpoints(1), "LND", columns, **options)
    boot = fit_law(checkpoints(1), "LND", columns, intervals="bootstrap", **options)
    for name in TRUTH:
        assert 0.6 < (boot.parameters[name].se or 0) / (delta.parameters[name].se or 1) < 1.6, name
    assert boot.uncertainty is not None and "wild cluster bootstrap" in boot.uncertainty.method


@pytest.mark.usefixtures("few_starts")
def test_a_run_column_that_was_not_named_is_a_caution() -> None:
    table = checkpoints(0)
    (said,) = [c for c in analyse_scaling(table, "LND", COLUMNS, holdout=False).cautions if c.code == "rows_share_runs"]
    assert "12 rows each" in said.text and said.remedy == "Name the column: --cluster run."
    for other, columns in (
        (table, {**COLUMNS, "cluster": "run"}),
        (table.with_columns(run=pl.int_range(pl.len())), COLUMNS),
    ):
        found = analyse_scaling(other, "LND", columns, holdout=False)
        assert "rows_share_runs" not in {caution.code for caution in found.cautions}
    with pytest.raises(ConfigError, match="--cluster run: 2 values"):
        fit_law(table.with_columns(pl.col("run") % 2), "LND", {**COLUMNS, "cluster": "run"})


@pytest.mark.parametrize(
    ("options", "complaint"),
    [
        (["--fix", "Q=1"], "LND has no Q to fix"),
        (["--fix", "alpha"], "expected NAME=NUMBER"),
        (["--fix", "A=-1"], "must be above 0"),
        (["--tie", "alpha=E"], "can tie alpha and beta alone"),
        (["--tie", "alpha=beta", "--fix", "alpha=0.3"], "fix both instead"),
        (["--form", "LNDU"], "--unique COLUMN"),
    ],
)
def test_restrictions_that_a_form_cannot_have_get_one_line(
    options: list[str], complaint: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "runs.csv"
    grid().write_csv(path)
    assert run_command_line(["fit", str(path), *options]) == 2
    said = capsys.readouterr().err
    assert complaint in said and said.count("\n") == 1


@pytest.mark.usefixtures("few_starts")
def test_too_many_parameters_are_answered_with_a_form_that_would_do() -> None:
    five = grid(3, 3, noise=0.002).filter(pl.int_range(pl.len()) % 2 == 0)
    (said,) = [caution for caution in fitted(five).cautions if caution.code == "too_few_rows"]
    assert said.remedy == "With 4 parameters --form LND --tie alpha=beta or --form LND --no_floor would do."
    assert fitted(five, floor=False).status == "ok"


@pytest.mark.usefixtures("few_starts")
def test_what_an_unidentified_law_determines_is_given() -> None:
    """One size gives the exponent of tokens; sizes and tokens along a line the exponent along it."""
    tokens = np.geomspace(5e5, 1.5e7, 8)
    noise = np.exp(0.002 * np.random.default_rng(0).standard_normal(8))
    one = fitted(pl.DataFrame({"N": 1e6, "D": tokens, "loss": (1.4 + 160 / tokens**0.39) * noise}))
    assert one.status == "unidentified" and not one.parameters and set(one.determined) == {"beta"}
    beta = one.determined["beta"]
    assert (beta.low or 9) < 0.39 < (beta.high or 0)
    assert "at N = 1,000,000: beta = " in next(c.text for c in one.cautions if c.code == "determined")
    line = pl.DataFrame({"N": tokens / 20, "D": tokens, "loss": (1.4 + 160 / tokens**0.39) * noise})
    assert set(fitted(line).determined) == {"alpha"}
    in_d_alone = grid(5, 5, 0.002).with_columns(
        loss=(1.4 + 160 / pl.col("D") ** 0.39) * (pl.col("loss") / surface(pl.col("N"), pl.col("D")))
    )
    fit = fitted(in_d_alone)
    assert fit.status == "unidentified" and "alpha" not in fit.determined
    found = fit.determined["beta"]
    assert (found.low or 9) < 0.39 < (found.high or 0) and (found.high or 9) - (found.low or 0) < 0.3
    said = next(caution.text for caution in fit.cautions if caution.code == "determined")
    assert "Not determined" in said and "alpha" in said


@pytest.mark.usefixtures("few_starts")
def test_losses_without_noise_are_called_synthetic() -> None:
    assert "noiseless" in codes(fitted(grid().with_columns(pl.col("loss").round(6))))
    assert "noiseless" not in codes(fitted(grid(noise=2e-4)))


@pytest.mark.usefixtures("few_starts")
def test_exponents_are_called_implausible_where_they_are() -> None:
    x = np.geomspace(1e2, 1e5, 8)
    steep = fitted(pl.DataFrame({"N": x, "loss": 1.5 + 5e3 * x**-1.7}), "LN")
    assert "exponent_implausible" in {c.code for c in steep.cautions}
    assert not {"exponent_implausible", "at_bound"} & {c.code for c in fitted(grid(noise=0.002)).cautions}
    without = fitted(pl.DataFrame({"N": x, "loss": 5 * x**-0.3}), "LN", floor=False)
    assert "at_bound" not in {c.code for c in without.cautions} and "E" not in without.parameters


@pytest.mark.usefixtures("few_starts")
def test_correlated_axes_are_said() -> None:
    size = np.repeat(np.geomspace(1e5, 3e6, 6), 2)
    tokens = 10 * size * np.tile([0.8, 1.25], 6)
    tied = fitted(pl.DataFrame({"N": size, "D": tokens, "loss": surface(size, tokens)}))
    assert "axes_correlated" in {c.code for c in tied.cautions}
    assert "axes_correlated" not in {c.code for c in fitted(grid()).cautions}


@pytest.mark.usefixtures("few_starts")
def test_intervals_are_t_times_the_standard_error_and_of_a_new_run_add_its_noise() -> None:
    fit = fitted(grid(4, 4, noise=0.004))
    found = predict(fit, {"N": 1e6, "D": 4e6})
    assert fit.uncertainty is not None and found.law.low is not None and found.new_run.low is not None
    t = stats.t.ppf(0.975, 16 - 5)
    alpha = fit.parameters["alpha"]
    assert alpha.se is not None and alpha.estimate.low is not None and alpha.estimate.high is not None
    assert (alpha.estimate.high - alpha.estimate.low) / 2 == pytest.approx(t * alpha.se)
    law, run = (math.log(each.value / each.low) / t for each in (found.law, found.new_run) if each.low)
    assert run**2 - law**2 == pytest.approx(fit.uncertainty.noise**2) and 0.002 < fit.uncertainty.noise < 0.008


@pytest.mark.usefixtures("few_starts")
def test_the_compute_of_the_data_is_that_of_its_least_and_largest_run() -> None:
    assert data_compute(fitted(grid())) == pytest.approx((6 * 1e5 * 5e5, 6 * 3e6 * 1.5e7))
    c = np.geomspace(1e12, 1e15, 6)
    assert data_compute(fitted(pl.DataFrame({"C": c, "loss": 1.5 + 900 * c**-0.25}), "LC")) == pytest.approx(
        (1e12, 1e15)
    )


def test_replicates_are_no_points_of_a_profile() -> None:
    one = profile_table(np.geomspace(5e2, 1e5, 7)).with_columns(
        pl.col("loss") * (1 + 0.01 * (pl.col("N").log() * 9).sin())
    )
    (single,), (copied,) = (isoflop_profiles(table, "N", "C", "loss") for table in (one, pl.concat([one] * 5)))
    assert single.optimal_params and copied.optimal_params and copied.n == 35
    assert copied.optimal_params.low == pytest.approx(single.optimal_params.low)


def test_schedules_that_stop_short_are_said() -> None:
    table = grid().with_columns(max_iters=1000, lr_decay_iters=pl.lit(5000))
    assert "horizon_unmatched" in {caution.code for caution in fitted(table).cautions}


def test_the_frontier_is_the_lowest_loss_at_its_compute() -> None:
    found = frontier(fitted(grid(5, 5)), [1e13])
    assert found.a.value == pytest.approx(TRUTH["beta"] / (TRUTH["alpha"] + TRUTH["beta"]), rel=1e-6)
    (optimum,) = found.optima
    assert optimum.beyond == (optimum.tokens.value > 1.5e7)
    n = np.geomspace(1e4, 1e8, 200_001)
    losses = surface(n, 1e13 / 6 / n)
    assert optimum.n_params.value == pytest.approx(n[losses.argmin()], rel=1e-4)
    assert optimum.loss.value == pytest.approx(losses.min(), rel=1e-9)
    assert optimum.n_params.value * optimum.tokens.value == pytest.approx(1e13 / 6)


def test_the_held_out_size_is_predicted_without_having_been_seen() -> None:
    table = grid(5, 4)
    shifted = table.with_columns(loss=pl.when(pl.col("N") == pl.col("N").max()).then(9.0).otherwise("loss"))
    held = hold_out_largest(fitted(table), shifted)
    assert isinstance(held, HoldOut)
    assert [row.predicted.value for row in held.rows] == pytest.approx(
        [surface(row.point["N"], row.point["D"]) for row in held.rows], rel=1e-6
    )
    assert held.mean_error > 5 and held.n_inside == 0
    none = hold_out_largest(fitted(grid(3, 4)), grid(3, 4))
    assert isinstance(none, Diagnostic) and (none.code, none.severity) == ("holdout_unidentified", "blocks")


def test_a_prediction_far_beyond_the_data_says_so() -> None:
    fit = fitted(grid(4, 4, noise=0.002))
    near, far = predict(fit, {"N": 3e6, "D": 2e7}), predict(fit, {"N": 3e8, "D": 3e8})
    assert not near.cautions and [caution.code for caution in far.cautions] == ["extrapolates"]
    assert [c.code for c in predict(fit, {"N": 1e3, "D": 1e9}).cautions] == ["extrapolates"]
    assert near.law.value == near.new_run.value
    assert (near.new_run.high or 0) > (near.law.high or 9)


@pytest.mark.usefixtures("few_starts")
def test_a_prediction_at_a_compute_is_the_lowest_loss_there() -> None:
    fit = fitted(grid(5, 5, noise=0.002))
    found = predict(fit, {"C": 1e14})
    (best,) = frontier(fit, [1e14]).optima
    assert found.optimum == best and found.law == best.loss
    a = values(fit)
    n = np.geomspace(1e4, 1e8, 200_001)
    losses = a["E"] + a["A"] / n ** a["alpha"] + a["B"] / (1e14 / 6 / n) ** a["beta"]
    assert found.law.value == pytest.approx(losses.min(), rel=1e-9)
    assert best.n_params.value == pytest.approx(n[losses.argmin()], rel=1e-4)
    here = predict(fit, {"N": best.n_params.value, "D": best.tokens.value})
    assert found.new_run.low == pytest.approx(here.new_run.low or 0, rel=2e-3)
    assert {c.code for c in predict(fit, {"C": 1e16}).cautions} == {"extrapolates"}
    with pytest.raises(ConfigError, match="or C alone"):
        predict(fit, {"N": 1e6})


@pytest.mark.usefixtures("few_starts")
def test_tokens_follow_from_compute_and_size() -> None:
    table = grid(4, 4, noise=0.002)
    found = analyse_scaling(table.drop("D"), "LND", COLUMNS)
    assert values(found.fit) == pytest.approx(values(fitted(table)), rel=1e-6)
    assert "tokens_from_compute" in {caution.code for caution in found.cautions}
    giga = analyse_scaling(table.drop("D").with_columns(pl.col("C") / 1e9), "LND", COLUMNS)
    assert "tokens_implausible" in {caution.code for caution in giga.cautions}


@pytest.mark.parametrize(
    ("change", "code", "words"),
    [
        (pl.col("C") / 1e9, "compute_mismatch", "likely in GFLOPs"),
        (pl.col("C") / 8.64e19, "compute_mismatch", "likely in PFLOP/s-days"),
        (pl.col("N") / 1e6, "compute_mismatch", "thousands, millions or billions"),
        (pl.col("C") * 10, "compute_mismatch", "10 times"),
        (pl.col("C") * 1.4, "compute_differs", "1.4 times"),
        (pl.col("C") * 1.001, None, ""),
    ],
)
def test_compute_is_held_against_six_n_d(change: pl.Expr, code: str | None, words: str) -> None:
    found = compute_doubts(grid().with_columns(change), COLUMNS)
    assert [caution.code for caution in found] == ([code] if code else [])
    assert all(words in caution.text for caution in found)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ([pl.col("D") / 1e9], "D is 2e−08 times N in the median"),
        ([pl.col("N") / 1e6], "The median of N is 1"),
        ([pl.col("D") / 1e9, pl.col("N") / 1e9], "The median of N is 0.001"),
        ([pl.col("D")], None),
    ],
)
def test_sizes_and_tokens_in_other_units_are_named(change: list[pl.Expr], words: str | None) -> None:
    """20 tokens a parameter, a million parameters in the median."""
    n = pl.Series("N", np.geomspace(1e4, 1e8, 9))
    table = pl.DataFrame({"N": n, "D": 20 * n}).with_columns(change)
    found = unit_doubts(table, COLUMNS)
    assert [caution.code for caution in found] == ([] if words is None else ["units_implausible"])
    assert words is None or words in found[0].text


def profile_table(sizes: Any, compute: float = 1e13) -> pl.DataFrame:
    """Runs of one compute under a law whose valley is steeper on the side of small models."""
    n = np.asarray(sizes)
    loss = 1.4 + 60 / n**0.5 + 160 / (compute / 6 / n) ** 0.25
    return pl.DataFrame({"N": n, "C": np.full(len(n), compute), "loss": loss})


def test_a_cubic_finds_the_bottom_that_a_parabola_misses() -> None:
    fine = profile_table(np.geomspace(1e3, 1e8, 500_001))
    best = fine["N"][fine["loss"].arg_min() or 0]
    table = profile_table(best * np.geomspace(0.1, 10, 9))
    (cubic,), (parabola,) = (isoflop_profiles(table, "N", "C", "loss", curve) for curve in ("cubic", "parabola"))
    assert cubic.optimal_params and parabola.optimal_params
    off = [abs(np.log(found.optimal_params.value / best)) for found in (cubic, parabola) if found.optimal_params]
    assert off[0] < 0.01 and off[1] > 0.1
    assert [caution.code for caution in parabola.cautions] == ["parabola_biased"]


def test_the_interval_of_a_minimum_is_that_of_a_regression() -> None:
    """The place where a parabola's slope is 0, by the delta method, from statsmodels' covariance."""
    fine = profile_table(np.geomspace(1e3, 1e8, 5001))
    best_size = fine["N"][fine["loss"].arg_min() or 0]
    table = profile_table(best_size * np.geomspace(0.1, 10, 8)).with_columns(
        pl.col("loss") * (1 + 0.002 * (pl.col("N").log() * 9).sin())
    )
    (profile,) = isoflop_profiles(table, "N", "C", "loss", "parabola")
    x = np.log(table["N"].to_numpy())
    x = x - x.mean()
    model = sm.OLS(table["loss"].to_numpy(), np.column_stack([np.ones(8), x, x**2])).fit()
    _, b, c = model.params
    best, slope = -b / (2 * c), np.array([0, -1 / (2 * c), b / (2 * c**2)])
    half = stats.t.ppf(0.975, 5) * math.sqrt(slope @ model.cov_params() @ slope)
    centre = np.log(table["N"].to_numpy()).mean()
    size, lowest = profile.optimal_params, profile.lowest_loss
    assert size is not None and lowest is not None
    expected = np.exp(centre + np.array([best, best - half, best + half]))
    assert (size.value, size.low, size.high) == pytest.approx(tuple(expected))
    mean = model.get_prediction(np.array([[1, best, best**2]])).summary_frame(alpha=0.05).iloc[0]
    assert (lowest.value, lowest.low, lowest.high) == pytest.approx(
        (mean["mean"], mean["mean_ci_lower"], mean["mean_ci_upper"])
    )


def test_a_cubic_is_local_and_its_interval_holds_the_best_size_off_the_middle() -> None:
    """Through all nine sizes it would hold it in a tenth of tables."""
    fine = profile_table(np.geomspace(1e3, 1e8, 5001))
    best = fine["N"][fine["loss"].arg_min() or 0]
    sizes, generator, hits = 2 * best * np.geomspace(0.1, 10, 9), np.random.default_rng(0), 0
    for _ in range(100):
        noisy = profile_table(sizes).with_columns(pl.col("loss") * np.exp(0.0005 * generator.standard_normal(9)))
        (profile,) = isoflop_profiles(noisy, "N", "C", "loss")
        assert profile.optimal_params and profile.optimal_params.low and profile.optimal_params.high
        hits += profile.optimal_params.low <= best <= profile.optimal_params.high
    assert hits >= 90


def test_budgets_whose_runs_scatter_are_one_profile_each() -> None:
    fine = profile_table(np.geomspace(1e3, 1e8, 5001), 3e13)
    sizes, generator = fine["N"][fine["loss"].arg_min() or 0] * np.geomspace(0.1, 10, 9), np.random.default_rng(0)
    tables = [
        profile_table(sizes, compute * x) for compute in (1e13, 3e13, 6e13) for x in generator.uniform(0.95, 1.05, 3)
    ]
    table = pl.concat([one.filter(pl.int_range(pl.len()) % 3 == i % 3) for i, one in enumerate(tables)])
    profiles = isoflop_profiles(table, "N", "C", "loss", tolerance=0.12)
    assert [(profile.n, len(profile.sizes)) for profile in profiles] == [(9, 9)] * 3
    assert len(isoflop_profiles(table, "N", "C", "loss", tolerance=0.001)) == 0
    for profile, compute in zip(profiles, (1e13, 3e13, 6e13), strict=True):
        fine = profile_table(np.geomspace(1e3, 1e8, 5001), profile.flops)
        best = fine["N"][fine["loss"].arg_min() or 0]
        assert profile.flops == pytest.approx(compute, rel=0.05) and profile.optimal_params
        assert profile.optimal_params.value == pytest.approx(best, rel=0.03)  # losses fall with compute within a budget


def profiles_of(a: float, noise: float = 0.0, count: int = 6) -> list[Profile]:
    """Profiles whose best sizes are 0.1 · C^a, with relative noise of their own."""
    scatter = np.exp(noise * np.random.default_rng(1).standard_normal(count))
    found: list[Profile] = []
    for i, compute in enumerate(np.geomspace(1e18, 1e21, count).tolist()):
        best, half = 0.1 * compute**a * scatter[i], math.exp(0.05 + 0.02 * i)
        size = Estimate(best, best / half, best * half, 0.95, 9, "cubic")
        found.append(Profile(compute, (compute, compute), 9, (1.0, 2.0), "cubic", size, size, ()))
    return found


def test_a_power_law_runs_through_the_minima() -> None:
    exact = isoflop_law(profiles_of(0.49))
    assert exact is not None and exact.N.exponent.value == pytest.approx(0.49)
    assert exact.N.coefficient.value == pytest.approx(0.1) and exact.D.exponent.value == pytest.approx(0.51)
    assert exact.D.coefficient.value == pytest.approx(1 / 0.6)
    profiles = profiles_of(0.49, noise=0.01)  # less than the minima's own: weights are theirs alone
    law = isoflop_law(profiles)
    x, y = np.log([(p.flops, p.optimal_params.value) for p in profiles if p.optimal_params]).T
    weights = (0.05 + 0.02 * np.arange(6)) ** -2.0
    model = sm.WLS(y, sm.add_constant(x), weights=weights).fit()  # pyright: ignore[reportArgumentType]
    (low, high), (k_low, k_high) = model.conf_int()[1], np.exp(model.conf_int()[0])
    assert law is not None
    assert (law.N.exponent.value, law.N.exponent.low, law.N.exponent.high) == pytest.approx(
        (model.params[1], low, high)
    )
    assert (law.N.coefficient.low, law.N.coefficient.high) == pytest.approx((k_low, k_high))
    assert (law.D.exponent.low, law.D.exponent.high) == pytest.approx((1 - high, 1 - low))
    assert isoflop_law(profiles[:2]) is None


@pytest.mark.usefixtures("few_starts")
def test_profiles_and_law_that_disagree_are_said_with_both() -> None:
    fit = fitted(grid(5, 5, noise=0.002))
    a = frontier(fit, []).a.value
    coefficient = frontier(fit, [1.0]).optima[0].n_params.value
    same = [
        replace(p, optimal_params=replace(p.optimal_params, **{
            end: coefficient * p.flops**a * k for end, k in (("value", 1), ("low", 0.9), ("high", 1.1))
        }))
        for p in profiles_of(0.5) if p.optimal_params
    ]  # fmt: skip
    agreeing, other = isoflop_law(same), isoflop_law(profiles_of(0.7, noise=0.01))
    assert agreeing is not None and other is not None
    assert disagreement(fit, agreeing, agreeing) == [] and disagreement(fit, other, None) == []
    (said,) = disagreement(fit, other, agreeing)
    assert f"{other.N.exponent.value:.4g}" in said.text and f"{a:.4g}" in said.text


def test_computes_apart_have_profiles_of_their_own() -> None:
    sizes = np.geomspace(2e4, 2e6, 7)
    tables = [profile_table(sizes, compute) for compute in (1e13, 1.01e13, 3e13)]
    assert [(p.n, p.flops) for p in isoflop_profiles(pl.concat(tables), "N", "C", "loss")] == [
        (14, pytest.approx(1.005e13, rel=1e-3)), (7, pytest.approx(3e13))
    ]  # fmt: skip


def test_a_profile_without_a_bracketed_minimum_gives_none() -> None:
    (profile,) = isoflop_profiles(profile_table(np.geomspace(1e6, 1e8, 7)), "N", "C", "loss")
    assert profile.optimal_params is None
    assert [caution.code for caution in profile.cautions] == ["not_bracketed"]
    (few,) = isoflop_profiles(profile_table([1e5, 1e6, 2e6, 1e7]), "N", "C", "loss")
    assert [caution.code for caution in few.cautions] == ["few_levels"]
    assert isoflop_profiles(grid(3, 4), "N", "C", "loss") == []


@pytest.mark.usefixtures("few_starts")
def test_the_command_prints_the_documented_object(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "runs.csv"
    grid(5, 4, noise=0.002).write_csv(path)
    arguments = ["fit", str(path), "--predict", "N=1e6,D=1e7", "--holdout", "largest", "--json"]
    assert run_command_line(arguments) == 0
    said = json.loads(capsys.readouterr().out)
    assert said["form"] == "LND" and said["n"] == 20 and said["status"] == "ok"
    assert said["objective"]["name"] == "huber" and said["objective"]["delta"] == 1e-3
    assert set(said["parameters"]["alpha"]) == {"value", "low", "high", "se"}
    assert said["predictions"][0]["low"] < said["predictions"][0]["law_low"] < said["predictions"][0]["value"]
    assert said["holdout"]["n"] == 4
    assert {"a", "b"} <= set(said["frontier"])
    assert set(said["isoflop"]) == {"profiles", "law"}
    assert run_command_line(["fit", str(path)]) == 0
    printed = capsys.readouterr().out
    assert "Loss falls as a power of model size" in printed and "lowest loss at a compute of C = 6ND" in printed


@pytest.mark.parametrize(
    ("change", "complaint"),
    [
        (lambda t: t.rename({"loss": "losss"}), "did you mean 'losss'"),
        (lambda t: t.with_columns(N=pl.lit("big")), "column 'N' is not numeric: it holds 'big'"),
        (lambda t: t.with_columns(D=-pl.col("D")), "must be above 0"),
        (lambda t: t.with_columns(loss=pl.lit(2.0)), "are equal"),
        (lambda t: t.with_columns(loss=pl.lit(None, dtype=pl.Float64)), "no row of the table"),
        (lambda t: t.head(0), "has no rows"),
    ],
)
def test_bad_tables_get_one_line(
    change: Callable[[pl.DataFrame], pl.DataFrame], complaint: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "runs.csv"
    change(grid()).write_csv(path)
    assert run_command_line(["fit", str(path)]) == 2
    said = capsys.readouterr().err
    assert complaint in said and said.count("\n") == 1


@pytest.mark.usefixtures("few_starts")
@pytest.mark.parametrize(
    ("option", "sizes", "held"), [("auto", 5, 4), ("none", 5, 0), ("auto", 3, 0), ("largest", 3, 0)]
)
def test_the_largest_size_is_held_out_where_rows_allow_it(
    option: str, sizes: int, held: int, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "runs.csv"
    grid(sizes, 4, noise=0.002).write_csv(path)
    assert run_command_line(["fit", str(path), "--holdout", option, "--json"]) == 0
    said = json.loads(capsys.readouterr().out)
    assert (said["holdout"] or {"n": 0})["n"] == held
    assert ("holdout_unidentified" in [w["code"] for w in said["warnings"]]) == (option == "largest")


@pytest.mark.usefixtures("few_starts")
def test_rows_outside_their_prediction_intervals_are_a_caution() -> None:
    table = grid(5, 4, noise=0.002)
    off = table.with_columns(pl.col("loss") * pl.when(pl.col("N") == pl.col("N").max()).then(1.05).otherwise(1.0))
    found = analyse_scaling(off, "LND", COLUMNS)
    (said,) = [caution for caution in found.cautions if caution.code == "holdout_outside"]
    assert said.severity == "limits" and "4 of 4 rows" in said.text and "above" in said.text
    held = hold_out_largest(fitted(table), table)
    assert isinstance(held, HoldOut)
    many = (*held.rows[:1],) * 40
    for n_inside, severity in ((40, None), (38, "note"), (35, "limits")):
        doubts = held_out_doubts(replace(held, rows=many, n_inside=n_inside))
        assert [doubt.severity for doubt in doubts] == ([severity] if severity else [])


@pytest.mark.usefixtures("few_starts")
def test_residuals_that_depend_on_a_variable_are_said() -> None:
    """An error that runs of one size share, and effects of N and D that do not add up."""
    table = grid(6, 6, noise=0.002)
    assert "residuals_trend" not in codes(fitted(table))
    level = pl.col("N").rank("dense") % 2
    (by_size,) = [c for c in fitted(table.with_columns(pl.col("loss") * (1 + 0.01 * level))).cautions
                  if c.code == "residuals_trend"]  # fmt: skip
    assert "size N" in by_size.text and "tokens" not in by_size.text
    product = (pl.col("N").log() - 13) * (pl.col("D").log() - 15)
    together = fitted(table.with_columns(pl.col("loss") * (0.01 * product).exp()))
    assert any("do not add up" in caution.text for caution in together.cautions)


def test_the_added_variable_test_is_that_of_nested_regressions() -> None:
    generator = np.random.default_rng(0)
    x_nxp, added_nxt = generator.normal(size=(20, 3)), generator.normal(size=(20, 2))
    y_n = generator.normal(size=20) + added_nxt[:, 0] / 2
    small, large = sm.OLS(y_n, x_nxp).fit(), sm.OLS(y_n, np.column_stack([x_nxp, added_nxt])).fit()
    assert p_of_added(y_n, x_nxp, added_nxt) == pytest.approx(large.compare_f_test(small)[1])


@pytest.mark.usefixtures("few_starts")
def test_tokens_seen_more_than_once_are_said() -> None:
    table = grid(4, 4, noise=0.002).with_columns(U=pl.lit(5e6))
    found = analyse_scaling(table, "LND", {**COLUMNS, "U": "U"}, holdout=False)
    (said,) = [caution for caution in found.cautions if caution.code == "repeated_data"]
    assert "In 4 of 16 rows" in said.text and "3 epochs" in said.text and "LNDU" in (said.remedy or "")
    new = analyse_scaling(table.with_columns(U=pl.col("D")), "LND", {**COLUMNS, "U": "U"}, holdout=False)
    assert "repeated_data" not in {caution.code for caution in new.cautions}


def test_rows_without_values_are_counted(tmp_path: Path) -> None:
    path = tmp_path / "runs.csv"
    gaps = grid(5, 5, noise=0.002).with_columns(loss=pl.when(pl.int_range(pl.len()) < 3).then(None).otherwise("loss"))
    gaps.write_csv(path)
    fit = fitted(pl.read_csv(path))
    assert fit.n == 22
    assert "3 of 25 rows" in next(c.text for c in fit.cautions if c.code == "incomplete_rows")
