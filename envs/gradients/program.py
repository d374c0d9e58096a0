"""The compiled part of `grad_report`: episodes that are perturbed, displaced, and differentiated up to a horizon.

The horizon is dynamic: one program differentiates a loop over the longest one, in which later steps do nothing.
"""

import functools
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax.flatten_util import ravel_pytree

from dmdenv._core.control_flow import cond, scan
from dmdenv._core.pytree import Replaceable, pytree, split_floats
from dmdenv.differentiation import tangent_growth
from dmdenv.envs.acting import act
from dmdenv.envs.base import Env, Params, State

Playing = tuple[State, jax.Array]  # a state, and whether its episode goes on


@pytree
class Actions(Replaceable):
    """A sequence of actions in the place of a policy."""

    values: jax.Array  # float [steps, *action]


class Returns(NamedTuple):
    """Episodes of perturbed policies."""

    rewards: jax.Array  # float [2, directions, instances, steps]: of policies moved forward and back
    nonfinite: jax.Array  # bool, of the same shape: something was not finite up to there
    overflow: jax.Array  # bool []


class Growth(NamedTuple):
    """Episodes of the policy itself, along which a random displacement of the state grows."""

    growth: jax.Array  # float [instances, steps], by step, see `tangent_growth`
    lengths: jax.Array  # int32 [instances], steps of the episodes
    overflow: jax.Array  # bool []


class Gradients(NamedTuple):
    """Of the return up to a horizon, by instance."""

    returns: jax.Array  # float [instances]
    gradients: jax.Array  # float [instances, n]
    nonfinite: jax.Array  # bool [instances]: something was not finite in the episode


def numbers(policy: Any) -> tuple[jax.Array, Callable[[jax.Array], Any]]:
    """The floating-point numbers of a policy, `[n]`, and a policy with others."""
    floats, merge = split_floats(policy)
    flat, unravel = ravel_pytree(floats)
    return flat, lambda flat: merge(unravel(flat))


_compiled = functools.partial(jax.jit, static_argnums=(0, 1))


@_compiled
def perturb(env: Env, steps: int, params: Params, policy: Any, keys: jax.Array, changes: jax.Array) -> Returns:
    """Returns where a policy's numbers are changed by `changes`, `[directions, n]`, and by their opposite."""
    x, with_numbers = numbers(policy)

    def of_instance(change: jax.Array, key: jax.Array):
        step, start = _episode(env, params, key, with_numbers(x + change))

        def advance(playing: Playing, _: None):
            playing, reward = step(playing)
            return playing, (reward, playing[0].nonfinite)

        (state, _), (rewards, nonfinite) = scan(advance, start, None, length=steps)
        return rewards, nonfinite, state.overflow

    of_instances = jax.vmap(of_instance, (None, 0))
    rewards, nonfinite, overflow = jax.vmap(jax.vmap(of_instances, (0, None)), (0, None))(
        jnp.stack([changes, -changes]), keys
    )
    return Returns(rewards, nonfinite, jnp.any(overflow))


@_compiled
def displace(env: Env, steps: int, params: Params, policy: Any, keys: jax.Array) -> Growth:
    """Growth of a random displacement of each instance's first state."""

    def of_instance(key: jax.Array):
        episode_key, displacement_key = jax.random.split(key)
        step, start = _episode(env, params, episode_key, policy)
        (state, _), growth = tangent_growth(lambda playing: step(playing)[0], start, steps, displacement_key)
        return growth, state.time, state.overflow

    growth, lengths, overflow = jax.vmap(of_instance)(keys)
    return Growth(growth, lengths, jnp.any(overflow))


@_compiled
def differentiate(env: Env, steps: int, params: Params, policy: Any, keys: jax.Array, horizon: jax.Array) -> Gradients:
    """Gradients of the return of the first `horizon` steps by the policy's numbers, reverse mode."""
    x, with_numbers = numbers(policy)

    def episode_return(x: jax.Array, key: jax.Array) -> tuple[jax.Array, jax.Array]:
        step, start = _episode(env, params, key, with_numbers(x))

        def advance(carry: tuple[Playing, jax.Array], t: jax.Array):
            def go_on(playing: Playing, total: jax.Array):
                playing, reward = step(playing)
                return playing, total + reward

            return cond(t < horizon, go_on, lambda *carry: carry, *carry), None

        recomputed = jax.checkpoint(advance, prevent_cse=False)  # in memory of one state per step
        ((state, _), total), _ = scan(recomputed, (start, jnp.zeros(())), jnp.arange(steps))
        return total, state.nonfinite

    of_instance = jax.value_and_grad(episode_return, has_aux=True)
    (returns, nonfinite), gradients = jax.vmap(of_instance, (None, 0))(x, keys)
    return Gradients(returns, gradients, nonfinite)


def _episode(
    env: Env, params: Params, key: jax.Array, policy: Any
) -> tuple[Callable[[Playing], tuple[Playing, jax.Array]], Playing]:
    """A step function, which gives the reward as well, and the start; after its end, an episode stands still."""
    reset_key, episode_key = jax.random.split(key)

    def step(playing: Playing) -> tuple[Playing, jax.Array]:
        state, running = playing
        policy_key, step_key = jax.random.split(jax.random.fold_in(episode_key, state.time))
        if isinstance(policy, Actions):
            action = policy.values[state.time]
        else:
            action = act(policy, policy_key, env.observe(state, params), env, state, params)
        _, following, reward, terminated, truncated, _ = env.step_env(step_key, state, action, params)
        state = jax.tree.map(functools.partial(jnp.where, running), following, state)
        return (state, running & ~(terminated | truncated)), jnp.where(running, reward, 0.0)

    _, state = env.reset(reset_key, params)
    return step, (state, jnp.asarray(True))
