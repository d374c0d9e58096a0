"""Agents: the protocol that all of them implement."""

import dataclasses
import inspect

import jax
import jax.numpy as jnp
import pytest

from dmdenv.agents import Agent, SpaceMismatchError, get_agent, registered_agents
from dmdenv.envs.base import RESERVED
from probe_envs import Misfit, ReadTheCue


@pytest.mark.parametrize("name", registered_agents())
def test_agent_implements_the_protocol(name):
    agent = get_agent(name)
    config = agent.Config()
    assert hash(config) == hash(agent.Config())
    assert config.updates >= 1
    for function in ("init", "update", "train", "with_capacity", "policy"):
        expected = inspect.signature(getattr(Agent, function)).parameters
        assert list(inspect.signature(getattr(agent, function)).parameters) == list(expected)[1:]


@pytest.mark.parametrize("name", registered_agents())
def test_agent_evolves_one_state_and_acts_on_any_number_of_rows(name):
    """Traced, not computed: what a run folder, a scan over updates and other sizes of an environment need."""
    agent, env = get_agent(name), ReadTheCue(rows=3)
    config = dataclasses.replace(agent.Config(), updates=2)

    def run(key):
        state = agent.init(env, config, key)
        after, metrics = agent.update(env, config, state)
        action = agent.policy(env, config, after)(key, jnp.ones((5, 2)))
        return state, agent.with_capacity(env, after), metrics, action

    state, after, metrics, action = jax.eval_shape(run, jax.random.key(0))
    assert jax.tree.structure(state) == jax.tree.structure(after)
    assert jax.tree.leaves(state) == jax.tree.leaves(after)
    assert action.shape == (5,)
    assert {"reward", "overflow", "nonfinite"} <= set(metrics) <= RESERVED
    assert all(value.shape == () for value in metrics.values())
    assert config.steps_per_update >= 1


@pytest.mark.parametrize("name", registered_agents())
def test_agent_refuses_an_environment_that_it_does_not_fit(name):
    agent = get_agent(name)
    with pytest.raises(SpaceMismatchError, match=r"Misfit has observations \[4, 2\] and actions \[3\]; must be"):
        jax.eval_shape(lambda key: agent.init(Misfit(), agent.Config(), key), jax.random.key(0))


def test_unknown_agent_is_refused():
    with pytest.raises(ValueError, match="unknown agent 'nope'; valid agents: apg"):
        get_agent("nope")
