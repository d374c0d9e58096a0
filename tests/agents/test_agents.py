"""Agents: the protocol that all of them implement."""

import dataclasses
import inspect

import jax
import jax.numpy as jnp
import pytest

from dmdenv.agents import Agent, SpaceMismatchError, get_agent, registered_agents
from dmdenv.envs.acting import act
from dmdenv.envs.base import RESERVED
from probe_envs import Misfit, ReadTheCue

KEY = jax.random.key(0)


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
def test_agent_evolves_one_state(name):
    """Traced, not computed: what a run folder and a scan need; otherwise a second update would be compiled again."""
    agent, env = get_agent(name), ReadTheCue(rows=3)
    short = {"steps": 4} if hasattr(agent.Config(), "steps") else {}  # otherwise the length of an episode
    config = dataclasses.replace(agent.Config(), updates=2, **short)

    def run(key):
        state = agent.init(env, config, key)
        after, metrics = agent.update(env, config, state)
        return state, agent.with_capacity(env, after), metrics

    state, after, metrics = jax.eval_shape(run, KEY)
    assert jax.tree.structure(state) == jax.tree.structure(after)
    types = [[(x.shape, x.dtype, x.weak_type) for x in jax.tree.leaves(tree)] for tree in (state, after)]
    assert types[0] == types[1]
    assert {"loss", "reward", "overflow", "nonfinite"} <= set(metrics) <= RESERVED
    assert all(value.shape == () for value in metrics.values())
    assert config.steps_per_update >= 1


@pytest.mark.parametrize("name", registered_agents())
def test_a_policy_gives_an_action_in_the_action_space(name):
    """One that looks at rows does so for any number of them."""
    agent, env = get_agent(name), ReadTheCue(rows=3)
    config = agent.Config()

    def actions(key):
        observation, state = env.reset(key)
        policy = agent.policy(env, config, agent.init(env, config, key))
        more = observation if getattr(policy, "takes", ()) else jnp.ones((5, 2))
        return [act(policy, key, seen, env, state, env.default_params) for seen in (observation, more)]

    action, other = jax.eval_shape(actions, KEY)
    assert action.shape == env.action_shape == (3,)
    assert other.shape == ((3,) if name == "open_loop" else (5,))


@pytest.mark.parametrize("name", [name for name in registered_agents() if name != "open_loop"])  # which fits them all
def test_agent_refuses_an_environment_that_it_does_not_fit(name):
    agent = get_agent(name)
    with pytest.raises(SpaceMismatchError, match=r"Misfit has observations \[4, 2\] and actions \[3\]; must be"):
        jax.eval_shape(lambda key: agent.init(Misfit(), agent.Config(), key), KEY)


def test_unknown_agent_is_refused():
    with pytest.raises(ValueError, match="unknown agent 'nope'; valid agents: apg"):
        get_agent("nope")
