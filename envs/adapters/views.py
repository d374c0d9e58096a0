"""Other views of an environment's observations and actions: one flat vector, or one entry for each agent.

An environment has agents where the rows of its observation act on their own: observations `[n, m]` with actions `[n]`
or `[n, a]` (`Env.agents` is then n). The reward and the end of an episode are common to all of them.

    flat = centralise(make_env("flocking"))     # observations [n m], actions [n]: for one controller of all
    keyed = key_by_agent(make_env("flocking"))    # {"agent_0": [m], ...} and {"agent_0": [a], ...}
"""

import dataclasses
import functools
from collections.abc import Callable, Mapping
from typing import Any, Self, TypeVar

import gymnasium
import jax
import jax.numpy as jnp
import numpy as np

from dmdenv.envs.base import Baseline, Env, Info, Params, State, Transition

Array = TypeVar("Array", jax.Array, np.ndarray)

# --- one vector -------------------------------------------------------------------------------------------------------


@dataclasses.dataclass(frozen=True)
class Centralised(Env[State, Params]):
    """An environment with its observation and its action as one vector each, the rows one after another.

    States, parameters, rewards and all else are those of the environment.

    Args:
        env: the environment.
    """

    env: Env

    def __post_init__(self):
        object.__setattr__(self, "finite_horizon", self.env.finite_horizon)

    @property
    def id(self) -> str:
        return self.env.id

    @property
    def task(self) -> str:
        return self.env.task

    @property
    def default_params(self) -> Params:
        return self.env.default_params

    def validate(self, params: Params) -> None:
        self.env.validate(params)

    def initial_state(self, key: jax.Array, params: Params) -> State:
        return self.env.initial_state(key, params)

    def advance(self, key: jax.Array, state: State, action: jax.Array, params: Params) -> Transition[State]:
        return self.env.advance(key, state, action.reshape(self.env.action_shape), params)

    def observe(self, state: State, params: Params) -> jax.Array:
        return self.env.observe(state, params).ravel()

    def observation_space(self, params: Params | None = None) -> gymnasium.spaces.Box:
        return _flat(self.env.observation_space(params))

    def action_space(self, params: Params | None = None) -> gymnasium.spaces.Box:
        return _flat(self.env.action_space(params))

    def baselines(self, params: Params | None = None) -> dict[str, Baseline]:
        def flattened(policy: Baseline) -> Baseline:
            return lambda key, observation: policy(key, observation.reshape(self.env.observation_shape)).ravel()

        return {name: flattened(policy) for name, policy in self.env.baselines(params).items()}

    def render(self, state: State, params: Params | None = None) -> np.ndarray:
        return self.env.render(state, params)

    def prepare(self) -> None:
        self.env.prepare()

    def enlarged(self) -> Self:
        return dataclasses.replace(self, env=self.env.enlarged())

    def with_capacity(self, state: State) -> State:
        return self.env.with_capacity(state)


def centralise(env: Env) -> Env:
    """The environment as a single controller sees it; itself where its vectors are flat already."""
    flat = len(env.observation_shape) == 1 and len(env.action_shape) == 1
    return env if flat else Centralised(env)


def _flat(space: gymnasium.spaces.Box) -> gymnasium.spaces.Box:
    return gymnasium.spaces.Box(space.low.ravel(), space.high.ravel(), dtype=space.dtype.type)


# --- one entry for each agent -----------------------------------------------------------------------------------------


def agent_names(env: Env) -> tuple[str, ...]:
    """`("agent_0", "agent_1", ...)`.

    Raises:
        ValueError: for an environment without agents; the message says what one with agents is.
    """
    if env.agents is None:
        raise ValueError(
            f"{env.id!r}, task {env.task!r}, has observations {list(env.observation_shape)} and actions"
            f" {list(env.action_shape)}, so no agents; must have observations [n, m] with actions [n] or [n, a]"
        )
    return tuple(f"agent_{i}" for i in range(env.agents))


