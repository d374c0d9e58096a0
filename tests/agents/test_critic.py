"""Values of one vector, and of rows."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from dmdenv.agents.critic import critic
from probe_envs import PointMass, ReadTheCue

KEY = jax.random.key(0)


@pytest.mark.parametrize("hidden", [(), (4, 4)])
def test_value_of_rows_depends_neither_on_their_order_nor_on_their_number(hidden):
    @jax.jit
    def values(key):
        value, rows = critic(ReadTheCue(rows=3), hidden, key, networks=2), jax.random.normal(key, (3, 2))
        others = [value.each(x) for x in (rows, rows[::-1], jnp.concatenate([rows, rows]))]
        return value(rows), others

    mean, (found, reversed, doubled) = values(KEY)
    assert found.shape == (2,) and found[0] != found[1]
    np.testing.assert_allclose(mean, np.mean(found), rtol=1e-6)
    np.testing.assert_allclose([reversed, doubled], [found, found], rtol=1e-5, atol=1e-8)


def test_value_of_a_vector_is_that_of_one_row():
    @jax.jit
    def values(key):
        value, observation = critic(PointMass(), (4,), key), jnp.array([0.3, -2.0])
        return value(observation), value(observation[None])

    np.testing.assert_allclose(*values(KEY), rtol=1e-6)
