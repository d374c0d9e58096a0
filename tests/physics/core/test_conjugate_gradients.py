"""Conjugate gradients: one iteration for each eigenvalue that b has a share of, singular systems, derivatives."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from dmdenv._core.conjugate_gradients import conjugate_gradients

pytestmark = pytest.mark.usefixtures("x64")

VECTORS = np.linalg.qr(np.random.default_rng(0).normal(size=(6, 6)))[0]
EIGENVALUES = np.array([0.0, 1.0, 1.0, 2.0, 5.0, 5.0])
A = VECTORS * EIGENVALUES @ VECTORS.T


def solve(b, factor=1.0, **options):
    return conjugate_gradients(lambda x: factor * (jnp.asarray(A) @ x), b, **{"tolerance": 1e-10, **options})


@jax.jit
@jax.vmap
def solve_each(b):
    return solve(b)


def test_it_takes_one_iteration_for_each_eigenvalue_and_counts_them_in_a_batch_too():
    shares = np.array([[0, 0, 0, 0, 0, 0], [0, 1, 2, 0, 0, 0], [0, 1, 0, 3, 0, 0], [0, 1, 1, 1, 1, 2]], float)
    b = shares @ VECTORS.T
    found = solve_each(b)
    np.testing.assert_array_equal(found.iterations, [0, 1, 2, 3])
    np.testing.assert_allclose(found.x, b @ np.linalg.pinv(A), atol=1e-10)


def test_it_stops_after_the_iterations_that_it_may_take():
    b = VECTORS[:, 1:].sum(axis=1)
    found = solve(b, max_iterations=2)
    assert found.iterations == 2
    assert np.linalg.norm(A @ found.x - b) > 1e-3


def test_what_is_not_a_number_stays_so():
    assert np.isnan(solve(np.array([np.nan, 0, 0, 0, 0, 0])).x).all()


def test_derivatives_of_every_order_and_mode():
    b = VECTORS[:, 1:].sum(axis=1)

    def length(factor):
        return jnp.sum(solve(b, factor).x ** 2)  # in proportion to factor^-2

    value = length(1.0)
    first, reverse = jax.jit(jax.jacfwd(length))(1.0), jax.jit(jax.grad(length))(1.0)
    np.testing.assert_allclose([first, reverse], [-2 * value] * 2, rtol=1e-8)
    np.testing.assert_allclose(jax.jit(jax.hessian(length))(1.0), 6 * value, rtol=1e-8)
