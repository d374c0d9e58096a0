"""The growth of a displacement: Lyapunov exponents that are known."""

import functools
import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from dmdenv.differentiation import tangent_growth
from dmdenv.neighbors import allocate
from dmdenv.space import Periodic

KEY = jax.random.key(0)


def exponent(step, state, steps=200):
    _, growth = jax.jit(functools.partial(tangent_growth, step, steps=steps))(state, key=jax.random.key(0))
    assert growth.shape == (steps,)
    return float(growth[steps // 2 :].mean())


def test_a_linear_map_has_the_logarithm_of_its_largest_eigenvalue():
    matrix = jnp.array([[0.9, 0.3], [0.0, 0.5]])
    assert exponent(lambda x: matrix @ x, jnp.ones(2)) == pytest.approx(math.log(0.9), abs=1e-5)


@pytest.mark.usefixtures("x64")
def test_the_logistic_map_has_the_exponent_log_2():
    assert exponent(lambda x: 4 * x * (1 - x), jnp.asarray(0.3), 2000) == pytest.approx(math.log(2), abs=0.01)


def test_arnolds_cat_map_has_the_logarithm_of_the_golden_section_squared():
    def step(state):
        x, count = state  # with an integer, which has no displacement
        return jnp.array([[2.0, 1.0], [1.0, 1.0]]) @ x % 1.0, count + 1

    assert exponent(step, (jnp.array([0.1, 0.2]), 0)) == pytest.approx(2 * math.log((1 + 5**0.5) / 2), abs=1e-5)


def test_the_last_state_is_that_of_the_steps():
    state, _ = tangent_growth(jnp.cos, jnp.arange(3.0), 2, KEY)
    np.testing.assert_allclose(state, np.cos(np.cos(np.arange(3.0))), rtol=1e-6)


def test_a_state_that_forgets_has_minus_infinity():
    assert exponent(lambda x: jnp.zeros_like(x), jnp.ones(2), 4) == -math.inf


@pytest.mark.slow
def test_neighbour_lists_are_not_displaced():
    positions = jax.random.uniform(KEY, (8, 2)) * 4
    pairs = allocate(Periodic(4.0), positions, cutoff=1.0, skin=0.2)
    assert exponent(lambda state: (0.5 * state[0], state[1]), (positions, pairs), 2) == pytest.approx(math.log(0.5))


def test_no_steps_are_refused():
    with pytest.raises(ValueError, match="steps = 0; must be an integer >= 1"):
        tangent_growth(lambda x: x, jnp.ones(2), 0, KEY)
