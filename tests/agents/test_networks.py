"""Networks of policies: which spaces they fit, and which they refuse."""

import jax
import jax.numpy as jnp
import pytest

from dmdenv.agents import SpaceMismatchError, apg, es, ppo, shac
from dmdenv.agents.evaluate import evaluate
from dmdenv.agents.networks import deterministic_policy
from dmdenv.envs.acting import act
from probe_envs import Misfit, PointMass, ReadTheCue

KEY = jax.random.key(0)


@pytest.mark.parametrize(
    ("env", "network"),
    [
        (PointMass(), "rows"),
        (PointMass(), "whole"),
        (ReadTheCue(rows=5), "rows"),
        (ReadTheCue(rows=5), "neighbors"),
        (ReadTheCue(rows=5), "whole"),
        (Misfit(), "whole"),
    ],
)
def test_policy_fits_the_spaces(env, network):
    @jax.jit
    def action(key):
        policy = deterministic_policy(env, (8,), key, network=network)
        observation = 100.0 * jax.random.normal(key, env.observation_shape)
        return act(policy, key, observation, env, env.reset(key)[1], env.default_params)

    assert action(KEY).shape == env.action_shape
    assert jnp.all(jnp.abs(action(KEY)) <= 1.0)


@pytest.mark.parametrize("network", ["rows", "whole"])
def test_policy_refuses_observations_that_it_does_not_fit(network):
    def act(key):
        return deterministic_policy(PointMass(), (8,), key, network=network)(key, jnp.zeros(3))

    message = {
        "rows": "observations have 3 features per row; the policy takes 2",
        "whole": r"observations are \[3\]; the policy takes \[2\]",
    }
    with pytest.raises(SpaceMismatchError, match=message[network]):
        jax.eval_shape(act, KEY)


def test_policy_has_the_default_precision():
    with jax.enable_x64(True):
        action = jax.eval_shape(lambda key: deterministic_policy(PointMass(), (8,), key)(key, jnp.zeros(2)), KEY)
        assert action.dtype == jnp.float64


@pytest.mark.parametrize(
    ("env", "network", "message"),
    [
        (
            Misfit(),
            "rows",
            r"Misfit has observations \[4, 2\] and actions \[3\]; must be \[m\] and \[a\], or .* 'whole' fits",
        ),
        (
            Misfit(),
            "neighbors",
            r"Misfit has observations \[4, 2\] .* \[n, m\] and \[n\] or \[n, a\], for network = 'n",
        ),
        (PointMass(), "neighbors", r"PointMass has observations \[2\] and actions \[1\]; must be \[n, m\] and"),
    ],
)
def test_spaces_that_do_not_fit_are_refused(env, network, message):
    with pytest.raises(SpaceMismatchError, match=message):
        deterministic_policy(env, (8,), KEY, network=network)


@pytest.mark.parametrize("agent", [apg, es, ppo, shac])
@pytest.mark.parametrize(("env", "network"), [(Misfit(), "whole"), (ReadTheCue(rows=3), "neighbors")])
def test_every_agent_trains_every_network(agent, env, network):
    """Traced, not computed."""
    config = agent.Config(network=network, hidden=(4,), updates=2)

    def train(key):
        state, _ = agent.train(env, config, key)
        return evaluate(env, agent.policy(env, config, state), key, episodes=2, steps=3).rewards

    assert jax.eval_shape(train, KEY).shape == (2, 3)


def test_an_unknown_network_is_refused():
    with pytest.raises(ValueError, match=r"Config.network = 'deep'; must be one of 'rows', 'neighbors', 'whole'"):
        apg.Config(network="deep")
