"""Windows: some steps of a policy in a batch of environments, one window from where the former one ended."""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp

from dmdenv._core.pytree import Replaceable, pytree
from dmdenv.agents.base import Metrics
from dmdenv.envs.base import Env, Observation, Params, State

Act = Callable[..., tuple[jax.Array, Any]]


@pytree
class Window(Replaceable):
    """What happened in T steps of B environments; every array is `[T, B, ...]`."""

    observations: Observation  # before each step
    records: Any  # what `act` returned beside its actions
    rewards: jax.Array  # float
    next_observations: Observation  # after each step, before any reset
    terminated: jax.Array  # bool
    truncated: jax.Array  # bool
    info: Metrics  # every scalar in `info`

    @property
    def means(self) -> Metrics:
        """The mean over the window of the reward and of every scalar in `info`, []."""
        return {"reward": jnp.mean(self.rewards), **jax.tree.map(jnp.mean, self.info)}


def begin(env: Env, key: jax.Array, params: Params, *, num_envs: int, steps: int) -> tuple[State, Observation]:
    """States and observations of a batch, whose first episodes end one after the other.

    Otherwise all environments would be in the same phase of their episode, and successive updates would fit the policy
    to the start of an episode, then to its end; in flocking that costs `apg` 1 to 2 of 246 in return, for each of three
    seeds. Clocks differ by whole windows: where `max_steps` is a multiple of the window, every episode ends between two
    windows, and no gradient is cut short by a reset.

    Args:
        env: the environment.
        key: consumed.
        params: the environment's parameters.
        num_envs: B.
        steps: T, of the windows to come.

    Returns:
        `(env_states, observations)`, each leaf `[B, ...]`.
    """
    observations, env_states = jax.vmap(env.reset, (0, None))(jax.random.split(key, num_envs), params)
    time = jnp.arange(num_envs) * steps % params.max_steps
    return env_states.replace(time=time.astype(env_states.time.dtype)), observations


def run_window(
    env: Env,
    act: Act,
    env_states: State,
    observations: Observation,
    key: jax.Array,
    params: Params,
    *,
    steps: int,
    shared: Any = None,
    own: Any = None,
) -> tuple[State, Observation, Window]:
    """Run the batch for some steps; differentiable by what `act` closes over.

    Args:
        env: the environment.
        act: `act(key, observation, state) -> (action, record)` of one instance; records are kept in the window. With
            inputs it is `act(key, observation, state, shared, own)`.
        env_states: at the start, each leaf `[B, ...]`.
        observations: of these states `[B, ...]`.
        key: for policy and dynamics, consumed.
        params: the environment's parameters.
        steps: T.
        shared: inputs of each step, the same for all instances, each leaf `[T, ...]`.
        own: inputs of each step and instance, each leaf `[T, B, ...]`.

    Returns:
        `(env_states, observations, window)`: states and observations at the end, and what happened in between.
    """
    inputs = () if shared is None and own is None else (shared, own)

    def step_one(key, env_state, observation, *inputs):
        act_key, step_key = jax.random.split(key)
        action, record = act(act_key, observation, env_state, *inputs)
        next_observation, env_state, reward, terminated, truncated, info = env.step(step_key, env_state, action, params)
        final = info.pop("final_observation")
        return (env_state, next_observation), Window(observation, record, reward, final, terminated, truncated, info)

    def step_all(carry, xs):
        keys, *inputs = xs
        return jax.vmap(step_one, (0, 0, 0, None, 0)[: 3 + len(inputs)])(keys, *carry, *inputs)

    keys = jax.random.split(key, (steps, len(observations)))
    (env_states, observations), window = jax.lax.scan(step_all, (env_states, observations), (keys, *inputs))
    return env_states, observations, window


def with_capacity(env: Env, env_states: State, params: Params) -> tuple[State, Observation]:
    """States of the same environment with other static capacities as those of this one, and their observations."""
    env_states = jax.vmap(env.with_capacity)(env_states)
    return env_states, jax.vmap(env.observe, (0, None))(env_states, params)
