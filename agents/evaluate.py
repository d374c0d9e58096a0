"""Evaluation: one episode of a policy, or many side by side, from fresh states; differentiable.

The reverse derivative of an episode of T steps keeps the states between windows of about sqrt(T) steps (the largest
divisor of T up to that), and computes those within them again.
"""

import functools
import math
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from jax.core import Tracer

from dmdenv._core.fields import Whole
from dmdenv._core.pytree import Replaceable, pytree
from dmdenv.agents.base import InformedPolicy, Policy
from dmdenv.envs.acting import act
from dmdenv.envs.base import Env, Params


@pytree
class Evaluation(Replaceable):
    """Rewards and metrics of some episodes, step by step. Entries after the end of an episode are zero."""

    rewards: jax.Array  # float [episodes, steps]
    metrics: dict[str, jax.Array]  # float [episodes, steps], every scalar in `info`
    lengths: jax.Array  # int32 [episodes], steps up to the end, the last one included

    @property
    def returns(self) -> jax.Array:
        """The sum of an episode's rewards, float [episodes]."""
        return jnp.sum(self.rewards, axis=-1)

    @property
    def overflow(self) -> float:
        """The fraction of all steps in which a capacity had overflowed, on the host."""
        return float(jnp.sum(self.metrics["overflow"]) / jnp.sum(self.lengths))

    @property
    def step_means(self) -> dict[str, jax.Array]:
        """The mean of the reward and of each metric over all steps of all episodes, []: long episodes weigh more."""
        return {
            name: jnp.sum(x) / jnp.sum(self.lengths) for name, x in {"reward": self.rewards, **self.metrics}.items()
        }

    def final_means(self, steps: int) -> dict[str, jax.Array]:
        """The mean of each metric over the last `steps` steps of each episode (all of a shorter one), [episodes]."""
        time = jnp.arange(self.rewards.shape[-1])
        counted = jax.vmap(lambda end: (time < end) & (time >= end - steps))(self.lengths)
        count = jnp.sum(counted, axis=-1)
        return {name: jnp.sum(jnp.where(counted, x, 0.0), axis=-1) / count for name, x in self.metrics.items()}


def evaluate(
    env: Env,
    policy: Policy | InformedPolicy,
    key: jax.Array,
    *,
    episodes: int,
    steps: int | None = None,
    params: Params | None = None,
) -> Evaluation:
    """Run one episode of a policy in each of `episodes` environments.

    Pure: jit it with `policy`, `key` and `params` as arguments, and `episodes` and `steps` fixed. The same key gives
    the same initial states to every policy, so that policies can be compared pair by pair.

    Args:
        env: the environment.
        policy: `policy(key, observation) -> action` of one instance; one that takes more gets it, see `act`.
        key: consumed.
        episodes: how many environments.
        steps: the maximum number of steps; None for `params.max_steps`, which must then be concrete.
        params: the environment's parameters; None for `env.default_params`.

    Raises:
        ValueError: for `episodes` or `steps` below 1, or when `steps` is None and `params.max_steps` is traced.
    """
    episodes = Whole(at_least=1).convert("episodes", episodes)

    def run_one(key):
        return run_episode(env, policy, key, steps=steps, params=params, record=lambda state: None)[0]

    return jax.vmap(run_one)(jax.random.split(key, episodes))


def run_episode(
    env: Env,
    policy: Policy | InformedPolicy,
    key: jax.Array,
    *,
    steps: int | None = None,
    params: Params | None = None,
    record: Callable[[Any], Any] = lambda state: state,
) -> tuple[Evaluation, Any]:
    """Run one episode of a policy, and record its states.

    Args:
        env: the environment.
        policy: `policy(key, observation) -> action`; one that takes more gets it, see `act`.
        key: consumed.
        steps: the maximum number of steps; None for `params.max_steps`, which must then be concrete.
        params: the environment's parameters; None for `env.default_params`.
        record: what to keep of the state before each step; all of it by default.

    Returns:
        `(evaluation, records)`: the evaluation without its axis `episodes`, and each leaf of the records
        `[steps, ...]`. Records after the end of the episode are meaningless.

    Raises:
        ValueError: for `steps` below 1, or when `steps` is None and `params.max_steps` is traced.
    """
    steps = episode_steps(env, steps, params)
    params = env.default_params if params is None else params

    def step(carry, key):
        state, observation, running = carry
        policy_key, step_key = jax.random.split(key)
        action = act(policy, policy_key, observation, env, state, params)
        next_observation, next_state, reward, terminated, truncated, info = env.step_env(
            step_key, state, action, params
        )
        metrics = {name: jnp.asarray(x, reward.dtype) for name, x in info.items() if name != "final_observation"}
        reward, metrics = jax.tree.map(lambda x: jnp.where(running, x, 0.0), (reward, metrics))
        carry = (next_state, next_observation, running & ~(terminated | truncated))
        return carry, (reward, metrics, running, record(state))

    reset_key, episode_key = jax.random.split(key)
    observation, state = env.reset(reset_key, params)
    carry = (state, observation, jnp.asarray(True))
    rewards, metrics, running, records = _scan(step, carry, jax.random.split(episode_key, steps))
    return Evaluation(rewards=rewards, metrics=metrics, lengths=jnp.sum(running, dtype=jnp.int32)), records


def episode_steps(env: Env, steps: int | None, params: Params | None) -> int:
    """`steps`, or `params.max_steps` where it is None, or that of the environment where both are.

    Raises:
        ValueError: for `steps` below 1, or when `steps` is None and `params.max_steps` is traced.
    """
    if steps is None:
        with jax.ensure_compile_time_eval():  # the defaults are known while a program is traced, too
            max_steps = (env.default_params if params is None else params).max_steps
        if isinstance(max_steps, Tracer):
            raise ValueError("steps = None with a traced params.max_steps; must be an integer >= 1 there")
        steps = int(max_steps)
    return Whole(at_least=1).convert("steps", steps)


def _scan(step: Callable[[Any, jax.Array], tuple[Any, Any]], carry: Any, keys: jax.Array) -> Any:
    """The outputs of `lax.scan` over keys `[steps]`, in windows whose steps the reverse derivative computes again."""
    steps = len(keys)
    window = next(length for length in range(math.isqrt(steps), 0, -1) if steps % length == 0)

    @functools.partial(jax.checkpoint, prevent_cse=False)
    def run_window(carry, keys):
        return jax.lax.scan(step, carry, keys)

    _, outputs = jax.lax.scan(run_window, carry, keys.reshape(-1, window))
    return jax.tree.map(lambda x: x.reshape(steps, *x.shape[2:]), outputs)
