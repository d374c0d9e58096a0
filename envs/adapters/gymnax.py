"""Environments through the API of gymnax, for its trainers and those in the manner of purejaxrl.

    env, env_params = make("flocking", boids=16)
    obs, state = env.reset(key, env_params)
    obs, state, reward, terminated, truncated, info = env.step(key, state, action, env_params)

gymnax is not needed: an environment is one by its methods. From gymnax 1.0 on `step` returns `terminated` and
`truncated` apart, before in one `done`; trainers are written for one or the other, so `make` takes both. Reference:
`gymnax.environments.environment` of gymnax 0.0.9 and of 1.0.1.
"""

import dataclasses
import functools
import importlib.metadata
from typing import Any, Literal, Self

import jax
import jax.numpy as jnp

from dmdenv.envs.adapters.spaces import box, space_of
from dmdenv.envs.adapters.views import centralise
from dmdenv.envs.base import Env, Params, State
from dmdenv.envs.registry import as_env


def installed_step_values() -> Literal[5, 6]:
    """How many values `step` returns in the gymnax that is installed; 6, as from gymnax 1.0 on, where there is none."""
    try:
        version = importlib.metadata.version("gymnax")
    except importlib.metadata.PackageNotFoundError:
        return 6
    return 5 if version.startswith("0.") else 6


@dataclasses.dataclass(
    unsafe_hash=True
)  # not frozen: wrappers of gymnax put compiled functions in place of the methods
class GymnaxEnv:
    """An environment behind gymnax's interface; pure functions, hashable.

    `info` has the environment's metrics and flags and `terminated`, `truncated`, `final_observation` (that before a
    reset) and `discount` (0 where the episode terminated, 1 elsewhere, also at a time limit): a trainer that is to
    bootstrap at time limits finds what it needs there, whatever `done` is.

    Parameters are those of the environment, whose `max_steps` has the name `max_steps_in_episode`, too. Spaces are
    gymnax's own where it is installed.

    Args:
        env: the environment.
        step_values: 5, `step` returns `(obs, state, reward, done, info)`, or 6,
            `(obs, state, reward, terminated, truncated, info)`; by default as in the gymnax that is installed.

    Raises:
        ValueError: for another number.
    """

    env: Env
    step_values: Literal[5, 6] = dataclasses.field(default_factory=installed_step_values)

    def __post_init__(self):
        if self.step_values not in (5, 6):
            raise ValueError(f"step_values = {self.step_values!r}; must be 5, with one done, or 6")

    @property
    def name(self) -> str:
        return type(self.env).__name__

    @property
    def default_params(self) -> Params:
        return _named(self.env.default_params)

    @property
    def num_actions(self) -> int:
        """Length of the action, all of it counted."""
        return int(jnp.size(self.env.action_space().low))

    def reset(self, key: jax.Array, params: Params | None = None) -> tuple[jax.Array, State]:
        """The start of an episode: `(obs, state)`."""
        return self.env.reset(key, _plain(params))

    def step(self, key: jax.Array, state: State, action: jax.Array, params: Params | None = None) -> tuple[Any, ...]:
        """One transition; where it ends an episode, `obs` and `state` are those of a fresh one."""
        obs, state, reward, terminated, truncated, info = self.env.step(
            key, state, self._action(action), _plain(params)
        )
        ends = (terminated, truncated) if self.step_values == 6 else (terminated | truncated,)
        return obs, state, reward, *ends, _with_ends(info, reward, terminated, truncated)

    def reset_env(self, key: jax.Array, params: Params) -> tuple[jax.Array, State]:
        """The same as `reset`."""
        return self.reset(key, params)

    def step_env(self, key: jax.Array, state: State, action: jax.Array, params: Params) -> tuple[Any, ...]:
        """One transition, never resetting: `(obs, state, reward, end, info)`.

        As in gymnax, `end` is `terminated`, beside which there is `is_truncated`; or `done` with 5 values of `step`.
        """
        obs, state, reward, terminated, truncated, info = self.env.step_env(
            key, state, self._action(action), _plain(params)
        )
        end = terminated if self.step_values == 6 else terminated | truncated
        return obs, state, reward, end, _with_ends(info, reward, terminated, truncated)

    def _action(self, action: jax.Array) -> jax.Array:
        """The action with the axes of length 1 that trainers such as rejax drop; any other is left to be refused."""
        shape = self.env.action_shape
        dropped = jnp.shape(action) == tuple(length for length in shape if length != 1)
        return jnp.reshape(action, shape) if dropped else action

    def is_truncated(self, state: State, params: Params) -> jax.Array:
        """bool []: whether a state is at the time limit, which a task with a finite horizon has not."""
        return (state.time >= params.max_steps) & (not self.env.finite_horizon)

    def observation_space(self, params: Params | None = None) -> Any:
        """The box of observations."""
        return box(self.env.observation_space(_plain(params)))

    def action_space(self, params: Params | None = None) -> Any:
        """The box of actions."""
        return box(self.env.action_space(_plain(params)))

    def state_space(self, params: Params | None = None) -> Any:
        """The dict of all states, by name; all finite numbers of their types."""
        self.env.prepare()
        return space_of(jax.eval_shape(self.reset, jax.random.key(0), params)[1])


