"""Evaluation: whole episodes, side by side, from fresh states."""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from jax.core import Tracer

from dmdenv._core.pytree import Replaceable, pytree, static
from dmdenv.agents.base import Policy
from dmdenv.envs.base import Env, Params


@pytree
class Evaluation(Replaceable):
    """What happened in a number of episodes. Entries behind the end of an episode are zero."""

    rewards: jax.Array  # float [episodes, steps]
    metrics: dict[str, jax.Array]  # float [episodes, steps], every scalar in `info`
    lengths: jax.Array  # int32 [episodes], steps up to the end, the last one included

    @property
    def returns(self) -> jax.Array:
        """The sum of an episode's rewards, float [episodes]."""
        return jnp.sum(self.rewards, axis=-1)

    @property
    def overflow(self) -> float:
        """The share of all steps in which a capacity had overflowed, on the host."""
        return float(jnp.sum(self.metrics["overflow"]) / jnp.sum(self.lengths))

    def final_means(self, steps: int) -> dict[str, jax.Array]:
        """The mean of each metric over the last `steps` steps of each episode (all of a shorter one), [episodes]."""
        time = jnp.arange(self.rewards.shape[-1])
        counted = jax.vmap(lambda end: (time < end) & (time >= end - steps))(self.lengths)
        count = jnp.sum(counted, axis=-1)
        return {name: jnp.sum(jnp.where(counted, x, 0.0), axis=-1) / count for name, x in self.metrics.items()}


def evaluate(
    env: Env, policy: Policy, key: jax.Array, *, episodes: int, steps: int | None = None, params: Params | None = None
) -> Evaluation:
    """Run a policy through one episode in each of many environments.

    Pure: jit it with `policy`, `key` and `params` as arguments, and `episodes` and `steps` fixed. The same key gives
    the same initial states to every policy, so that policies can be compared pair by pair.

    Args:
        env: the environment.
        policy: `policy(key, observation) -> action` of one instance.
        key: consumed.
        episodes: how many environments.
        steps: how many steps at most; None for `params.max_steps`, which must then be concrete.
        params: the environment's parameters; None for `env.default_params`.

    Raises:
        ValueError: for `episodes` or `steps` below 1, or when `steps` is None and `params.max_steps` is traced.
    """
    if episodes < 1:
        raise ValueError(f"episodes = {episodes!r} is not valid; valid: whole numbers from 1")

    def one(key):
        return watch(env, policy, key, steps=steps, params=params, view=lambda state: None)[0]

    return jax.vmap(one)(jax.random.split(key, episodes))


def watch(
    env: Env,
    policy: Policy,
    key: jax.Array,
    *,
    steps: int | None = None,
    params: Params | None = None,
    view: Callable[[Any], Any] = lambda state: state,
) -> tuple[Evaluation, Any]:
    """One episode, and what there was to be seen of it.

    Args:
        env: the environment.
        policy: `policy(key, observation) -> action`.
        key: consumed.
        steps: how many steps at most; None for `params.max_steps`, which must then be concrete.
        params: the environment's parameters; None for `env.default_params`.
        view: what to keep of the state before each step.

    Returns:
        `(evaluation, views)`: the evaluation without its axis `episodes`, and each leaf of the views `[steps, ...]`.
        Views behind the end of the episode mean nothing.

    Raises:
        ValueError: for `steps` below 1, or when `steps` is None and `params.max_steps` is traced.
    """
    params = env.default_params if params is None else params
    if steps is None:
        if isinstance(params.max_steps, Tracer):
            raise ValueError("steps = None needs a concrete params.max_steps, and it is traced here; pass steps")
        steps = int(params.max_steps)
    if steps < 1:
        raise ValueError(f"steps = {steps!r} is not valid; valid: whole numbers from 1")

    def step(carry, key):
        state, observation, running = carry
        policy_key, step_key = jax.random.split(key)
        action = policy(policy_key, observation)
        following = env.step_env(step_key, state, action, params)
        observation, following_state, reward, terminated, truncated, info = following
        metrics = {name: jnp.asarray(x, reward.dtype) for name, x in info.items() if name != "final_observation"}
        seen = jax.tree.map(lambda x: jnp.where(running, x, 0.0), (reward, metrics))
        return (following_state, observation, running & ~(terminated | truncated)), (*seen, running, view(state))

    reset_key, episode_key = jax.random.split(key)
    observation, state = env.reset(reset_key, params)
    carry = (state, observation, jnp.asarray(True))
    _, (rewards, metrics, running, views) = jax.lax.scan(step, carry, jax.random.split(episode_key, steps))
    return Evaluation(rewards=rewards, metrics=metrics, lengths=jnp.sum(running, dtype=jnp.int32)), views


@pytree
class ZeroPolicy(Replaceable):
    """The policy that does nothing: action zero."""

    shape: tuple[int, ...] = static()

    def __call__(self, key: jax.Array, observation: jax.Array) -> jax.Array:
        """Zeros; the key is not used."""
        return jnp.zeros(self.shape)


@pytree
class RandomPolicy(Replaceable):
    """Actions independent and uniform in [-1, 1]."""

    shape: tuple[int, ...] = static()

    def __call__(self, key: jax.Array, observation: jax.Array) -> jax.Array:
        """A fresh action for each key."""
        return jax.random.uniform(key, self.shape, minval=-1.0, maxval=1.0)


def zero_policy(env: Env) -> ZeroPolicy:
    """The policy that does nothing, for this environment."""
    return ZeroPolicy(shape=env.action_shape)


def random_policy(env: Env) -> RandomPolicy:
    """Uniform random actions, for this environment."""
    return RandomPolicy(shape=env.action_shape)
