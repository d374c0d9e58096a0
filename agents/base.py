"""What an agent is, and the table of agents.

An agent is a module. Its functions are pure: they can be jitted, vmapped over keys and over environment parameters, and
differentiated where the method allows it. The command line knows agents through this protocol only.
"""

import importlib
from typing import Any, Protocol, cast

import jax

from dmdenv.envs.base import Env, Params

Metrics = dict[str, jax.Array]

_AGENTS = {  # name: module
    "apg": "dmdenv.agents.apg",
    "es": "dmdenv.agents.es",
    "open_loop": "dmdenv.agents.open_loop",
    "ppo": "dmdenv.agents.ppo",
    "shac": "dmdenv.agents.shac",
}


class SpaceMismatchError(ValueError):
    """An agent or a policy does not fit the spaces of an environment."""


class Policy(Protocol):
    """How an agent acts: a callable that is a pytree, so that it passes through `jax.jit` and `jax.vmap`."""

    def __call__(self, key: jax.Array, observation: jax.Array, /) -> jax.Array:
        """The action for one observation, both of one instance.

        Args:
            key: a random key, consumed; deterministic policies ignore it.
            observation: of the shape of the environment's observation space.

        Returns:
            An action of the shape of the environment's action space, within [-1, 1].
        """
        ...


class InformedPolicy(Protocol):
    """A policy that takes more than the observation, and says so; whoever runs it hands it over."""

    @property
    def takes(self) -> tuple[str, ...]:
        """What it takes: words of `dmdenv.envs.acting.asked_by`."""
        ...

    def __call__(self, *args: Any, **kwargs: Any) -> jax.Array:
        """The action for key and observation, as of `Policy`, and for what the words stand for, in their order."""
        ...


class Config(Protocol):
    """An agent's settings: a frozen, hashable dataclass whose construction refuses bad values by a `ValueError`.

    A field `steps` is the length of the episodes; None, its default, stands for `params.max_steps`. Since that may be
    traced, a run folder fills in its value.
    """

    @property
    def updates(self) -> int:
        """The number of updates in a training run."""
        ...

    @property
    def steps_per_update(self) -> int:
        """The environment steps of an update, in all environments together."""
        ...


class TrainState(Protocol):
    """Everything that evolves during training: a frozen pytree of arrays, enough to resume bit for bit."""

    @property
    def updates(self) -> jax.Array:
        """int32 [], updates done so far."""
        ...


class Agent(Protocol):
    """The names that an agent's module has.

    `params` are the environment's parameters, `env.default_params` where it is None. They are dynamic: another value
    does not recompile, and `jax.vmap` over them trains one policy for each.
    """

    @property
    def Config(self) -> type[Any]:
        """The class of the agent's settings, see `Config`; its defaults are a good start."""
        ...

    def init(self, env: Env, config: Any, key: jax.Array, *, params: Params | None = None) -> Any:
        """The state before the first update; the key is consumed.

        Raises:
            SpaceMismatchError: when the agent does not fit the environment's spaces.
        """
        ...

    def update(self, env: Env, config: Any, state: Any, *, params: Params | None = None) -> tuple[Any, Metrics]:
        """One update of the policy: the next state, and scalars that describe the update."""
        ...

    def train(self, env: Env, config: Any, key: jax.Array, *, params: Params | None = None) -> tuple[Any, Metrics]:
        """`init` and `config.updates` times `update`: the last state, and the metrics of all updates `[updates]`."""
        ...

    def with_capacity(self, env: Env, state: Any, *, params: Params | None = None) -> Any:
        """A training state from the same environment with other static capacities, as one of this environment."""
        ...

    def policy(self, env: Env, config: Any, state: Any) -> Policy | InformedPolicy:
        """The policy of a state, as it is to be evaluated."""
        ...


def registered_agents() -> tuple[str, ...]:
    """The names that `get_agent` takes, sorted."""
    return tuple(sorted(_AGENTS))


def get_agent(name: str) -> Agent:
    """An agent by its name; its module is imported on demand.

    Raises:
        ValueError: for an unknown name; the message lists the valid ones.
    """
    if name not in _AGENTS:
        raise ValueError(f"unknown agent {name!r}; valid agents: {', '.join(registered_agents())}")
    return cast(Agent, importlib.import_module(_AGENTS[name]))