def _with_ends(info: dict[str, Any], reward: jax.Array, terminated: jax.Array, truncated: jax.Array) -> dict[str, Any]:
    discount = jnp.where(terminated, jnp.zeros_like(reward), jnp.ones_like(reward))
    return {**info, "terminated": terminated, "truncated": truncated, "discount": discount}


def make(
    env: str | Env, *, step_values: Literal[5, 6] | None = None, flat: bool = False, **config: Any
) -> tuple[GymnaxEnv, Params]:
    """An environment and its default parameters.

    Args:
        env: an environment, or an id that `dmdenv.make_env` takes.
        step_values: 5, `step` returns one `done` as before gymnax 1.0, or 6, `terminated` and `truncated`; by default
            as in the gymnax that is installed.
        flat: observations and actions as one vector each, see `dmdenv.envs.adapters.views.centralise`.
        config: static configuration, see the environment.

    Raises:
        ValueError: for unknown names or bad values; the message says what is valid.
    """
    env = as_env(env, **config)
    env = centralise(env) if flat else env
    adapted = GymnaxEnv(env) if step_values is None else GymnaxEnv(env, step_values)
    return adapted, adapted.default_params


# --- parameters -------------------------------------------------------------------------------------------------------


class _Named:
    """Adds gymnax's name of the time limit to parameters."""

    max_steps: jax.Array
    _own_class: type[Params]  # that without this name

    @property
    def max_steps_in_episode(self) -> jax.Array:
        """int []: `max_steps`."""
        return self.max_steps.astype(int)

    def replace(self, **changes: Any) -> Self:
        if "max_steps_in_episode" in changes:
            if "max_steps" in changes:
                raise ValueError("max_steps_in_episode beside max_steps; must be one of them, as they are the same")
            changes["max_steps"] = changes.pop("max_steps_in_episode")
        return super().replace(**changes)  # pyright: ignore[reportAttributeAccessIssue] - of the class beside this one

    def __reduce__(self):
        return _named, (_plain(self),)


@functools.cache
def _named_class(cls: type[Params]) -> type[Params]:
    return type(cls.__name__, (_Named, cls), {"__module__": cls.__module__, "__doc__": cls.__doc__, "_own_class": cls})


def _named(params: Params) -> Params:
    """Parameters with gymnax's name of the time limit."""
    return _named_class(type(params))(**vars(params))


def _plain(params: Any) -> Any:
    """Parameters as the environment's own class."""
    return params._own_class(**vars(params)) if isinstance(params, _Named) else params
