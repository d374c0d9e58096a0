"""Each agent of the table, small: few updates, instances and weights. A new agent is among them by itself."""

import dataclasses
from typing import Any

from dmdenv.agents import get_agent, registered_agents

SMALL: dict[str, Any] = {
    "updates": 3,
    "num_envs": 2,
    "window": 2,
    "steps": 2,
    "hidden": (4,),
    "minibatches": 2,
    "critic_minibatches": 2,
    "critic_epochs": 2,
    "population": 4,
    "episodes": 1,
}


def small_config(agent: str, **changes: Any) -> Any:
    """The settings of an agent: those above that it has, and changes."""
    fields = _fields(agent)
    return get_agent(agent).Config(**{**{name: value for name, value in SMALL.items() if name in fields}, **changes})


def _fields(agent: str) -> dict[str, Any]:
    return {field.name: field for field in dataclasses.fields(get_agent(agent).Config)}


def _methods(agent: str) -> tuple[str, ...]:
    """The methods among which an agent has a choice."""
    method = _fields(agent).get("method")
    return () if method is None else method.metadata["rule"].of


SMALL_AGENTS = {agent: (agent, small_config(agent)) for agent in registered_agents() if not _methods(agent)} | {
    f"{agent}-{method}": (agent, small_config(agent, method=method))
    for agent in registered_agents()
    for method in _methods(agent)
}  # name in tests: (agent, config)


def flags_of(config: Any) -> list[str]:
    """The settings as options of `dmdenv train`."""
    flags = []
    for field in dataclasses.fields(config):
        value, flag = getattr(config, field.name), f"--{field.name.replace('_', '-')}"
        if isinstance(value, bool):
            flags += [flag if value else f"--no-{flag[2:]}"]
        elif value is not None:
            flags += [flag, *(map(str, value) if isinstance(value, tuple) else [str(value)])]
    return flags
