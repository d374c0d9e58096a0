"""Environments through the API of gymnax, for trainers in the manner of purejaxrl.

    env, env_params = make("flocking", boids=16)
    obs, state = env.reset(key, env_params)
    obs, state, reward, done, info = env.step(key, state, action, env_params)

gymnax is not needed: an environment is one by its methods. From gymnax 1.0 on `step` returns `terminated` and
`truncated` apart, before in one `done`; trainers are written for one or the other, so `make` takes both. Reference:
`gymnax.environments.environment` of gymnax 0.0.9 and of 1.0.1.
"""

import dataclasses
from typing import Any, Literal

import gymnasium
import jax
import jax.numpy as jnp

from dmdenv.envs.adapters.views import centralise
from dmdenv.envs.base import Env, Params, State
from dmdenv.envs.registry import as_env


@dataclasses.dataclass(frozen=True, eq=False)
class Box:
    """A space of arrays in JAX: what gymnax's trainers ask of one."""

    low: jax.Array
    high: jax.Array
    shape: tuple[int, ...]
    dtype: Any

    def sample(self, key: jax.Array) -> jax.Array:
        """A uniformly random member."""
        return jax.random.uniform(key, self.shape, minval=self.low, maxval=self.high).astype(self.dtype)

    def contains(self, x: jax.Array) -> jax.Array:
        """bool []: whether all values are within the bounds."""
        return jnp.all((x >= self.low) & (x <= self.high))


@dataclasses.dataclass(frozen=True)
class GymnaxEnv:
    """An environment behind gymnax's interface; pure functions, hashable.

    `info` has the environment's metrics and flags and `terminated`, `truncated`, `final_observation` (that before a
    reset) and `discount` (0 where the episode terminated, 1 elsewhere, also at a time limit): a trainer that is to
    bootstrap at time limits finds what it needs there, whatever `done` is.

    Args:
        env: the environment.
        step_values: 5, `step` returns `(obs, state, reward, done, info)`, or 6,
            `(obs, state, reward, terminated, truncated, info)`.

    Raises:
        ValueError: for another number.
    """

    env: Env
    step_values: Literal[5, 6] = 5

    def __post_init__(self):
        if self.step_values not in (5, 6):
            raise ValueError(f"step_values = {self.step_values!r}; must be 5, with one done, or 6")

    @property
    def name(self) -> str:
        return type(self.env).__name__

    @property
    def default_params(self) -> Params:
        return self.env.default_params

    @property
    def num_actions(self) -> int:
        """Length of the action, all of it counted."""
        return int(jnp.size(self.env.action_space().low))

    def reset(self, key: jax.Array, params: Params | None = None) -> tuple[jax.Array, State]:
        """The start of an episode: `(obs, state)`."""
        return self.env.reset(key, params)

    def step(self, key: jax.Array, state: State, action: jax.Array, params: Params | None = None) -> tuple[Any, ...]:
        """One transition; where it ends an episode, `obs` and `state` are those of a fresh one."""
        return self._values(self.env.step(key, state, action, params))

    def reset_env(self, key: jax.Array, params: Params) -> tuple[jax.Array, State]:
        """The same as `reset`."""
        return self.env.reset(key, params)

    def step_env(self, key: jax.Array, state: State, action: jax.Array, params: Params) -> tuple[Any, ...]:
        """One transition, never resetting."""
        return self._values(self.env.step_env(key, state, action, params))

    def observation_space(self, params: Params | None = None) -> Box:
        return _box(self.env.observation_space(params))

    def action_space(self, params: Params | None = None) -> Box:
        return _box(self.env.action_space(params))

    def _values(self, values: tuple[Any, ...]) -> tuple[Any, ...]:
        obs, state, reward, terminated, truncated, info = values
        discount = jnp.where(terminated, jnp.zeros_like(reward), jnp.ones_like(reward))
        info = {**info, "terminated": terminated, "truncated": truncated, "discount": discount}
        ends = (terminated | truncated,) if self.step_values == 5 else (terminated, truncated)
        return obs, state, reward, *ends, info


def make(
    env: str | Env, *, step_values: Literal[5, 6] = 5, flat: bool = False, **config: Any
) -> tuple[GymnaxEnv, Params]:
    """An environment and its default parameters.

    Args:
        env: an environment, or an id that `dmdenv.make_env` takes.
        step_values: 5, `step` returns one `done` as before gymnax 1.0, or 6, `terminated` and `truncated`.
        flat: observations and actions as one vector each, see `dmdenv.envs.adapters.views.centralise`.
        config: static configuration, see the environment.

    Raises:
        ValueError: for unknown names or bad values; the message says what is valid.
    """
    env = as_env(env, **config)
    adapted = GymnaxEnv(centralise(env) if flat else env, step_values)
    return adapted, adapted.default_params


def _box(space: gymnasium.spaces.Box) -> Box:
    return Box(jnp.asarray(space.low), jnp.asarray(space.high), tuple(space.shape), space.dtype)
