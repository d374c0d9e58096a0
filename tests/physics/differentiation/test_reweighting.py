"""Averages over samples in another ensemble, and their derivatives: a harmonic well, whose averages are known."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from dmdenv.differentiation import reweight

SAMPLES = 200_000


def draws():
    """Positions in a well of stiffness 1 at temperature 1: standard normal."""
    return jax.random.normal(jax.random.key(0), (SAMPLES,))


def mean_square(stiffness, x, sampled=None):
    """<x^2> = 1 / stiffness."""
    return reweight(x**2, 0.5 * stiffness * x**2, sampled)


def test_the_derivative_of_an_average_is_that_of_the_ensemble():
    slope = jax.jit(jax.grad(lambda stiffness, x: mean_square(stiffness, x).mean))(1.0, draws())
    np.testing.assert_allclose(slope, -1.0, rtol=0.02)  # d(1 / k) = -1 / k^2


def test_the_derivative_of_the_value_itself_is_part_of_it():
    def scaled(factor, x):
        return reweight(factor * x**2, 0.5 * factor * x**2).mean  # <k x^2> = 1 at any stiffness

    assert abs(jax.jit(jax.grad(scaled))(1.0, draws())) < 0.02


def test_an_average_is_carried_to_other_parameters_as_far_as_the_samples_cover_them():
    x = draws()
    near = jax.jit(mean_square)(1.2, x, 0.5 * x**2)
    np.testing.assert_allclose(near.mean, 1 / 1.2, rtol=0.01)
    assert 0.9 * SAMPLES < near.effective_samples < SAMPLES
    assert jax.jit(mean_square)(1e4, x, 0.5 * x**2).effective_samples < 0.05 * SAMPLES


def test_equal_weights_are_the_mean_of_a_tree_and_what_is_not_finite_shows():
    values = {"a": jnp.arange(6.0).reshape(3, 2), "b": jnp.arange(3.0)}
    mean, effective = reweight(values, jnp.full(3, 7.0))
    np.testing.assert_allclose(mean["a"], [2.0, 3.0])
    np.testing.assert_allclose((mean["b"], effective), (1.0, 3.0))
    mean, effective = reweight(values, jnp.array([0.0, jnp.nan, 0.0]))
    assert np.isnan(effective) and np.isnan(mean["a"]).all()


@pytest.mark.parametrize(
    ("values", "energies", "sampled", "message"),
    [
        (np.zeros(3), np.zeros((3, 1)), None, r"energies has shape \(3, 1\); must be \[samples\]"),
        (np.zeros(0), np.zeros(0), None, r"energies has shape \(0,\); must be \[samples\], at least one"),
        (np.zeros(3), np.zeros(3), np.zeros(2), r"sampled has shape \(2,\); must be that of energies, \(3,\)"),
        ({"g": np.zeros((2, 3))}, np.zeros(3), None, r"values\['g'\] has shape \(2, 3\); must be \[samples, \.\.\.\]"),
    ],
)
def test_other_shapes_are_refused(values, energies, sampled, message):
    with pytest.raises(ValueError, match=message):
        reweight(values, energies, sampled)
