"""Networks: policies on the last axis of the observations."""

import jax
import jax.numpy as jnp
import pytest

from dmdenv.agents import SpaceMismatchError
from dmdenv.agents.networks import deterministic_policy
from probe_envs import Misfit, PointMass, ReadTheCue

KEY = jax.random.key(0)


@pytest.mark.parametrize("env", [PointMass(), ReadTheCue(rows=5)], ids=["one vector", "rows"])
def test_policy_fits_the_spaces(env):
    observation = 100.0 * jax.random.normal(KEY, env.observation_shape)
    action = jax.jit(lambda key: deterministic_policy(env, (8,), key)(key, observation))(KEY)
    assert action.shape == env.action_shape
    assert jnp.all(jnp.abs(action) <= 1.0)


def test_policy_refuses_observations_with_other_features():
    with pytest.raises(SpaceMismatchError, match="observations have 3 features per row; the policy takes 2"):
        jax.eval_shape(lambda key: deterministic_policy(PointMass(), (8,), key)(key, jnp.zeros(3)), KEY)


def test_policy_has_the_default_precision():
    with jax.enable_x64(True):
        action = jax.eval_shape(lambda key: deterministic_policy(PointMass(), (8,), key)(key, jnp.zeros(2)), KEY)
        assert action.dtype == jnp.float64


def test_spaces_that_do_not_fit_are_refused():
    with pytest.raises(
        SpaceMismatchError, match=r"Misfit has observations \[4, 2\] and actions \[3\]; must be \[m\] and"
    ):
        deterministic_policy(Misfit(), (8,), KEY)
