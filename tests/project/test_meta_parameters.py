"""The benchmark of hidden parameters: its accounting, and that its objectives are least at the truth."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from benchmarks.hidden_parameters import Flocks, Fluids
from benchmarks.meta_parameters import largest_errors, updates_until
from dmdenv.search import minimize

KEY = jax.random.key(0)


def test_updates_count_until_an_error_stays_small():
    errors = np.array([[0.5, 0.5, 0.001], [0.005, 0.5, 0.001], [0.5, 0.02, 0.001], [0.005, 0.02, 0.001]])
    assert updates_until(errors).tolist() == [4, np.inf, 1]


def test_sigma_follows_from_the_diameter_at_which_the_energy_is_the_temperature():
    fluids = Fluids(temperature=1.3)
    found = fluids.physical({"diameter": 0.95, "epsilon": 0.7})
    x = (found["sigma"] / 0.95) ** 6
    np.testing.assert_allclose(4 * found["epsilon"] * (x**2 - x), 1.3, rtol=1e-5)


def test_the_deviation_of_flocks_is_least_at_the_truth():
    problem = Flocks(instances=8, boids=6, box=7.2, steps=3, noise=0.0, edge=1e-3).problem(KEY)
    deviation = jax.jit(problem.objective)
    least = deviation(problem.truth, KEY)
    assert least < 1e-4
    for name, true in problem.truth.items():
        assert deviation({**problem.truth, name: 1.3 * true}, KEY) > least + 1e-4, name


@pytest.mark.slow
def test_coefficients_of_a_flock_are_recovered_by_the_gradient():
    problem = Flocks(instances=256).problem(KEY)
    adam = optax.adam(optax.cosine_decay_schedule(0.3, 120), b2=0.95)
    options = {"bounds": problem.bounds, "optimizer": adam, "starts": 1, "updates": 120, "progress": False}
    found = minimize(problem.objective, problem.start, KEY, **options)
    assert largest_errors(problem, found.best_params) < 0.03


@pytest.mark.slow
def test_the_fluctuations_give_the_derivative_of_a_pair_distribution():
    """Compared with differences of independent simulations, within their statistical error."""
    fluids = Fluids(instances=512)
    problem = fluids.problem(KEY)
    positions, _ = problem.objective.args

    def average(epsilon, key):
        return fluids.average({"sigma": 1.0, "epsilon": epsilon}, positions, key, fluids.relax, fluids.samples)

    slope = jax.jit(lambda epsilon, key: jax.jvp(lambda e: average(e, key), (epsilon,), (jnp.ones_like(epsilon),))[1])
    value = jax.jit(average)
    keys, epsilon, h = jax.random.split(KEY, 4), jnp.float32(0.8), 0.15
    by_fluctuations = np.stack([slope(epsilon, key) for key in keys])
    by_difference = np.stack([(value(epsilon + h, key) - value(epsilon - h, key)) / (2 * h) for key in keys])
    assert np.abs(by_difference.mean(0)).max() > 0.5
    error = np.hypot(by_fluctuations.std(0, ddof=1), by_difference.std(0, ddof=1)) / 2
    away = np.abs(by_fluctuations.mean(0) - by_difference.mean(0))
    assert np.all(away < 5 * error + 0.05)
