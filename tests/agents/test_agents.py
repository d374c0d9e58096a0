"""Agents: the protocol that all of them implement."""

import inspect

import pytest

from dmdenv.agents import Agent, get_agent, registered_agents


@pytest.mark.parametrize("name", registered_agents())
def test_agent_implements_the_protocol(name):
    agent = get_agent(name)
    config = agent.Config()
    assert hash(config) == hash(agent.Config())
    assert config.updates >= 1
    for function in ("init", "update", "train", "with_capacity", "policy"):
        expected = inspect.signature(getattr(Agent, function)).parameters
        assert list(inspect.signature(getattr(agent, function)).parameters) == list(expected)[1:]


def test_unknown_agent_is_refused():
    with pytest.raises(ValueError, match="unknown agent 'nope'; valid agents: apg"):
        get_agent("nope")
