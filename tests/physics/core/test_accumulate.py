"""Sums of many small increments."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from dmdenv._core.accumulate import accumulate


@pytest.mark.parametrize("start", [0.0, 1.0, 4e4, -3e6])
def test_a_sum_of_a_million_increments_errs_by_one_rounding(start):
    increment = np.float32(1e-3)

    @jax.jit
    def total(start):
        return jax.lax.fori_loop(0, 10**6, lambda _, sums: accumulate(*sums, increment), (start, 0.0 * start))[0]

    exact = start + 1e6 * float(increment)
    np.testing.assert_allclose(float(total(jnp.float32(start))), exact, rtol=1.2e-7)


def test_its_derivatives_are_those_of_a_sum():
    def total(start, lost, increment):
        sums = accumulate(start, lost, increment)
        return accumulate(*sums, 2.0 * increment)[0]

    slopes = jax.grad(total, (0, 1, 2))(jnp.float32(1e4), jnp.float32(1e-4), jnp.float32(1e-3))
    np.testing.assert_array_equal(slopes, [1.0, 1.0, 3.0])