def split(env: Env, rows: Array) -> dict[str, Array]:
    """An array with a leading axis of agents as a dict by agent; one number per row becomes a vector of length 1."""
    vectors: Any = rows.reshape(len(rows), -1)
    return {name: vectors[i] for i, name in enumerate(agent_names(env))}


def join(env: Env, actions: Mapping[str, Any]) -> list[Any]:
    """The actions of all agents, in order.

    Raises:
        ValueError: for a missing or an unknown agent.
    """
    names = agent_names(env)
    odd = sorted(set(names) ^ set(actions))
    if odd:
        raise ValueError(
            f"{odd[0]!r} is {'missing from' if odd[0] in names else 'no agent, but in'} the actions; must be an"
            f" action for each of {names[0]} to {names[-1]}"
        )
    return [actions[name] for name in names]


def agent_spaces(
    env: Env, params: Params | None = None
) -> tuple[dict[str, gymnasium.spaces.Box], dict[str, gymnasium.spaces.Box]]:
    """The spaces of each agent, `(observations, actions)`; of actions always vectors."""

    def by_agent(space: gymnasium.spaces.Box) -> dict[str, gymnasium.spaces.Box]:
        low, high = split(env, space.low), split(env, space.high)
        return {name: gymnasium.spaces.Box(low[name], high[name], dtype=space.dtype.type) for name in low}

    return by_agent(env.observation_space(params)), by_agent(env.action_space(params))


@dataclasses.dataclass(frozen=True)
class AgentKeyed:
    """An environment with observations and actions as dicts by agent; pure functions, as those of `Env`.

    An agent's action is a vector, of length 1 where the environment takes one number. Reward, end of the episode and
    `info` are common to all agents; `info["final_observation"]` is a dict, too.

    Args:
        env: an environment with agents.

    Raises:
        ValueError: for an environment without agents.
    """

    env: Env

    def __post_init__(self):
        agent_names(self.env)  # refuses

    @property
    def agents(self) -> tuple[str, ...]:
        """Their names."""
        return agent_names(self.env)

    @property
    def default_params(self) -> Params:
        return self.env.default_params

    @functools.cached_property
    def observation_spaces(self) -> dict[str, gymnasium.spaces.Box]:
        return agent_spaces(self.env)[0]

    @functools.cached_property
    def action_spaces(self) -> dict[str, gymnasium.spaces.Box]:
        return agent_spaces(self.env)[1]

    def reset(self, key: jax.Array, params: Params | None = None) -> tuple[dict[str, jax.Array], State]:
        """`(observations, state)`, see `Env.reset`."""
        observation, state = self.env.reset(key, params)
        return split(self.env, observation), state

    def step_env(
        self, key: jax.Array, state: State, actions: Mapping[str, jax.Array], params: Params | None = None
    ) -> tuple[dict[str, jax.Array], State, jax.Array, jax.Array, jax.Array, Info]:
        """One transition, never resetting: `(observations, state, reward, terminated, truncated, info)`."""
        return self._keyed(self.env.step_env, key, state, actions, params)

    def step(
        self, key: jax.Array, state: State, actions: Mapping[str, jax.Array], params: Params | None = None
    ) -> tuple[dict[str, jax.Array], State, jax.Array, jax.Array, jax.Array, Info]:
        """The same, resetting in the same step where an episode ends, see `Env.step`."""
        return self._keyed(self.env.step, key, state, actions, params)

    def _keyed(
        self, step: Callable, key: jax.Array, state: State, actions: Mapping[str, jax.Array], params: Any
    ) -> Any:
        action = jnp.stack(join(self.env, actions)).reshape(self.env.action_shape)
        observation, state, reward, terminated, truncated, info = step(key, state, action, params)
        info = {**info, "final_observation": split(self.env, info["final_observation"])}
        return split(self.env, observation), state, reward, terminated, truncated, info


def key_by_agent(env: Env) -> AgentKeyed:
    """The environment with dicts by agent; raises ValueError for one without agents."""
    return AgentKeyed(env)
