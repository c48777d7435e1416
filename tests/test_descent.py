"""The descent from many starts at once: where starts end, on objectives whose minimum is known."""

import itertools

import numpy as np
import pytest

from isoloss.analysis.descent import Local, descend
from isoloss.analysis.laws import SHAPES, VARIABLES, Floats, Form, make_law
from isoloss.analysis.solve import ObjectiveName, make_objective, solve


def rosenbrock(theta_sxp: Floats) -> Local:
    """The valley of (1 − x)² + 100·(y − x²)², halved, whose bend makes steps short."""
    x_s, y_s = theta_sxp.T
    residuals_sx2 = np.stack([1 - x_s, 10 * (y_s - x_s**2)], 1)
    jacobian_sx2x2 = np.array([[[-1.0, 0.0], [-20 * x, 10.0]] for x in x_s])
    transposed = jacobian_sx2x2.swapaxes(1, 2)
    hessian_sxpxp = transposed @ jacobian_sx2x2
    gradient_sxp = (transposed @ residuals_sx2[:, :, None])[:, :, 0]
    return Local((residuals_sx2**2).sum(1) / 2, gradient_sxp, hessian_sxpxp, np.zeros_like(hessian_sxpxp))


STARTS = np.array(list(itertools.product((-2.0, 0.5, 4.0), (-3.0, 0.0, 3.0))))


def test_every_start_reaches_the_end_of_a_bent_valley() -> None:
    ends = descend(rosenbrock, STARTS, (np.full(2, -10.0), np.full(2, 10.0)), 1e-12)
    assert ends == pytest.approx(np.ones_like(STARTS), abs=1e-4)


def test_a_minimum_beyond_a_bound_is_taken_at_the_bound_and_the_rest_is_free_along_it() -> None:
    ends = descend(rosenbrock, STARTS, (np.full(2, -10.0), np.array([0.5, 10.0])), 1e-12)
    assert (ends <= [0.5, 10.0]).all()
    assert ends == pytest.approx(np.tile([0.5, 0.25], (len(STARTS), 1)), abs=1e-5)


def test_a_start_is_not_left_higher_than_it_was() -> None:
    def rising_nan(theta_sxp: Floats) -> Local:
        local = rosenbrock(theta_sxp)
        return Local(np.full_like(local.value_s, np.nan), local.gradient_sxp, local.hessian_sxpxp, local.bound_sxpxp)

    assert (descend(rising_nan, STARTS, (np.full(2, -10.0), np.full(2, 10.0)), 1e-9) == STARTS).all()


@pytest.mark.parametrize("form", SHAPES)
def test_a_law_at_several_places_is_what_it_is_at_each(form: Form) -> None:
    rng = np.random.default_rng(0)
    variables_Kxn = np.exp(rng.uniform(10, 14, (len(VARIABLES[form]), 9)))
    law = make_law(form, "E +" in SHAPES[form].formula, variables_Kxn, rng.uniform(2, 4, 9))
    low_p, high_p = law.bounds()
    theta_sxp = rng.uniform(np.maximum(low_p, -2), np.minimum(high_p, 2), (4, len(low_p)))
    for name in ("huber", "ls"):
        objective = make_objective(name)
        together = objective.around(law, theta_sxp)
        for s, theta_p in enumerate(theta_sxp):
            residuals_n, jacobian_nxp = objective.residuals(law, theta_p)
            assert together.value_s[s] == pytest.approx(objective.value(residuals_n))
            assert together.gradient_sxp[s] == pytest.approx(jacobian_nxp.T @ objective.slopes(residuals_n))
            near_n = np.abs(residuals_n) <= (objective.delta or np.inf)
            weight_n = 1 / np.maximum(1, np.abs(residuals_n) / (objective.delta or np.inf))
            whole_pxp = (jacobian_nxp.T * weight_n) @ jacobian_nxp
            bent_pxp = (jacobian_nxp.T * near_n) @ jacobian_nxp
            assert together.hessian_sxpxp[s] == pytest.approx(bent_pxp)
            assert together.hessian_sxpxp[s] + together.bound_sxpxp[s] == pytest.approx(whole_pxp)


@pytest.mark.parametrize("name", ["huber", "ls"])
def test_starts_agree_where_the_valley_is_flat_and_ends_at_a_bound(name: ObjectiveName) -> None:
    """Losses that fall ever faster in log N have no floor: E goes to its bound along a valley that hardly falls."""
    rng = np.random.default_rng(1)
    size_n = np.geomspace(1e5, 1e7, 20)
    loss_n = 3.4 - 0.02 * np.log(size_n / 1e4) ** 2 / 2 + rng.normal(0, 0.1, 20)
    found = solve(make_law("LN", True, size_n[None], loss_n), make_objective(name))
    assert found.n_agreeing == found.n_polished > 20
    assert np.exp(found.theta_p[-1]) == pytest.approx(1e-3 * loss_n.min())
