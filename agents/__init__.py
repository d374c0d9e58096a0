"""Agents: one method per file, each with a `Config` and the pure functions `init`, `update`, `train` and `policy`.

from dmdenv.agents import apg

state, metrics = jax.jit(apg.train, static_argnums=(0, 1))(env, apg.Config(updates=100), key)
policy = apg.policy(env, config, state)
"""

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from dmdenv.agents.base import (
        Agent,
        Config,
        InformedPolicy,
        Metrics,
        Policy,
        SpaceMismatchError,
        TrainState,
        get_agent,
        registered_agents,
    )

if __name__ == "agents":
    raise ImportError("import dmdenv.agents instead of agents: a second copy of every class would be made otherwise")

__all__ = [
    "Agent",
    "Config",
    "InformedPolicy",
    "Metrics",
    "Policy",
    "SpaceMismatchError",
    "TrainState",
    "get_agent",
    "registered_agents",
]


def __getattr__(name: str) -> Any:  # on demand, so that `dmdenv --help` need not import JAX
    if name in __all__:
        from dmdenv.agents import base

        return getattr(base, name)
    raise AttributeError(f"module 'dmdenv.agents' has no attribute {name!r}")
